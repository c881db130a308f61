//! The admin socket: the command line, and delegates that are authorized, lose their entry, or never had one.

use std::process::Command;

use dev::{Entry, Server};
use harness::{Agent, Conf, trial};
use libtest_mimic::Trial;
use proto::delegated::delegated_identity_client::DelegatedIdentityClient;
use proto::delegated::{SubscribeToX509BundlesRequest, SubscribeToX509sviDsRequest};
use proto::types::Selector;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{register, server};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("admin_a_delegate_asks_by_selectors_and_by_pid", by_selectors_and_by_pid),
        trial("admin_a_delegate_that_loses_its_entry_is_told", loses_its_entry),
        trial("admin_a_caller_that_is_no_delegate_is_refused", no_delegate),
        trial("admin_the_command_line_reads_and_sets_the_level", command_line),
    ]
}

/// An agent whose admin socket accepts `spiffe://example.org/NAME` as a delegate.
async fn agent(delegate: &str) -> (Server, Agent, TempDir, String) {
    let server = server().await;
    let private = tempfile::tempdir().expect("a temporary folder");
    let conf = Conf {
        agent: format!(
            "admin_socket_path = \"{}/admin.sock\" authorized_delegates = [\"spiffe://example.org/{delegate}\"]
             experimental {{ sync_interval = \"200ms\" }}",
            private.path().display()
        ),
        ..Conf::join_token(&server)
    };
    let token = conf.join_token.clone().unwrap_or_default();
    let entry = register(&server, &token, "web");
    let parent = server.join_token_agent_id(&token);
    server.create_entry(Entry::new("spiffe://example.org/other", &parent, ["k8s:ns:a", "k8s:sa:b"]));
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    (server, agent, private, entry)
}

async fn client(private: &TempDir) -> DelegatedIdentityClient<Channel> {
    DelegatedIdentityClient::new(harness::channel(&private.path().join("admin.sock")).await)
}

fn selectors(list: &[(&str, &str)]) -> SubscribeToX509sviDsRequest {
    let selector =
        |(kind, value): &(&str, &str)| Selector { r#type: (*kind).to_owned(), value: (*value).to_owned() };
    SubscribeToX509sviDsRequest { selectors: list.iter().map(selector).collect(), pid: 0 }
}

/// The paths of the SPIFFE IDs in the first answer.
async fn paths(
    client: &mut DelegatedIdentityClient<Channel>,
    request: SubscribeToX509sviDsRequest,
) -> Result<Vec<String>, Status> {
    let mut stream = client.subscribe_to_x509svi_ds(request).await?.into_inner();
    let first = stream.message().await?.expect("an answer");
    let path = |svid: proto::delegated::X509svidWithKey| {
        assert!(!svid.x509_svid_key.is_empty());
        svid.x509_svid.and_then(|svid| svid.id).map(|id| id.path)
    };
    Ok(first.x509_svids.into_iter().filter_map(path).collect())
}

async fn by_selectors_and_by_pid() {
    let (_server, _agent, private, _) = agent("web").await;
    let mut client = client(&private).await;
    let other = selectors(&[("k8s", "ns:a"), ("k8s", "sa:b"), ("k8s", "more")]);
    assert_eq!(paths(&mut client, other).await.expect("served"), ["/other"]);
    // Selectors that no entry matches: the list is empty, without an error.
    assert_eq!(paths(&mut client, selectors(&[("k8s", "ns:a")])).await.expect("served"), [""; 0]);
    let pid = std::process::id().cast_signed();
    let by_pid = |pid| SubscribeToX509sviDsRequest { selectors: Vec::new(), pid };
    assert_eq!(paths(&mut client, by_pid(pid)).await.expect("served"), ["/web"]);
    let gone = paths(&mut client, by_pid(i32::MAX)).await.expect_err("no such process");
    assert_eq!((gone.code(), gone.message()), (Code::Unavailable, "workload attestation failed"));
    let both = SubscribeToX509sviDsRequest { pid, ..selectors(&[("k8s", "ns:a")]) };
    for request in [by_pid(0), both] {
        let refused = paths(&mut client, request).await.expect_err("neither or both");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), "must provide either selectors or non-zero PID, but not both");
    }
    let bad = paths(&mut client, selectors(&[("a:b", "c")])).await.expect_err("a colon");
    assert_eq!((bad.code(), bad.message()), (Code::InvalidArgument, "could not parse provided selectors"));
    let bundles = client.subscribe_to_x509_bundles(SubscribeToX509BundlesRequest {}).await;
    let first = bundles.expect("served").into_inner().message().await.expect("served").expect("an answer");
    assert_eq!(first.ca_certificates.keys().collect::<Vec<_>>(), ["spiffe://example.org"]);
}

async fn loses_its_entry() {
    let (server, mut agent, private, entry) = agent("web").await;
    let mut client = client(&private).await;
    let request = selectors(&[("k8s", "ns:a"), ("k8s", "sa:b")]);
    let stream = client.subscribe_to_x509svi_ds(request.clone()).await.expect("served");
    let mut stream = stream.into_inner();
    stream.message().await.expect("served").expect("an answer");
    server.delete_entry(&entry);
    agent.logged_times("Authorized entries updated", 2).await;
    // The SVIDs of the stream change. Before it gets the new ones, the caller is authorized again.
    server.rotate_ca();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!((ended.code(), ended.message()), (Code::PermissionDenied, "no identity issued"));
    let again = paths(&mut client, request).await.expect_err("no entry");
    assert_eq!((again.code(), again.message()), (Code::PermissionDenied, "no identity issued"));
}

async fn no_delegate() {
    let (_server, _agent, private, _) = agent("somebody").await;
    let mut client = client(&private).await;
    let refused = paths(&mut client, selectors(&[("k8s", "ns:a")])).await.expect_err("not on the list");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "caller not configured as an authorized delegate");
}

async fn command_line() {
    let (_server, mut agent, private, _) = agent("web").await;
    let socket = private.path().join("admin.sock");
    let run = |words: &[&str]| {
        let output =
            Command::new(harness::build_finial()).args(words).arg("-socketPath").arg(&socket).output();
        let output = output.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let level = |current: &str| (Some(0), format!("Logger Level : {current}\nLaunch Level : debug\n\n"));
    assert_eq!(run(&["logger", "get"]), level("debug"));
    assert_eq!(run(&["logger", "set", "-level", "warn"]), level("warning"));
    assert_eq!(run(&["logger", "reset"]), level("debug"));
    let set = agent.logged("SetLogLevel Called").await;
    assert!(set.contains(" new_log_level=warning "), "{set}");
    let (code, info) = run(&["debug", "getinfo"]);
    assert_eq!(code, Some(0));
    assert!(info.starts_with("Agent Debug Info:\n") && info.contains("/spire/agent/join_token/"), "{info}");
}
