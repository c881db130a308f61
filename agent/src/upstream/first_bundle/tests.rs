//! Servers on Unix sockets and in memory.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::UnixListener;

use super::get::{Way, get};
use super::*;
use crate::upstream::web_tls::Stream;

fn pem() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::new(vec!["ca".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn settings(keys: &str) -> config::Settings {
    let text = format!(
        "agent {{ trust_domain = \"td\" server_address = \"server\" server_port = 8081 {keys} }} plugins {{ }}"
    );
    config::Settings::load(&text, &config::Overrides::default(), &|_| unreachable!("no files")).unwrap()
}

async fn fetched(source: &TrustBundleSource, number: i64, is_rebootstrap: bool) -> Result<Roots, String> {
    let trust_domain = &TrustDomain::parse("td").unwrap();
    let (start, server_address) = ("2026-01-01T00:00:00Z", "server");
    fetch(source, &Attempt { is_rebootstrap, number, start, server_address, server_port: 8081, trust_domain })
        .await
}

/// Reads one request.
async fn heard(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn a_server_on_a_unix_socket_is_told_about_the_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let keys = format!(
        "trust_bundle_unix_socket = \"{}\" trust_bundle_url = \"http://host:80/b?z=1&a=%20\"",
        socket.display()
    );
    let source = settings(&keys).trust_bundle;
    let absent = fetched(&source, 1, false).await.unwrap_err();
    let named =
        format!("trust_bundle_url http://host:80/b at trust_bundle_unix_socket {}: ", socket.display());
    assert!(absent.starts_with(&named) && absent.contains("No such file"), "{absent}");
    let listener = UnixListener::bind(&socket).unwrap();
    let pem = pem();
    let serve = async |response: String| {
        let mut stream = listener.accept().await.unwrap().0;
        let request = heard(&mut stream).await;
        stream.write_all(response.as_bytes()).await.unwrap();
        request
    };
    let (request, roots) = tokio::join!(serve(answer("200 OK", "", &pem)), fetched(&source, 3, false));
    let expected = "GET /b?a=+&spiffe-trust-domain=td&spire-attest-mode=bootstrap\
        &spire-attest-start-time=2026-01-01T00%3A00%3A00Z&spire-connection-attempts=3\
        &spire-server-address=server&spire-server-port=8081&z=1 HTTP/1.1\r\nhost: host:80\r\n";
    assert!(request.starts_with(expected), "{request}");
    assert!(matches!(roots, Ok(Roots::Bundle(bundle)) if bundle.x509_pem() == pem));
    let (request, reason) = tokio::join!(serve(answer("200 OK", "", "")), fetched(&source, 1, true));
    assert!(request.contains("&spire-attest-mode=rebootstrap&"), "{request}");
    assert_eq!(reason.unwrap_err(), named + "not PEM: expected one or more CERTIFICATE blocks");
}

/// Answers the requests one by one, and keeps them.
#[derive(Default)]
struct Fake {
    answers: Mutex<Vec<String>>,
    requests: Arc<Mutex<Vec<String>>>,
    open: Mutex<Vec<DuplexStream>>,
}

impl Way for Fake {
    const SCHEME: &'static str = "https";

    async fn connect(&self, url: &Url) -> io::Result<Stream> {
        let (ours, mut theirs) = duplex(256 * 1024);
        let answer = self.answers.lock().unwrap().pop();
        let Some(answer) = answer else {
            self.open.lock().unwrap().push(theirs);
            return Ok(Box::new(ours));
        };
        let (requests, host) = (Arc::clone(&self.requests), url.host.clone());
        tokio::spawn(async move {
            let request = heard(&mut theirs).await;
            requests.lock().unwrap().push(format!("{host} {request}"));
            // The client may have turned away before.
            let _ = theirs.write_all(answer.as_bytes()).await;
        });
        Ok(Box::new(ours))
    }
}

async fn from(url: &str, answers: &[String]) -> (Result<Bytes, String>, Vec<String>) {
    let answers = Mutex::new(answers.iter().rev().cloned().collect());
    let fake = Fake { answers, ..Fake::default() };
    let got = get(&fake, Url::parse(url).unwrap()).await;
    let requests = std::mem::take(&mut *fake.requests.lock().unwrap());
    (got, requests)
}

#[tokio::test]
async fn a_request_says_where_and_who() {
    let ok = answer("200 OK", "", "x");
    for (url, expected) in [
        ("https://host", "host GET / HTTP/1.1\r\nhost: host\r\nuser-agent: finial/"),
        ("https://host:/a b?c d#e", "host: GET /a%20b?c%20d HTTP/1.1\r\nhost: host\r\n"),
        ("https://[::1]:8443/%7e\u{e4}", "[::1]:8443 GET /%7e%C3%A4 HTTP/1.1\r\nhost: [::1]:8443\r\n"),
    ] {
        let (got, requests) = from(url, std::slice::from_ref(&ok)).await;
        assert_eq!(got.unwrap(), "x");
        assert!(requests[0].starts_with(expected), "{requests:?}");
        assert!(!requests[0].contains("authorization"), "{requests:?}");
    }
    let (_, requests) = from("https://me:p%40ss@host/", &[ok]).await;
    assert!(requests[0].contains("authorization: Basic bWU6cEBzcw==\r\n"), "{requests:?}");
}

#[tokio::test]
async fn redirections_are_followed_but_not_to_plain_http() {
    let to = |location: &str| answer("302 Found", &format!("Location: {location}\r\n"), "moved");
    let ok = answer("200 OK", "", "x");
    for (location, expected) in [
        ("https://other/b?c", "other GET /b?c "),
        ("//other/b", "other GET /b "),
        ("/b", "host GET /b "),
        ("b", "host GET /a/b "),
        ("?b", "host GET /a/x?b "),
    ] {
        let (got, requests) = from("https://me@host/a/x?y", &[to(location), ok.clone()]).await;
        assert_eq!(got.unwrap(), "x");
        assert!(requests[1].starts_with(expected), "{location}: {requests:?}");
        let is_same_host = expected.starts_with("host");
        assert_eq!(requests[1].contains("authorization"), is_same_host, "{location}: {requests:?}");
    }
    for location in ["http://host/b", "ftp://host/", "https:///b"] {
        let (got, requests) = from("https://host/", &[to(location), ok.clone()]).await;
        let expected = "redirected to a URL that does not start with https://";
        assert_eq!((got.unwrap_err(), requests.len()), (expected.to_owned(), 1), "{location}");
    }
    let (got, requests) = from("https://host/", &vec![to("/"); 12]).await;
    assert_eq!((got.unwrap_err(), requests.len()), ("stopped after 10 redirects".to_owned(), 11));
    let (got, _) = from("https://host/", &[answer("301 Moved Permanently", "", "")]).await;
    assert_eq!(got.unwrap_err(), "301 response missing Location header");
}

#[tokio::test(start_paused = true)]
async fn what_a_server_may_do_is_bounded() {
    let long = "x".repeat(1024 * 1024);
    for (response, expected) in [
        (answer("404 Not Found", "", "no"), "error downloading trust bundle: 404 Not Found"),
        (answer("204 No Content", "", ""), "error downloading trust bundle: 204 No Content"),
        (answer("304 Not Modified", "", ""), "error downloading trust bundle: 304 Not Modified"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx".to_owned(),
            "error reading a body from connection: end of file before message length reached",
        ),
        (answer("200 OK", "", &"x".repeat(BUNDLE_BYTES + 1)), "length limit exceeded"),
        (answer("200 OK", &format!("A: {long}\r\n"), ""), "message head is too large"),
        ("nonsense\r\n\r\n".to_owned(), "invalid HTTP version parsed"),
        (String::new(), "connection closed before message completed"),
    ] {
        let (got, _) = from("https://host/", &[response]).await;
        assert_eq!(got.unwrap_err(), expected);
    }
    // It never answers.
    let before = tokio::time::Instant::now();
    let (got, _) = from("https://host/", &[]).await;
    assert_eq!(got.unwrap_err(), "no answer within 30s");
    assert_eq!(before.elapsed(), Duration::from_secs(30));
}
