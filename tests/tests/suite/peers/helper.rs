//! spiffe-helper, which keeps what the Workload API gives in files for programs that can only read files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dev::Options;
use libtest_mimic::Trial;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use tokio::process::Command;

use super::super::jwt::part;
use super::programs::{Program, following, pinned};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with("spiffe_helper_writes_files_and_rewrites_them", pinned("spiffe-helper"), files)]
}

async fn files(program: PathBuf) {
    // A token is fetched anew after half of its life and a second.
    let (server, agent) =
        following(Options { jwt_svid_ttl: Duration::from_secs(6), ..Options::default() }).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = Files(folder.path());
    let conf = folder.path().join("helper.conf");
    std::fs::write(&conf, files.conf(&agent.wait_for_socket().await)).expect("written");
    let mut helper = Program::start("spiffe-helper", Command::new(program).arg("-config").arg(conf));
    helper.prints_all(&[X509, TOKEN, KEYS]).await;
    let authorities = || server.bundle_pem().replace('\r', "");
    let (svid, token) = (files.svid(), files.token());
    assert_eq!(files.text("bundle.pem"), authorities());
    assert_eq!(files.key_ids(), [part(&token, 0)["kid"].clone()]);

    server.rotate_jwt_key();
    rewritten(&mut helper, KEYS, || files.key_ids().len() == 2).await;
    server.prepare_ca();
    rewritten(&mut helper, X509, || files.text("bundle.pem") == authorities()).await;
    server.rotate_ca();
    server.taint_old_cas();
    rewritten(&mut helper, X509, || files.svid() != svid).await;
    server.forget_old_cas();
    rewritten(&mut helper, X509, || files.text("bundle.pem") == authorities()).await;
    assert_eq!(authorities().matches("BEGIN CERTIFICATE").count(), 1);
    rewritten(&mut helper, TOKEN, || files.token() != token).await;
    let next = part(&files.token(), 0)["kid"].clone();
    assert!(next != part(&token, 0)["kid"] && files.key_ids().contains(&next));
    assert!(helper.runs());
}

/// Waits until the helper has written files with which this holds.
async fn rewritten(helper: &mut Program, line: &str, holds: impl Fn() -> bool) {
    loop {
        helper.prints(line).await;
        if holds() {
            return;
        }
    }
}

/// The folder of the helper's files.
struct Files<'a>(&'a Path);

impl Files<'_> {
    fn conf(&self, agent: &Path) -> String {
        format!(
            "agent_address = \"{}\"\ncert_dir = \"{}\"\ndaemon_mode = true\nsvid_file_name = \"svid.pem\"\n\
             svid_key_file_name = \"key.pem\"\nsvid_bundle_file_name = \"bundle.pem\"\n\
             jwt_svids = [{{ jwt_audience = \"helper\", jwt_svid_file_name = \"token\" }}]\n\
             jwt_bundle_file_name = \"keys.json\"\n",
            agent.display(),
            self.0.display()
        )
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect("written")
    }

    /// The certificate, which is that of the key in the other file.
    fn svid(&self) -> CertificateDer<'static> {
        let certificates = CertificateDer::pem_file_iter(self.0.join("svid.pem")).expect("written");
        let chain: Vec<_> = certificates.collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_file(self.0.join("key.pem")).expect("PEM");
        let leaf = chain[0].clone();
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).expect("they belong together");
        let id = b"spiffe://example.org/web";
        assert!(leaf.windows(id.len()).any(|part| part == id));
        leaf
    }

    fn token(&self) -> String {
        let token = self.text("token");
        let claims = part(&token, 1);
        assert_eq!(claims["sub"], "spiffe://example.org/web");
        assert_eq!(claims["aud"], serde_json::json!(["helper"]));
        token
    }

    /// The IDs of the keys of the own trust domain, of which alone there are keys.
    fn key_ids(&self) -> Vec<Value> {
        let all: Value = serde_json::from_str(&self.text("keys.json")).expect("JSON");
        assert_eq!(all.as_object().map(serde_json::Map::len), Some(1));
        let own = STANDARD.decode(all["example.org"].as_str().expect("a text")).expect("base64");
        let own: Value = serde_json::from_slice(&own).expect("JSON");
        own["keys"].as_array().expect("a list").iter().map(|key| key["kid"].clone()).collect()
    }
}

const X509: &str = "X.509 certificates updated";
const TOKEN: &str = "JWT SVID updated";
const KEYS: &str = "JWT bundle updated";
