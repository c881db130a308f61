//! Node attestation by `x509pop` at the real server, of finial and of the real agent: with certificates of another
//! authority and each kind of key, and with the SVID that a parent agent issues.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use harness::{Agent, Conf, build_finial, needs, x509_svid};
use libtest_mimic::Trial;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SignatureAlgorithm,
};
use tokio::time::Instant;

use super::super::ids;
use super::spire_server::SpireServer;
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let server = needs("SPIRE_SERVER", "spire-server");
    let agent = needs("SPIRE_AGENT", "spire-agent");
    let both = server.and_then(|server| Ok((server, agent?)));
    vec![
        trial_with("real_server_attests_by_x509pop_of_another_authority", both.clone(), another_authority),
        trial_with("real_server_attests_by_x509pop_of_another_agents_svid", both, another_agents_svid),
    ]
}

/// A root, an intermediate of it, and the signer with the intermediate's key.
pub(super) struct Pki {
    root: String,
    intermediate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let (root_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let root = params.clone().self_signed(&root_key).expect("signed").pem();
        let root_issuer = Issuer::new(params.clone(), root_key);
        params.distinguished_name.push(rcgen::DnType::CommonName, "intermediate");
        let intermediate = params.clone().signed_by(&key, &root_issuer).expect("signed").pem();
        Self { root, intermediate, issuer: Issuer::new(params, key) }
    }

    /// Writes the authorities. Returns the server's plugin that trusts them.
    pub(super) fn server_plugin(&self, folder: &Path) -> String {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text);
        write("root.pem", &self.root)
            .and_then(|()| write("intermediate.pem", &self.intermediate))
            .expect("written");
        let place = folder.display();
        format!("NodeAttestor \"x509pop\" {{ plugin_data {{ ca_bundle_path = \"{place}/root.pem\" }} }}")
    }

    /// Writes a certificate and its key. Returns the agent's plugin that shows them.
    pub(super) fn agent_plugin(
        &self,
        folder: &Path,
        name: &str,
        algorithm: &'static SignatureAlgorithm,
    ) -> String {
        self.write(folder, name, algorithm);
        let place = folder.display();
        format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{ private_key_path = \"{place}/{name}.key\" \
             certificate_path = \"{place}/{name}.crt\" intermediates_path = \"{place}/intermediate.pem\" }} }}"
        )
    }

    /// Writes a certificate and its key.
    fn write(&self, folder: &Path, name: &str, algorithm: &'static SignatureAlgorithm) {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        let write = |kind: &str, text: &str| std::fs::write(folder.join(format!("{name}.{kind}")), text);
        write("crt", &certificate).and_then(|()| write("key", &key.serialize_pem())).expect("written");
    }
}

async fn another_authority((server, real): (PathBuf, PathBuf)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pki = Pki::new();
    let server = SpireServer::start_with(&server, &pki.server_plugin(folder.path())).await;
    let kinds = [
        ("rsa", &rcgen::PKCS_RSA_SHA256),
        ("p256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("p384", &rcgen::PKCS_ECDSA_P384_SHA384),
    ];
    for (program, whose) in [(build_finial(), "finial"), (real, "real")] {
        for (kind, algorithm) in kinds {
            let name = format!("{whose}-{kind}");
            let (mut conf, _) = server.agent("").await;
            conf.join_token = None;
            conf.node_attestor = Some(pki.agent_plugin(folder.path(), &name, algorithm));
            attests_and_again(&program, &server, &conf, "/x509pop/").await;
        }
    }
}

async fn another_agents_svid((server, real): (PathBuf, PathBuf)) {
    let plugin = "NodeAttestor \"x509pop\" { plugin_data { mode = \"spiffe\" } }";
    let server = SpireServer::start_with(&server, plugin).await;
    let (conf, id) = server.agent("").await;
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    server.register("spire-exchange/node", &id, &uid).await;
    let parent = Agent::start(&conf);
    let socket = parent.wait_for_socket().await;
    served(&parent, "spiffe://example.org/spire-exchange/node").await;
    for program in [build_finial(), real] {
        let (mut conf, _) = server.agent("").await;
        conf.join_token = None;
        conf.node_attestor = Some(format!(
            "NodeAttestor \"x509pop\" {{ plugin_data {{ spiffe_endpoint_socket = \"unix://{}\" }} }}",
            socket.display()
        ));
        attests_and_again(&program, &server, &conf, "/x509pop/node").await;
    }
}

/// The agent attests, serves, is evicted, attests again in the same process, and serves a new entry.
async fn attests_and_again(program: &Path, server: &SpireServer, conf: &Conf, path: &str) {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let agent = Agent::start_program(program, conf, folder);
    agent.wait_for_socket().await;
    let id = attested(&agent, server, path).await;
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let name = id.rsplit('/').next().expect("a path").to_owned();
    server.register(&name, &id, &uid).await;
    served(&agent, &format!("spiffe://example.org/{name}")).await;
    server.evict(&id).await;
    let late = format!("late-{name}");
    server.register(&late, &id, &uid).await;
    served(&agent, &format!("spiffe://example.org/{late}")).await;
    assert_eq!(attested(&agent, server, path).await, id);
    assert_eq!(agent.stop().await.code, Some(0));
    server.evict(&id).await;
}

/// Waits until the server has an agent with this text in its SPIFFE ID, and returns the ID.
pub(super) async fn attested(agent: &Agent, server: &SpireServer, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(id) = server.agents().await.into_iter().find(|id| id.contains(path)) {
            return id;
        }
        assert!(Instant::now() < deadline, "{}", agent.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until this SPIFFE ID is served.
async fn served(agent: &Agent, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let outcome = match x509_svid(&agent.socket()).await {
            Ok(mut stream) => stream.message().await,
            Err(status) => Err(status),
        };
        match outcome {
            Ok(Some(response)) if ids(&response).contains(&id) => return,
            outcome => assert!(Instant::now() < deadline, "{outcome:?}\n{}", agent.log()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
