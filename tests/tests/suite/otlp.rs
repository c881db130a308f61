//! The OTLP sink at receivers that are of no use: one that is busy, one that refuses, and one that never answers.

use std::collections::BTreeSet;

use harness::{Agent, Conf, trial, x509_svid};
use libtest_mimic::Trial;
use prost::Message as _;
use proto::otlp::collector_logs::ExportLogsServiceRequest;
use proto::otlp::common::any_value::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::{register, server};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("otlp_receiver_that_is_busy_gets_the_same_again", busy),
        trial("otlp_receiver_that_refuses_is_told_what_is_missing", refusing),
        trial("otlp_receiver_that_never_answers_holds_nobody_up", silent),
    ]
}

async fn busy() {
    let mut receiver = Receiver::start(&["503 Busy\r\nRetry-After: 1", "429 Slow down", "200 OK"]).await;
    let server = server().await;
    let mut agent = Agent::start(&Conf { agent: receiver.sink(), ..Conf::join_token(&server) });
    let first = receiver.next().await;
    assert!(first.head.starts_with("POST /prefix/v1/logs HTTP/1.1\r\n"), "{}", first.head);
    let head = first.head.to_ascii_lowercase();
    for header in ["content-type: application/x-protobuf\r\n", "authorization: bearer s3cr3t\r\n"] {
        assert!(head.contains(header), "{head}");
    }
    let (second, third) = (receiver.next().await, receiver.next().await);
    assert!(first.body == second.body && second.body == third.body, "a batch is sent until it is taken");
    agent.logged("OTLP endpoint takes exports again").await;
    let log = agent.log();
    assert_eq!(log.matches("Cannot export").count(), 1, "{log}");
    assert!(log.contains("error=\"HTTP 503\"") && !log.contains("s3cr3t"), "{log}");
    let exit = agent.stop().await;
    assert_eq!(exit.code, Some(0));
    let mut lines = BTreeSet::new();
    while !lines.contains("Agent stopped gracefully") {
        lines.extend(receiver.next().await.lines());
    }
    assert!(lines.is_disjoint(&first.lines()), "what is taken is not sent again");
    assert!(!lines.iter().any(|line| line.contains("OTLP endpoint")), "{lines:?}");
}

async fn refusing() {
    let mut receiver = Receiver::start(&["400 Bad Request", "200 OK"]).await;
    let server = server().await;
    let mut agent = Agent::start(&Conf { agent: receiver.sink(), ..Conf::join_token(&server) });
    let first = receiver.next().await;
    let line = agent.logged("Cannot export to the OTLP endpoint").await;
    assert!(line.contains("error=\"HTTP 400\""), "{line}");
    agent.stop().await;
    let second = receiver.next().await;
    assert!(first.lines().is_disjoint(&second.lines()), "what is refused is not sent again");
    let told = "Log records were not sent by OTLP: there were too many, or they were refused";
    assert!(second.lines().contains(told), "{:?}", second.lines());
}

async fn silent() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    let server = server().await;
    let conf = Conf { agent: sink(port), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    let (_open, _) = listener.accept().await.expect("the agent connects");
    agent.logged("SVID updated").await;
    x509_svid(&agent.socket()).await.expect("an identity");
    let exit = agent.stop().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(exit.log.contains("Agent stopped gracefully"), "{}", exit.log);
}

/// The block that sends log lines to this port.
fn sink(port: u16) -> String {
    format!(
        "experimental {{ otlp {{ endpoint = \"http://127.0.0.1:{port}/prefix/\" protocol = \"http/protobuf\" metrics = false \
         logs = true headers {{ Authorization = \"Bearer s3cr3t\" }} }} }}"
    )
}

/// A server of HTTP/1.1 that gives prepared answers, the last one for ever. Dropping it ends it.
struct Receiver {
    port: u16,
    requests: UnboundedReceiver<Request>,
    task: JoinHandle<()>,
}

struct Request {
    head: String,
    body: Vec<u8>,
}

impl Receiver {
    async fn start(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        let (sender, requests) = unbounded_channel();
        let task = tokio::spawn(async move {
            let mut left = answers;
            while let Ok((stream, _)) = listener.accept().await {
                converse(stream, &mut left, &sender).await;
            }
        });
        Self { port, requests, task }
    }

    fn sink(&self) -> String {
        sink(self.port)
    }

    async fn next(&mut self) -> Request {
        self.requests.recv().await.expect("the receiver runs")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Request {
    /// The messages of all log records.
    fn lines(&self) -> BTreeSet<String> {
        let request = ExportLogsServiceRequest::decode(&*self.body).expect("log records");
        let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
        let bodies = scopes.flat_map(|scope| scope.log_records).filter_map(|record| record.body?.value);
        bodies.map(|body| if let Value::StringValue(text) = body { text } else { String::new() }).collect()
    }
}

/// Answers each request of a connection, until it ends.
async fn converse(mut stream: TcpStream, left: &mut &[&str], sender: &UnboundedSender<Request>) {
    let mut bytes = Vec::new();
    loop {
        let request = loop {
            if let Some(request) = whole(&mut bytes) {
                break request;
            }
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(length @ 1..) => bytes.extend_from_slice(&buffer[..length]),
                _ => return,
            }
        };
        let [answer, rest @ ..] = *left else { unreachable!("the last answer stays") };
        if !rest.is_empty() {
            *left = rest;
        }
        let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() || sender.send(request).is_err() {
            return;
        }
    }
}

/// Takes the first request from what has come, if it is there as a whole.
fn whole(bytes: &mut Vec<u8>) -> Option<Request> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let lower = head.to_ascii_lowercase();
    let length =
        lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let all = end + length.unwrap_or_default();
    if bytes.len() < all {
        return None;
    }
    let body = bytes[end..all].to_vec();
    bytes.drain(..all);
    Some(Request { head, body })
}
