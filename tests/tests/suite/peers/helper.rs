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
    let bundle = || (files.text("bundle.pem") == authorities()).then_some(());
    let keys = || {
        let mut wanted = server.jwt_key_ids();
        wanted.sort();
        (files.key_ids()? == wanted).then_some(())
    };
    let signer = |token: &str| part(token, 0)["kid"].as_str().map(str::to_owned);
    let svid = written(&mut helper, X509, || files.svid()).await;
    let token = written(&mut helper, TOKEN, || files.token()).await;
    written(&mut helper, X509, bundle).await;
    written(&mut helper, KEYS, keys).await;
    assert_eq!(signer(&token), server.jwt_key_ids().pop());

    server.rotate_jwt_key();
    written(&mut helper, KEYS, keys).await;
    server.prepare_ca();
    written(&mut helper, X509, bundle).await;
    server.rotate_ca();
    server.taint_old_cas();
    written(&mut helper, X509, || files.svid().filter(|now| *now != svid)).await;
    server.forget_old_cas();
    written(&mut helper, X509, bundle).await;
    assert_eq!(authorities().matches("BEGIN CERTIFICATE").count(), 1);
    let next = written(&mut helper, TOKEN, || files.token().filter(|now| *now != token)).await;
    assert_eq!(signer(&next), server.jwt_key_ids().pop());
    assert!(helper.runs());
}

/// Waits until the files give a value. The helper rewrites each in its place, so a file may be seen while it is not
/// whole; when it is, a line follows.
async fn written<T>(helper: &mut Program, line: &str, value: impl Fn() -> Option<T>) -> T {
    loop {
        if let Some(value) = value() {
            return value;
        }
        helper.prints(line).await;
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

    /// The certificate; `None` while it is not that of the key in the other file.
    fn svid(&self) -> Option<CertificateDer<'static>> {
        let leaf = CertificateDer::from_pem_file(self.0.join("svid.pem")).ok()?;
        let key = PrivateKeyDer::from_pem_file(self.0.join("key.pem")).ok()?;
        CertifiedKey::from_der(vec![leaf.clone()], key, &aws_lc_rs::default_provider()).ok()?;
        let id = b"spiffe://example.org/web";
        assert!(leaf.windows(id.len()).any(|part| part == id));
        Some(leaf)
    }

    /// The token; `None` while the file is empty.
    fn token(&self) -> Option<String> {
        let token = Some(self.text("token")).filter(|token| !token.is_empty())?;
        let claims = part(&token, 1);
        assert_eq!(claims["sub"], "spiffe://example.org/web");
        assert_eq!(claims["aud"], serde_json::json!(["helper"]));
        Some(token)
    }

    /// The IDs of the keys of the own trust domain, of which alone there are keys, in their order; `None` while the file
    /// is not whole.
    fn key_ids(&self) -> Option<Vec<String>> {
        let all: Value = serde_json::from_str(&self.text("keys.json")).ok()?;
        assert_eq!(all.as_object().map(serde_json::Map::len), Some(1));
        let own = STANDARD.decode(all["example.org"].as_str().expect("a text")).expect("base64");
        let own: Value = serde_json::from_slice(&own).expect("JSON");
        let id = |key: &Value| key["kid"].as_str().expect("a text").to_owned();
        let mut ids: Vec<_> = own["keys"].as_array().expect("a list").iter().map(id).collect();
        ids.sort();
        Some(ids)
    }
}

const X509: &str = "X.509 certificates updated";
const TOKEN: &str = "JWT SVID updated";
const KEYS: &str = "JWT bundle updated";
