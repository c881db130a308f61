//! How an agent comes to trust the server: every source of the first bundle, of finial and of the real agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dev::Server;
use harness::{Agent, Conf, build_finial, needs, skipped, trial};
use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{register, server};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("bundle_of_a_url", || bundle_of_a_url(build_finial())),
        trial("bundle_of_a_url_through_a_proxy", || bundle_of_a_url_through_a_proxy(build_finial())),
        trial("bundle_of_a_unix_socket", || bundle_of_a_unix_socket(build_finial())),
        trial("bundle_of_a_workload_api", || bundle_of_a_workload_api(build_finial())),
        trial("bundle_of_a_unix_socket_is_asked_for_anew_in_mode_auto", rebootstrap_by_a_unix_socket),
        trial("stored_bundle_of_another_authority_is_replaced_in_mode_auto", stored_bundle_is_replaced),
        trial("svid_without_a_bundle_is_an_error_under_insecure_bootstrap", || {
            svid_without_a_bundle(build_finial())
        }),
        trial("stale_bundle_file_is_named_once", stale_bundle_file_is_named_once),
    ];
    match needs("SPIRE_AGENT", "spire-agent") {
        Ok(real) => {
            let [url, proxy, socket, api, insecure] = std::array::from_fn(|_| real.clone());
            trials.extend([
                trial("bundle_of_a_url_for_the_real_agent", || bundle_of_a_url(url)),
                trial("bundle_of_a_url_through_a_proxy_for_the_real_agent", || {
                    bundle_of_a_url_through_a_proxy(proxy)
                }),
                trial("bundle_of_a_unix_socket_for_the_real_agent", || bundle_of_a_unix_socket(socket)),
                trial("bundle_of_a_workload_api_for_the_real_agent", || bundle_of_a_workload_api(api)),
                trial("svid_without_a_bundle_is_an_error_for_the_real_agent", || {
                    svid_without_a_bundle(insecure)
                }),
            ]);
        }
        Err(reason) => trials.push(skipped("sources_of_the_bundle_for_the_real_agent", &reason)),
    }
    trials
}

/// Answers requests, each on a connection of its own, and keeps what they ask for.
#[derive(Clone)]
struct Bundles {
    /// Makes the answer to the request of this number, from 0.
    answer: Arc<dyn Fn(usize) -> String + Send + Sync>,
    asked: watch::Sender<Vec<String>>,
}

impl Bundles {
    fn new(answer: impl Fn(usize) -> String + Send + Sync + 'static) -> Self {
        Self { answer: Arc::new(answer), asked: watch::Sender::default() }
    }

    /// What the requests have asked for, when there are so many.
    async fn asked(&self, times: usize) -> Vec<String> {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|asked| asked.len() >= times).await.expect("it serves").clone()
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Some(request) = head(&mut stream).await else { return };
        let number = self.asked.borrow().len();
        let answer = (self.answer)(number);
        self.asked.send_modify(|asked| asked.push(request.split(' ').nth(1).unwrap_or_default().to_owned()));
        // The client may be gone by then.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// Reads the head of a request.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(request).ok()
}

fn http(status: &str, header: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{header}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Serves `https://HOST:PORT`, and returns the port. The certificate of the authority goes to `ca`. A request for a
/// tunnel to that host is granted first.
async fn serve_tls(bundles: Bundles, host: &'static str, ca: &Path) -> u16 {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    std::fs::write(ca, params.self_signed(&ca_key).expect("signed").pem()).expect("written");
    let issuer = Issuer::new(params, ca_key);
    let leaf = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &issuer).expect("signed").der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bound");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut first = [0];
            if stream.peek(&mut first).await.is_ok() && first == *b"C" {
                let request = head(&mut stream).await.unwrap_or_default();
                assert!(request.starts_with(&format!("CONNECT {host}:443 ")), "{request}");
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
            }
            if let Ok(stream) = acceptor.accept(stream).await {
                bundles.serve(stream).await;
            }
        }
    });
    port
}

fn serve_socket(bundles: Bundles, path: &Path) {
    let listener = UnixListener::bind(path).expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            bundles.serve(stream).await;
        }
    });
}

/// A configuration with these keys as the only source.
fn with_source(conf: Conf, keys: &str) -> Conf {
    Conf { agent: format!("trust_bundle_path = \"\"\n {keys}"), bundle: None, ..conf }
}

fn start(program: &Path, conf: &Conf) -> Agent {
    Agent::start_program(program, conf, Arc::new(tempfile::tempdir().expect("a temporary folder")))
}

/// By flags: the URL of a server that is not ready, and then redirects.
async fn bundle_of_a_url(program: PathBuf) {
    let server = server().await;
    let bundle = server.bundle_spiffe_json();
    let bundles = Bundles::new(move |number| match number {
        0 => http("503 Service Unavailable", "", "later"),
        1 => http("302 Found", "Location: /b\r\n", ""),
        _ => http("200 OK", "", &bundle),
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ca = folder.path().join("ca.pem");
    let port = serve_tls(bundles.clone(), "localhost", &ca).await;
    let flags =
        format!("-trustBundleUrl='https://localhost:{port}/a?token=secret' -trustBundleFormat=spiffe");
    let conf = Conf {
        environment: vec![("SSL_CERT_FILE", ca)],
        shell: Some(format!("exec \"$0\" \"$@\" {flags}")),
        ..with_source(Conf::join_token(&server), "")
    };
    let is_finial = program == build_finial();
    let mut agent = start(&program, &conf);
    agent.logged("Node attestation was successful").await;
    assert_eq!(bundles.asked(3).await, ["/a?token=secret", "/a?token=secret", "/b"]);
    assert!(agent.log().contains("503 Service Unavailable"), "{}", agent.log());
    assert!(!is_finial || !agent.log().contains("secret"), "{}", agent.log());
}

/// The server has no address that the agent could find.
async fn bundle_of_a_url_through_a_proxy(program: PathBuf) {
    let server = server().await;
    let bundle = server.bundle_pem();
    let bundles = Bundles::new(move |_| http("200 OK", "", &bundle));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ca = folder.path().join("ca.pem");
    let proxy = serve_tls(bundles.clone(), "bundles.invalid", &ca).await;
    let proxy = PathBuf::from(format!("http://127.0.0.1:{proxy}"));
    let conf = with_source(Conf::join_token(&server), "trust_bundle_url = \"https://bundles.invalid/b\"");
    let conf = Conf { environment: vec![("SSL_CERT_FILE", ca), ("HTTPS_PROXY", proxy)], ..conf };
    let mut agent = start(&program, &conf);
    agent.logged("Node attestation was successful").await;
    assert_eq!(bundles.asked(1).await, ["/b"]);
}

/// The query with another start time, and that of the request.
fn masked(asked: &str) -> (String, String) {
    let (before, rest) = asked.split_once("spire-attest-start-time=").expect("a start time");
    let (start, after) = rest.split_once('&').expect("more parameters");
    (format!("{before}spire-attest-start-time=T&{after}"), start.to_owned())
}

fn parameters(server: &Server, mode: &str, attempt: u32) -> String {
    let (address, port) = (server.address().ip(), server.address().port());
    format!(
        "/b?a=b+c&spiffe-trust-domain=example.org&spire-attest-mode={mode}&spire-attest-start-time=T\
         &spire-connection-attempts={attempt}&spire-server-address={address}&spire-server-port={port}&z=1"
    )
}

async fn bundle_of_a_unix_socket(program: PathBuf) {
    let server = server().await;
    let bundle = server.bundle_pem();
    let bundles = Bundles::new(move |number| match number {
        0 => http("500 Internal Server Error", "", "later"),
        _ => http("200 OK", "", &bundle),
    });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("bundles.sock");
    serve_socket(bundles.clone(), &socket);
    let conf = with_source(Conf::join_token(&server), &socket_source(&socket));
    let mut agent = start(&program, &conf);
    agent.logged("Node attestation was successful").await;
    let asked: Vec<_> = bundles.asked(2).await.iter().map(|asked| masked(asked)).collect();
    assert_eq!(asked[0].0, parameters(&server, "bootstrap", 1));
    assert_eq!(asked[1].0, parameters(&server, "bootstrap", 2));
    assert_eq!(asked[0].1, asked[1].1, "the attempts began at one time");
    assert_eq!(asked[0].1.len(), "2026-01-01T00%3A00%3A00Z".len(), "{}", asked[0].1);
    assert_eq!(asked.len(), 2);
}

fn socket_source(socket: &Path) -> String {
    format!(
        "trust_bundle_unix_socket = \"{}\"\n trust_bundle_url = \"http://localhost/b?z=1&a=b%20c\"",
        socket.display()
    )
}

async fn rebootstrap_by_a_unix_socket() {
    let server = Arc::new(server().await);
    let current = Arc::clone(&server);
    let bundles = Bundles::new(move |_| http("200 OK", "", &current.bundle_pem()));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("bundles.sock");
    serve_socket(bundles.clone(), &socket);
    let keys =
        "experimental { sync_interval = \"200ms\" } rebootstrap_mode = \"auto\" rebootstrap_delay = \"1s\"";
    let keys = format!("{}\n {keys}", socket_source(&socket));
    let mut agent = Agent::start(&with_source(Conf::psat(&server), &keys));
    agent.logged("Agent is ready").await;
    server.fault(dev::Fault::Down).await;
    server.rotate_ca();
    server.forget_old_cas();
    server.fault(dev::Fault::None).await;
    agent.logged_times("Node attestation was successful", 2).await;
    let asked = bundles.asked(2).await;
    assert_eq!(masked(&asked[0]).0, parameters(&server, "bootstrap", 1));
    assert_eq!(masked(&asked[1]).0, parameters(&server, "rebootstrap", 1));
}

/// The agent waits for the other one, which starts later.
async fn bundle_of_a_workload_api(program: PathBuf) {
    let server = server().await;
    let parent_folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let source = format!(
        "trust_bundle_spiffe_workload_api = \"unix://{}/api.sock\"\n trust_bundle_format = \"spiffe\"",
        parent_folder.path().display()
    );
    let mut agent = start(&program, &with_source(Conf::join_token(&server), &source));
    agent.logged("o such file").await;
    let parent = Conf::join_token(&server);
    register(&server, parent.join_token.as_deref().unwrap_or_default(), "node");
    let _parent = Agent::start_in(&parent, parent_folder);
    agent.logged("Node attestation was successful").await;
}

/// The agent has a bundle that authenticates nobody any more, and no SVID.
async fn stored_bundle_is_replaced() {
    let server = server().await;
    let keys = "rebootstrap_mode = \"auto\" rebootstrap_delay = \"0s\"";
    let conf = Conf { agent: keys.into(), disk_keys: true, ..Conf::psat(&server) };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let folder = agent.folder();
    assert_eq!(agent.stop().await.code, Some(0));
    edit(&folder.path().join("data/agent-data.json"), "svid");
    server.fault(dev::Fault::Down).await;
    server.rotate_ca();
    server.forget_old_cas();
    server.fault(dev::Fault::None).await;
    let conf = Conf { bundle: Some(server.bundle_pem()), ..conf };
    let mut agent = Agent::start_in(&conf, folder);
    agent.logged("Agent is ready").await;
}

/// Sets a field of a JSON file to null.
fn edit(path: &Path, field: &str) {
    let text = std::fs::read_to_string(path).expect("read");
    let mut data: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    data[field] = serde_json::Value::Null;
    std::fs::write(path, data.to_string()).expect("written");
}

async fn svid_without_a_bundle(program: PathBuf) {
    let server = server().await;
    let conf = Conf { disk_keys: true, ..Conf::join_token(&server) };
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    std::fs::create_dir(folder.path().join("keys")).expect("created");
    let agent = Agent::start_program(&program, &conf, Arc::clone(&folder));
    agent.wait_for_socket().await;
    server.counted(|counters| counters.syncs > 0).await;
    assert_eq!(agent.stop().await.code, Some(0));
    edit(&folder.path().join("data/agent-data.json"), "bundle");
    let conf = with_source(conf, "insecure_bootstrap = true");
    let mut agent = Agent::start_program(&program, &conf, folder);
    agent.logged("SVID loaded but no bundle in cache").await;
    if program == build_finial() {
        assert_eq!(agent.exited().await.code, Some(1));
    }
    assert_eq!(server.counters().attested, 1);
}

async fn stale_bundle_file_is_named_once() {
    let server = server().await;
    let keys = "experimental { sync_interval = \"200ms\" }";
    let conf = Conf { agent: keys.into(), disk_keys: true, ..Conf::join_token(&server) };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let stale = "The trust bundle file is stale";
    // Both authorities are in the bundle, so the file still helps.
    server.rotate_ca();
    let syncs = server.counters().syncs;
    server.counted(|counters| counters.syncs >= syncs + 2).await;
    assert!(!agent.log().contains(stale), "{}", agent.log());
    server.forget_old_cas();
    agent.logged(stale).await;
    // Another change of the bundle, which is no news about the file.
    server.prepare_ca();
    let syncs = server.counters().syncs;
    server.counted(|counters| counters.syncs >= syncs + 3).await;
    let folder = agent.folder();
    let exit = agent.stop().await;
    assert_eq!(exit.log.matches(stale).count(), 1, "{}", exit.log);
    // A restart finds it in the stored bundle, and goes on all the same.
    let mut agent = Agent::start_in(&Conf { join_token: None, ..conf }, Arc::clone(&folder));
    agent.logged(stale).await;
    agent.logged("Agent is ready").await;
    std::fs::write(agent.path("bundle"), server.bundle_pem()).expect("written");
    // The prepared authority signs, and another one is prepared.
    server.rotate_ca();
    server.prepare_ca();
    agent.logged("The trust bundle file is up to date again").await;
}
