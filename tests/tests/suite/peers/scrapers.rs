//! The listener for Prometheus over TLS, at finial and at the real agent: which clients it lets in. The client is curl.

use std::path::{Path, PathBuf};

use harness::{Agent, needs, x509_svid};
use libtest_mimic::Trial;
use proto::workload::X509svid;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::process::Command;

use super::agents::{Agents, Attestors, Running, entry, real_programs};
use super::trial_with;

type Programs = Option<(PathBuf, PathBuf)>;

pub(super) fn trials() -> Vec<Trial> {
    let curl = needs("CURL", "curl");
    let both = curl.clone().and_then(|curl| Ok((curl, Some(real_programs()?))));
    let finial = curl.map(|curl| (curl, None));
    let suffix = "_and_at_the_real_agent";
    let named = |name: &str, suffix: &str| format!("metrics_over_tls_{name}_at_finial{suffix}");
    vec![
        trial_with(&named("by_spiffe_id", ""), finial.clone(), by_spiffe_id),
        trial_with(&named("by_spiffe_id", suffix), both.clone(), by_spiffe_id),
        trial_with(&named("by_authority", ""), finial.clone(), by_authority),
        trial_with(&named("by_authority", suffix), both.clone(), by_authority),
        trial_with(&named("for_anyone", ""), finial, for_anyone),
        trial_with(&named("for_anyone", suffix), both, for_anyone),
    ]
}

/// The agent shows its SVID and lets one identity in.
async fn by_spiffe_id((curl, programs): (PathBuf, Programs)) {
    let prometheus =
        "tls { use_spire_svid = true authorized_spiffe_ids = [\"spiffe://example.org/scraper\"] }";
    let mut agents = start(programs, prometheus.to_owned()).await;
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    agents.create(&[entry("scraper", [&*uid]), entry("other", [&*uid])]).await;
    for running in &agents.all {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for svid in svids(&running.agent).await {
            let name = svid.spiffe_id.rsplit('/').next().expect("a name");
            write(&folder, &format!("{name}.crt"), &svid.x509_svid);
            write(&folder, &format!("{name}.key"), &svid.x509_svid_key);
        }
        certificate(&folder, "stranger", None);
        let scrape = Scrape { curl: &curl, folder: &folder, running, host: "127.0.0.1" };
        // An SVID has no name of a host, so its chain is not checked by curl.
        assert!(scrape.succeeds(&["-k"], Some(("scraper", "DER"))).await);
        assert!(!scrape.succeeds(&["-k"], Some(("other", "DER"))).await, "{}: another ID", running.whose);
        assert!(!scrape.succeeds(&["-k"], Some(("stranger", "PEM"))).await, "{}: no SVID", running.whose);
        assert!(!scrape.succeeds(&["-k"], None).await, "{}: no certificate", running.whose);
        assert!(!scrape.over_plain_http().await, "{}: plain HTTP", running.whose);
        assert!(scrape.succeeds(&["-k"], Some(("scraper", "DER"))).await);
    }
}

/// The agent shows a certificate of files and lets in who has one of the authority.
async fn by_authority((curl, programs): (PathBuf, Programs)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ca, another) = (authority(&folder, "ca"), authority(&folder, "another"));
    certificate(&folder, "server", Some(&ca));
    certificate(&folder, "scraper", Some(&ca));
    certificate(&folder, "other", Some(&another));
    let agents = start(programs, by_files(&folder, "client_ca_file = \"FOLDER/ca.crt\"")).await;
    let file = folder.path().join("ca.crt");
    let trusting = ["--cacert", file.to_str().expect("text")];
    for running in &agents.all {
        let scrape = Scrape { curl: &curl, folder: &folder, running, host: "localhost" };
        assert!(scrape.succeeds(&trusting, Some(("scraper", "PEM"))).await);
        assert!(!scrape.succeeds(&trusting, Some(("other", "PEM"))).await, "{}: another CA", running.whose);
        assert!(!scrape.succeeds(&trusting, None).await, "{}: no certificate", running.whose);
    }
}

/// The agent shows a certificate of files, which is replaced while it runs.
async fn for_anyone((curl, programs): (PathBuf, Programs)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (first, second) = (authority(&folder, "first"), authority(&folder, "second"));
    certificate(&folder, "server", Some(&first));
    let agents = start(programs, by_files(&folder, "")).await;
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (first_file, second_file) = (path("first.crt"), path("second.crt"));
    for running in &agents.all {
        let scrape = Scrape { curl: &curl, folder: &folder, running, host: "localhost" };
        assert!(scrape.succeeds(&["--cacert", &first_file], None).await);
        assert!(!scrape.succeeds(&["--cacert", &second_file], None).await);
    }
    certificate(&folder, "server", Some(&second));
    for running in agents.all.iter().filter(|running| running.whose == "finial") {
        let scrape = Scrape { curl: &curl, folder: &folder, running, host: "localhost" };
        assert!(scrape.succeeds(&["--cacert", &second_file], None).await);
    }
}

async fn start(programs: Programs, prometheus: String) -> Agents {
    let mut usual = Attestors::usual();
    usual.prometheus = prometheus;
    match programs {
        Some(programs) => Agents::both_by(programs, &usual).await,
        None => Agents::finial_by(&usual).await,
    }
}

fn by_files(folder: &TempDir, clients: &str) -> String {
    let block =
        format!("tls {{ cert_file = \"FOLDER/server.crt\" key_file = \"FOLDER/server.key\" {clients} }}");
    block.replace("FOLDER", folder.path().to_str().expect("text"))
}

async fn svids(agent: &Agent) -> Vec<X509svid> {
    let mut stream = x509_svid(&agent.socket()).await.expect("a stream");
    loop {
        let response = stream.message().await.expect("a response").expect("a response");
        // The real agent may answer before it has both.
        if response.svids.len() == 2 {
            return response.svids;
        }
    }
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) {
    std::fs::write(folder.path().join(name), bytes).expect("written");
}

/// Writes an authority of its own name to a file.
fn authority(folder: &TempDir, name: &str) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    write(folder, &format!("{name}.crt"), params.self_signed(&key).expect("signed").pem().as_bytes());
    Issuer::new(params, key)
}

/// Writes a certificate of localhost and its key. Without an issuer it signs itself.
fn certificate(folder: &TempDir, name: &str, issuer: Option<&Issuer<'static, KeyPair>>) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    write(folder, &format!("{name}.crt"), certificate.expect("signed").pem().as_bytes());
    write(folder, &format!("{name}.key"), key.serialize_pem().as_bytes());
}

/// Calls of curl.
struct Scrape<'a> {
    curl: &'a Path,
    /// Where the client's certificates are.
    folder: &'a TempDir,
    running: &'a Running,
    host: &'a str,
}

impl Scrape<'_> {
    /// Whether the agent answers with metrics.
    async fn succeeds(&self, options: &[&str], certificate: Option<(&str, &str)>) -> bool {
        let mut command = Command::new(self.curl);
        command.args(options);
        if let Some((name, form)) = certificate {
            let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
            command.arg("--cert").arg(file("crt")).arg("--key").arg(file("key"));
            command.args(["--cert-type", form, "--key-type", form]);
        }
        self.ask(command, "https").await
    }

    async fn over_plain_http(&self) -> bool {
        self.ask(Command::new(self.curl), "http").await
    }

    async fn ask(&self, mut command: Command, scheme: &str) -> bool {
        let url = format!("{scheme}://{}:{}/metrics", self.host, self.running.metrics);
        // Both agents listen at 127.0.0.1 alone.
        let output = command.args(["-4", "-s", "-S", "-f", "--noproxy", "*", &url]).output().await;
        let output = output.expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout);
        eprintln!("{}: {}", self.running.whose, String::from_utf8_lossy(&output.stderr).trim());
        output.status.success() && text.contains("spire_agent_")
    }
}
