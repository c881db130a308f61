//! Authorities of the real server are prepared, activated, tainted and revoked while two Envoys send each request over
//! a new TLS connection. Runs with finial and with the real agent, which is the oracle.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use harness::{Agent, Conf, build_finial, envoy_program, needs};
use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::Instant;

use super::attesting::{attested, served, start};
use super::clients;
use super::mesh::{BY_PATH, Mesh, Pair};
use super::real::complaints;
use super::spire_server::SpireServer;
use super::trial_with;
use super::x509pop::Pki;

pub(super) fn trials() -> Vec<Trial> {
    let needed = || {
        Ok((needs("SPIRE_SERVER", "spire-server")?, needs("SPIRE_AGENT", "spire-agent")?, envoy_program()?))
    };
    vec![
        trial_with("real_server_replaces_its_authorities_under_envoys", needed(), by_join_token),
        trial_with("real_server_replaces_its_authorities_under_envoys_x509pop", needed(), by_x509pop),
        trial_with("real_server_replaces_its_upstream_authority_under_envoys", needed(), upstream),
        trial_with("real_server_replaces_its_jwt_authority_under_a_client", with_go(), jwt),
    ]
}

type Programs = (PathBuf, PathBuf, PathBuf);

fn with_go() -> Result<Programs, String> {
    Ok((needs("SPIRE_SERVER", "spire-server")?, needs("SPIRE_AGENT", "spire-agent")?, clients::go("go")?))
}

/// A client fetches tokens all the time, and validates each by the bundles that it follows.
async fn jwt((server, real, go): Programs) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let follow = folder.path().join("follow");
    clients::build(go, "go", "./follow", &follow).await;
    for program in [build_finial(), real] {
        let server = SpireServer::start(&server).await;
        let (conf, parent) = server.agent("").await;
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        server.register("web", &parent, &uid).await;
        let mut agent = start(&program, &conf);
        agent.wait_for_socket().await;
        served(&agent, "spiffe://example.org/web").await;
        let mut client = Command::new(&follow);
        client.arg(agent.socket()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut client = client.spawn().expect("it starts");
        let mut printed = BufReader::new(client.stdout.take().expect("piped")).lines();
        assert_eq!(printed.next_line().await.expect("read").as_deref(), Some("following"));
        let old = server.shown("jwt", "active", "authority_id").await;
        server.ask(&["localauthority", "jwt", "prepare"]).await;
        let new = server.shown("jwt", "prepared", "authority_id").await;
        // The agent has the new key when it serves an entry of later.
        for (step, authority) in [("prepare", ""), ("activate", &*new), ("taint", &old), ("revoke", &old)] {
            if !authority.is_empty() {
                server.ask(&["localauthority", "jwt", step, "-authorityID", authority]).await;
            }
            server.register(step, &parent, &uid).await;
            served(&agent, &format!("spiffe://example.org/{step}")).await;
        }
        agent.logged("JWT-SVIDs were removed from the JWT cache").await;
        drop(client.stdin.take());
        let result = printed.next_line().await.expect("read").expect("a line");
        let whose = program.file_name().unwrap_or_default().display();
        eprintln!("{whose}: {result}");
        assert!(whose.to_string() != "finial" || result.ends_with(" of 2 keys, 0 refused"), "{result}");
    }
}

async fn by_join_token((server, real, envoy): Programs) {
    for program in [build_finial(), real] {
        let server = SpireServer::start(&server).await;
        let (conf, parent) = server.agent(BY_PATH).await;
        let world = World::new(server, &program, &conf, &parent, &envoy).await;
        world.replaces_jwt_and_x509().await;
    }
}

async fn by_x509pop((server, real, envoy): Programs) {
    for program in [build_finial(), real] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::new();
        let server = SpireServer::start_with(&server, &pki.server_plugin(folder.path())).await;
        let (mut conf, _) = server.agent(BY_PATH).await;
        conf.join_token = None;
        conf.node_attestor = Some(pki.agent_plugin(folder.path(), "node", &rcgen::PKCS_ECDSA_P256_SHA256));
        // Its SPIFFE ID is known when it has attested.
        let own = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let agent = Agent::start_program(&program, &conf, Arc::clone(&own));
        agent.wait_for_socket().await;
        let parent = attested(&agent, &server, "/x509pop/").await;
        let world = World::around(server, &program, agent, &parent, &envoy).await;
        world.replaces_jwt_and_x509().await;
    }
}

async fn upstream((server, real, envoy): Programs) {
    for program in [build_finial(), real] {
        let root = Root::new();
        let server = SpireServer::start_with(&server, &root.plugin()).await;
        let (conf, parent) = server.agent(BY_PATH).await;
        let world = World::new(server, &program, &conf, &parent, &envoy).await;
        let (before, old) = world
            .while_they_talk(async || {
                let old = world.server.shown("x509", "active", "upstream_authority_subject_key_id").await;
                root.replace();
                world.prepare_and_activate("x509").await;
                let before = world.pair.serials().await;
                world.server.ask(&["upstreamauthority", "taint", "-subjectKeyID", &old]).await;
                (before, old)
            })
            .await;
        world
            .while_they_talk(async || {
                world.replaced(&before, "taint of the upstream authority").await;
                world.server.ask(&["upstreamauthority", "revoke", "-subjectKeyID", &old]).await;
                world.lives_on("late").await;
            })
            .await;
        assert_eq!(complaints(&world.agent), "");
    }
}

/// A server, an agent, and two Envoys that talk.
struct World {
    whose: String,
    server: SpireServer,
    agent: Agent,
    parent: String,
    pair: Pair,
}

impl World {
    async fn new(server: SpireServer, program: &Path, conf: &Conf, parent: &str, envoy: &Path) -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let agent = Agent::start_program(program, conf, folder);
        agent.wait_for_socket().await;
        Self::around(server, program, agent, parent, envoy).await
    }

    async fn around(server: SpireServer, program: &Path, agent: Agent, parent: &str, envoy: &Path) -> Self {
        let whose = program.file_name().unwrap_or_default().display().to_string();
        let mesh = Mesh::new(envoy, &agent);
        for name in ["frontend", "backend"] {
            server.register(name, parent, &mesh.selector(name)).await;
        }
        let pair = mesh.pair().await;
        Self { whose, server, agent, parent: parent.to_owned(), pair }
    }

    /// Every operation, on JWT authorities and then on X.509 ones.
    async fn replaces_jwt_and_x509(&self) {
        self.while_they_talk(async || {
            let old = self.prepare_and_activate("jwt").await;
            self.order("jwt", "taint", &old).await;
            self.order("jwt", "revoke", &old).await;
        })
        .await;
        self.while_they_talk(async || {
            let old = self.prepare_and_activate("x509").await;
            let before = self.pair.serials().await;
            self.order("x509", "taint", &old).await;
            self.replaced(&before, "taint").await;
            self.order("x509", "revoke", &old).await;
            self.lives_on("late").await;
        })
        .await;
        assert_eq!(complaints(&self.agent), "");
    }

    /// Runs `steps` while the Envoys talk, of which no request may fail.
    async fn while_they_talk<T>(&self, steps: impl AsyncFnOnce() -> T) -> T {
        let (figures, result) = self.pair.drive_during(steps).await;
        assert!(figures.failures.is_empty(), "{figures:?}\n{}", self.agent.log());
        let requests = figures.requests;
        eprintln!("{}: {requests} requests in {:.1} s, none failed", self.whose, figures.seconds);
        result
    }

    /// Makes a new authority active. Returns the ID of the old one.
    async fn prepare_and_activate(&self, kind: &str) -> String {
        let old = self.server.shown(kind, "active", "authority_id").await;
        self.server.ask(&["localauthority", kind, "prepare"]).await;
        let new = self.server.shown(kind, "prepared", "authority_id").await;
        self.order(kind, "activate", &new).await;
        old
    }

    async fn order(&self, kind: &str, what: &str, authority: &str) {
        self.server.ask(&["localauthority", kind, what, "-authorityID", authority]).await;
    }

    /// Waits until both Envoys have certificates other than these.
    async fn replaced(&self, before: &[String; 2], after: &str) {
        let start = Instant::now();
        self.pair.replaced(before, &[0, 1]).await;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{}: both have other certificates {seconds:.1} s after the {after}", self.whose);
    }

    /// The agent still follows the server: it serves a new entry.
    async fn lives_on(&self, name: &str) {
        self.server.register(name, &self.parent, &format!("unix:uid:{}", nix::unistd::getuid())).await;
        served(&self.agent, &format!("spiffe://example.org/{name}")).await;
    }
}

/// A root on the disk of the server that signs the server's own authority (UpstreamAuthority `disk`).
struct Root {
    folder: TempDir,
}

impl Root {
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        this.replace();
        this
    }

    /// Puts a new root into the place of the old one. The server reads it when it prepares an authority.
    fn replace(&self) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("signed").pem();
        let write = |name: &str, text: &str| std::fs::write(self.folder.path().join(name), text);
        write("root.crt", &certificate)
            .and_then(|()| write("root.key", &key.serialize_pem()))
            .expect("written");
    }

    fn plugin(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "UpstreamAuthority \"disk\" {{ plugin_data {{ cert_file_path = \"{folder}/root.crt\" \
             key_file_path = \"{folder}/root.key\" }} }}"
        )
    }
}
