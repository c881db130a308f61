use serde_json::Value;
use tokio::io::duplex;

use super::*;

/// The table that Go made (`tests/peers/go/proxies`).
#[test]
fn the_proxy_is_chosen_as_by_go() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("../../../testdata/proxies.json")).unwrap();
    assert!(rows.len() > 100);
    let mut differences = Vec::new();
    for row in &rows {
        let variable = |name: &str| Some(row["environment"].get(name)?.as_str()?.to_owned());
        let (host, port) = (row["host"].as_str().unwrap(), row["port"].as_str().unwrap());
        let proxy = Proxy::of(&variable, host, port.parse().unwrap());
        let ours =
            proxy.map(|p| (p.is_secure, p.host, p.port.to_string(), p.authorization.unwrap_or_default()));
        let go = row["proxy"].as_object().map(|p| {
            let text = |name: &str| p[name].as_str().unwrap().to_owned();
            (text("scheme") == "https", text("host"), text("port"), text("authorization"))
        });
        if ours != go {
            differences.push(format!("{row}\n  ours: {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

fn proxy(url: &str) -> Proxy {
    Proxy::parse(url).unwrap()
}

/// What the proxy is sent, when it answers this.
async fn tunnel(proxy: Proxy, host: &str, answer: &str) -> (String, io::Result<Stream>) {
    let (ours, mut theirs) = duplex(4096);
    theirs.write_all(answer.as_bytes()).await.unwrap();
    let stream = proxy.tunnel(ours, host, 8081).await;
    let mut sent = vec![0; 4096];
    let length = theirs.read(&mut sent).await.unwrap();
    (String::from_utf8_lossy(&sent[..length]).into_owned(), stream)
}

#[tokio::test]
async fn the_proxy_is_asked_for_a_tunnel() {
    let answer = "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nbehind";
    let (sent, stream) = tunnel(proxy("http://user:p%40w@proxy"), "fd00::1", answer).await;
    let expected = "CONNECT [fd00::1]:8081 HTTP/1.1\r\nHost: [fd00::1]:8081\r\nProxy-Authorization: Basic \
                    dXNlcjpwQHc=\r\n\r\n";
    assert_eq!(sent, expected);
    let mut behind = [0; 6];
    stream.unwrap().read_exact(&mut behind).await.unwrap();
    assert_eq!(&behind, b"behind");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named_without_its_password() {
    let answer = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
    let (_, stream) = tunnel(proxy("http://user:secret@proxy:3128"), "server", answer).await;
    let reason = stream.err().unwrap().to_string();
    assert_eq!(reason, "proxy proxy:3128 answers 407 to CONNECT");
}

/// As spire-agent speaks to it, but no password is told.
#[tokio::test]
async fn a_proxy_without_tls_is_spoken_to_in_plain_text() {
    for (url, may_be_plain) in [("https://127.0.0.1:1", true), ("https://user:pw@127.0.0.1:1", false)] {
        let (ours, mut theirs) = duplex(4096);
        theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let proxy = proxy(url);
        let reason = proxy.secure(ours).await.err().unwrap();
        assert_eq!(proxy.may_be_plain(&reason), may_be_plain, "{reason}");
    }
}
