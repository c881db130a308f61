//! The peer is a plain TCP client on this machine.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::{Attestor, Conversation};
use super::*;

fn attestor(port: u16, advertised_port: Option<u16>) -> Attestor {
    let hostname = Some("node.example".to_owned());
    HttpChallenge { hostname, agent_name: "default".into(), port, advertised_port }.into()
}

async fn begin() -> (Conversation, u16) {
    let mut conversation = attestor(0, None).begin().await.unwrap();
    let payload: Value = serde_json::from_slice(&conversation.payload()).unwrap();
    let port = payload["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap();
    assert_ne!(port, 0);
    assert_eq!(payload, json!({"hostname": "node.example", "agentname": "default", "port": port}));
    (conversation, port)
}

async fn send(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    rest(stream).await
}

/// All that is sent until the connection is closed or reset.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        answer.push(byte);
    }
    String::from_utf8(answer).unwrap()
}

async fn request(port: u16, method: &str, path: &str) -> (String, String) {
    let answer = send(port, format!("{method} {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

const PATH: &str = "/.well-known/spiffe/nodeattestor/http_challenge/default/challenge";
const FOUND: &str = "200";
const NOT_FOUND: &str = "404";

#[tokio::test]
async fn the_nonce_is_served_at_its_path_while_the_conversation_lasts() {
    let (mut conversation, port) = begin().await;
    assert_eq!(request(port, "GET", PATH).await, (NOT_FOUND.into(), String::new()), "not known yet");
    let response = conversation.answer(br#"{"nonce":"abc="}"#).await.unwrap();
    assert_eq!(*response, b"\n");
    for (method, path, expected) in [
        ("GET", PATH, (FOUND, "abc=\n")),
        ("GET", &*format!("{PATH}?a=b"), (FOUND, "abc=\n")),
        ("HEAD", PATH, (FOUND, "")),
        ("POST", PATH, (FOUND, "abc=\n")),
        ("GET", "/", (NOT_FOUND, "")),
        ("GET", &*format!("{PATH}/"), (NOT_FOUND, "")),
        ("GET", &*PATH.replace("default", "other"), (NOT_FOUND, "")),
        ("OPTIONS", "*", (NOT_FOUND, "")),
    ] {
        let (status, body) = request(port, method, path).await;
        assert_eq!((&*status, &*body), expected, "{method} {path}");
    }
    let again = conversation.answer(br#"{"nonce":"def="}"#).await;
    assert!(matches!(again, Err(NodeError::UnexpectedChallenge(NAME))));
    drop(conversation);
    tokio::task::yield_now().await;
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    // The same port serves the next attestation, and answers over IPv4 as well.
    let mut conversation = attestor(port, None).begin().await.unwrap();
    conversation.answer(br#"{"nonce":"ghi="}"#).await.unwrap();
    assert_eq!(request(port, "GET", PATH).await, (FOUND.into(), "ghi=\n".into()));
}

#[tokio::test]
async fn a_challenge_without_a_nonce_is_an_error() {
    for challenge in ["", "{}", "[]", r#"{"nonce":1}"#] {
        let (mut conversation, _) = begin().await;
        let answer = conversation.answer(challenge.as_bytes()).await;
        assert!(matches!(answer, Err(NodeError::Challenge { name: NAME, .. })), "{challenge}");
    }
}

#[tokio::test]
async fn the_payload_has_the_advertised_port_and_the_name_of_the_system() {
    let mut conversation = attestor(0, Some(80)).begin().await.unwrap();
    let payload = String::from_utf8(conversation.payload().to_vec()).unwrap();
    assert_eq!(payload, r#"{"hostname":"node.example","agentname":"default","port":80}"#);
    let unnamed = HttpChallenge { hostname: None, agent_name: "a".into(), port: 0, advertised_port: None };
    let (payload, _server) = unnamed.begin().unwrap();
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(payload["hostname"], name.trim_end());
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_another_attempt_may_mend() {
    let (_conversation, port) = begin().await;
    let reason = attestor(port, None).begin().await.unwrap_err();
    assert!(!reason.is_final());
    let expected =
        format!("nodeattestor(http_challenge): could not listen on port {port}: Address already in use");
    assert!(reason.to_string().starts_with(&expected), "{reason}");
}

#[tokio::test]
async fn strangers_do_not_keep_the_server_out() {
    let (mut conversation, port) = begin().await;
    conversation.answer(br#"{"nonce":"abc="}"#).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    assert_eq!(request(port, "GET", PATH).await, (FOUND.into(), "abc=\n".into()));
    for stream in idle.drain(..=CONNECTIONS) {
        assert_eq!(rest(stream).await, "", "the oldest are closed");
    }
}

#[tokio::test]
async fn hostile_requests_are_ended() {
    let (mut conversation, port) = begin().await;
    conversation.answer(br#"{"nonce":"abc="}"#).await.unwrap();
    let long = format!("GET {PATH} HTTP/1.1\r\nA: {}", "x".repeat(4 * HEAD_BYTES));
    let many = format!("GET {PATH} HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(1_000));
    let twice = format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(2);
    let body = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\nx");
    for (sent, expected) in [
        (long.as_bytes(), 0),
        (many.as_bytes(), 0),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
        (b"\0\xff\r\n\r\n", 0),
        (twice.as_bytes(), 1),
        (body.as_bytes(), 1),
    ] {
        let answer = send(port, sent).await;
        assert_eq!(answer.matches("abc=").count(), expected, "{answer}");
    }
    assert_eq!(request(port, "GET", PATH).await, (FOUND.into(), "abc=\n".into()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_in_time() {
    let (_conversation, port) = begin().await;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    assert_eq!(rest(stream).await, "");
}
