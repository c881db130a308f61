//! Node attestation by `x509pop` at the real server, of finial and of the real agent: with certificates of another
//! authority and each kind of key, and with the SVID that a parent agent issues.

use std::path::{Path, PathBuf};

use harness::{build_finial, needs};
use libtest_mimic::Trial;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SignatureAlgorithm,
};

use super::attesting::{attests_and_again, served, start};
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
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    for (parent, children) in
        [(build_finial(), vec![build_finial(), real.clone()]), (real, vec![build_finial()])]
    {
        let (conf, id) = server.agent("").await;
        server.register("spire-exchange/node", &id, &uid).await;
        let parent = start(&parent, &conf);
        let socket = parent.wait_for_socket().await;
        served(&parent, "spiffe://example.org/spire-exchange/node").await;
        for child in children {
            let (mut conf, _) = server.agent("").await;
            conf.join_token = None;
            conf.node_attestor = Some(format!(
                "NodeAttestor \"x509pop\" {{ plugin_data {{ spiffe_endpoint_socket = \"unix://{}\" }} }}",
                socket.display()
            ));
            attests_and_again(&child, &server, &conf, "/x509pop/node").await;
        }
    }
}
