//! A real server whose authority is signed by intermediates of a private root (UpstreamAuthority `disk`). finial and the
//! real agent are agents of that one server. Their workloads talk to each other, and their chains are compared.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use harness::{Sidecar, build_finial};
use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::time::Instant;

use super::attesting::served;
use super::command_lines::fetch_x509;
use super::crossing::Crossing;
use super::followed::{Seen, intermediates};
use super::levels::{Level, Programs};
use super::mesh::{BACKEND, FRONTEND, Mesh, Pair};
use super::spire_server::{Options, SpireServer};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with(
        "real_server_below_intermediates_of_a_private_root",
        Programs::found(),
        below_intermediates,
    )]
}

async fn below_intermediates(programs: Programs) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cross = programs.build_cross(folder.path()).await;
    let ca = PrivateCa::new();
    let plugin = ca.plugin();
    // SVIDs are replaced every few seconds: SPIRE cannot taint an authority that is no root.
    let options = Options { plugins: &plugin, svid_ttl: "20s", cache: Some("1s"), ..Options::default() };
    let server = SpireServer::start_of(&programs.server, &options).await;
    let finial = Level::start(&build_finial(), &server, &cross, &[]).await;
    let real = Level::start(&programs.agent, &server, &cross, &[]).await;
    let mut agents = [finial, real];
    let before = chains(&server, &agents).await;
    assert_eq!(agents[0].followed.seen().x509, agents[1].followed.seen().x509);
    assert_eq!(agents[0].followed.seen().x509[DOMAIN], [ca.root()]);
    let crossing = Crossing::start(&cross, &[&agents[0].agent, &agents[1].agent]).await;
    let pair = pair(&programs.envoy, &server, &agents).await;
    let (figures, ()) = pair
        .drive_during(async || {
            ca.replace();
            change(&server, &mut agents, &pair).await;
        })
        .await;
    let after = chains(&server, &agents).await;
    assert!(after.iter().all(|one| !before.contains(one)));
    let crossed = crossing.end().await;
    eprintln!("{} requests in {:.1} s; {crossed}", figures.requests, figures.seconds);
    assert!(figures.failures.is_empty(), "{figures:?}");
    assert_eq!(crossed["refused"], 0);
    for (level, given) in agents.iter().zip(crossed["agents"].as_array().expect("a list")) {
        // The leaf, the server's authority, and the intermediates.
        assert_eq!(given["chain"], 4);
        level.is_quiet("below intermediates");
        commands(&server, level, &[build_finial(), programs.agent.clone()]).await;
    }
}

/// The commands of both programs show the intermediates, and write them.
async fn commands(server: &SpireServer, level: &Level, programs: &[PathBuf; 2]) {
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    // It must not be replaced between two commands.
    server.register_with("command", &level.parent, &uid, &["-x509SVIDTTL", "3600"]).await;
    served(&level.agent, &server.id("command")).await;
    let printed = fetch_x509(programs, &level.agent.socket()).await;
    assert!(printed.contains("Intermediate #3 Valid After:"), "{printed}");
}

/// The intermediates of both agents, which are the same.
async fn chains(server: &SpireServer, agents: &[Level; 2]) -> Vec<Vec<u8>> {
    let id = server.id("probe");
    let finial = intermediates(&agents[0].agent, &id).await;
    let real = intermediates(&agents[1].agent, &id).await;
    assert_eq!(finial.len(), 3);
    assert_eq!(finial, real);
    finial
}

/// The server gets an authority from the new intermediates, and all chains follow.
async fn change(server: &SpireServer, agents: &mut [Level; 2], pair: &Pair) {
    server.order(&["prepare"]).await;
    let new = server.authority("prepared").await;
    for level in agents.iter_mut() {
        level.followed.until("both roots", |seen| seen.authorities(DOMAIN) == 2).await;
    }
    server.order(&["activate", "-authorityID", &new]).await;
    let begun = Instant::now();
    let old = agents.each_ref().map(|level| level.followed.seen().chain[1..].to_vec());
    let serials = pair.serials().await;
    let followed = agents.iter_mut().zip(&old).map(async |(level, old)| {
        let replaced = |seen: &Seen| seen.chain.iter().all(|one| !old.contains(one));
        level.followed.until("the new intermediates", replaced).await;
        let whose = if level.is_finial { "finial" } else { "spire-agent" };
        eprintln!("{whose}: the new chain {:.1} s after the activation", begun.elapsed().as_secs_f64());
    });
    join_all(followed).await;
    pair.replaced(&serials, &[0, 1]).await;
}

/// A frontend of finial's that calls a backend of the real agent's.
async fn pair(envoy: &Path, server: &SpireServer, agents: &[Level; 2]) -> Pair {
    let meshes = agents.each_ref().map(|level| Mesh::new(envoy, &level.agent));
    for (name, level, mesh) in [("frontend", &agents[0], &meshes[0]), ("backend", &agents[1], &meshes[1])] {
        server.register(name, &level.parent, &mesh.selector(name)).await;
    }
    let backend = meshes[1].backend("frontend").await;
    let upstream = Some(("backend", backend.port().await));
    let frontend = meshes[0].start(Sidecar { upstream, ..meshes[0].sidecar("frontend") }).await;
    Pair::new([frontend, backend], [FRONTEND, BACKEND]).await
}

/// The files of a root and of two intermediates below it. SPIRE has the key of the lower one.
struct PrivateCa {
    folder: TempDir,
}

impl PrivateCa {
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        this.replace();
        this
    }

    /// Puts new ones into the place of the old ones. The server reads them when it prepares an authority.
    fn replace(&self) {
        let key = || KeyPair::generate().expect("a key");
        let (root_key, upper_key, lower_key) = (key(), key(), key());
        let root = params("root").self_signed(&root_key).expect("signed");
        let issuer = Issuer::new(params("root"), root_key);
        let upper = params("upper").signed_by(&upper_key, &issuer).expect("signed");
        let issuer = Issuer::new(params("upper"), upper_key);
        let lower = params("lower").signed_by(&lower_key, &issuer).expect("signed");
        let write = |name: &str, bytes: &[u8]| std::fs::write(self.folder.path().join(name), bytes);
        write("root.der", root.der())
            .and_then(|()| write("root.crt", root.pem().as_bytes()))
            .and_then(|()| write("chain.crt", (lower.pem() + &upper.pem()).as_bytes()))
            .and_then(|()| write("lower.key", lower_key.serialize_pem().as_bytes()))
            .expect("written");
    }

    /// The present root.
    fn root(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("root.der")).expect("written")
    }

    fn plugin(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "UpstreamAuthority \"disk\" {{ plugin_data {{ cert_file_path = \"{folder}/chain.crt\" \
             key_file_path = \"{folder}/lower.key\" bundle_file_path = \"{folder}/root.crt\" }} }}"
        )
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

const DOMAIN: &str = "spiffe://example.org";
