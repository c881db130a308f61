//! Callers that exit, send garbage, never answer, never read or are too many.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use harness::{Agent, Conf, Sds, health, sds_request, skipped, trial, trial_as_root, x509_svid};
use libtest_mimic::Trial;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tonic::Code;

use super::{ids, register, server};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a_workload_that_exits_mid_stream_leaves_nothing_behind", exits_mid_stream),
        trial("sds_without_a_node_is_served", sds_without_a_node_is_served),
        trial("sds_10_mib_of_names_is_refused", ten_mib_of_names),
        trial("sds_garbage_bytes_end_one_stream_only", garbage_bytes),
        trial("sds_a_client_that_never_acks_gets_the_newest", never_acks),
        trial("sds_clients_that_never_read_cost_bounded_memory", never_read),
        trial("sds_unknown_names_are_rejected_when_asked_to", unknown_names_rejected),
        many_connections_of_one_process(),
        trial("the_limit_of_open_files_leaves_room_for_health", open_files),
        trial_as_root("a_caller_without_a_pid_here_is_refused_at_accept", caller_without_a_pid),
        trial("no_identity_is_permission_denied", no_identity),
    ]
}

/// An agent with one workload, `spiffe://example.org/web`, which is every process of this user.
async fn agent_with(conf: impl FnOnce(Conf) -> Conf) -> (dev::Server, Agent) {
    let server = server().await;
    let conf = conf(Conf {
        agent: "experimental { sync_interval = \"200ms\" }".into(),
        ..Conf::join_token(&server)
    });
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    (server, agent)
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// What the agent keeps. The pages of its program are not counted: of a debug build they are as much again.
fn anonymous_kib(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

async fn exits_mid_stream() {
    let (server, mut agent) = agent_with(|conf| conf).await;
    let mut held = x509_svid(&agent.socket()).await.expect("served");
    held.message().await.expect("served");
    let before = descriptors(agent.pid());
    let watch = std::process::Command::new(harness::build_finial())
        .args(["api", "watch", "-socketPath"])
        .arg(agent.socket())
        .stdout(Stdio::piped())
        .spawn();
    let mut watch = watch.expect("it starts");
    let mut output = watch.stdout.take().expect("piped");
    tokio::task::spawn_blocking(move || output.read_exact(&mut [0; 8]).expect("an update"))
        .await
        .expect("no panic");
    assert!(descriptors(agent.pid()) > before);
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");
    // The next update closes the descriptors of the dead caller and reaches the others.
    register(&server, "none", "unrelated");
    server
        .counted({
            let seen = server.counters().syncs;
            move |counters| counters.syncs > seen + 2
        })
        .await;
    // Fewer than before, where the agent was just writing a file then.
    assert!(descriptors(agent.pid()) <= before);
    assert!(health(&agent.socket()).await);
    agent.logged("Fetched X.509 SVID").await;
}

async fn sds_without_a_node_is_served() {
    let (_server, agent) = agent_with(|conf| conf).await;
    let mut request = sds_request(&["spiffe://example.org"]);
    request.type_url.clear();
    let mut sds = Sds::open(&agent.socket(), request).await.expect("served");
    let response = sds.next().await.expect("served");
    assert_eq!(response.type_url, "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    // Another type URL is echoed without a check, as in spire-agent.
    let mut request = sds_request(&["spiffe://example.org"]);
    request.type_url = "anything".into();
    let mut sds = Sds::open(&agent.socket(), request).await.expect("served");
    assert_eq!(sds.next().await.expect("served").type_url, "anything");
}

async fn ten_mib_of_names() {
    let (_server, agent) = agent_with(|conf| conf).await;
    let mut sds = Sds::open(&agent.socket(), sds_request(&["spiffe://example.org"])).await.expect("served");
    sds.next().await.expect("served");
    let long = "x".repeat(1024);
    let mut request = sds_request(&vec![&*long; 10 * 1024]);
    request.resource_names.push("spiffe://example.org".into());
    for request in [request, sds_request(&vec!["spiffe://example.org/a"; 100_000])] {
        // The refusal comes with the headers or after them: it depends on whether the request or the attestation is
        // first.
        let refusal = match Sds::open(&agent.socket(), request).await {
            Ok(mut flood) => flood.next().await.expect_err("refused"),
            Err(refusal) => refusal,
        };
        assert_eq!(refusal.code(), Code::ResourceExhausted);
    }
    assert!(health(&agent.socket()).await);
}

async fn garbage_bytes() {
    let (_server, agent) = agent_with(|conf| conf).await;
    let mut held = x509_svid(&agent.socket()).await.expect("served");
    held.message().await.expect("served");
    let socket = agent.socket();
    let rubbish = |bytes: Vec<u8>| {
        let mut stream = UnixStream::connect(&socket).expect("connected");
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    tokio::task::block_in_place(|| {
        rubbish(b"GET / HTTP/1.1\r\n\r\n".to_vec());
        rubbish([&preface[..], &[0xff; 4096]].concat());
        rubbish(
            [
                &preface[..],
                &[0, 0, 0, 4, 0, 0, 0, 0, 0],
                &[0, 0, 5, 1, 4, 0, 0, 0, 1, 0x3f, 0xff, 0xff, 0xff, 0xff],
            ]
            .concat(),
        );
    });
    let mut anew = x509_svid(&agent.socket()).await.expect("served");
    assert_eq!(ids(&anew.message().await.expect("served").expect("a message")), ["spiffe://example.org/web"]);
}

async fn never_acks() {
    let (server, agent) = agent_with(|conf| conf).await;
    let mut sds = Sds::open(&agent.socket(), sds_request(&["ROOTCA"])).await.expect("served");
    let first = sds.next().await.expect("served");
    server.rotate_ca();
    let second = sds.next().await.expect("the newest, after five seconds");
    assert_ne!(first.version_info, second.version_info);
}

/// A hundred streams that are never read get twenty changes of a secret of 60 KB. It would be 120 MB if the agent kept
/// every push.
async fn never_read() {
    let server = server().await;
    let other =
        super::server_with(dev::Options { trust_domain: "other.org".into(), ..dev::Options::default() })
            .await;
    for _ in 0..100 {
        other.rotate_ca();
    }
    server.set_federated_bundle_pem("other.org", &other.bundle_pem());
    let settings = "experimental { sync_interval = \"100ms\" }";
    let conf = Conf { agent: settings.into(), ..Conf::join_token(&server) };
    let parent = server.join_token_agent_id(conf.join_token.as_deref().unwrap_or_default());
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let mut entry = dev::Entry::new("spiffe://example.org/web", &*parent, [&*uid]);
    entry.federates_with = vec!["other.org".into()];
    server.create_entry(entry);
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let channel = harness::narrow_channel(&agent.socket()).await;
        streams.push(Sds::open_on(channel, sds_request(&["spiffe://other.org"])).await.expect("served"));
    }
    agent.logged_times("Sending StreamSecrets response", 100).await;
    let before = anonymous_kib(agent.pid());
    for _ in 0..20 {
        other.rotate_ca();
        server.set_federated_bundle_pem("other.org", &other.bundle_pem());
        let seen = server.counters().syncs;
        server.counted(|counters| counters.syncs > seen + 1).await;
    }
    let grown = anonymous_kib(agent.pid()).saturating_sub(before);
    assert!(grown < 32 * 1024, "grown by {grown} KiB");
    let pushes = agent.log().matches("Sending StreamSecrets response").count();
    assert!(pushes <= 300, "{pushes} pushes to clients that answer none");
    assert!(health(&agent.socket()).await);
    drop(streams);
}

async fn unknown_names_rejected() {
    let settings = "sds { unknown_names = \"reject\" }";
    let (_server, agent) = agent_with(|conf| Conf { agent: settings.into(), ..conf }).await;
    let names = ["spiffe://example.org/nobody", "spiffe://example.org"];
    let mut sds = Sds::open(&agent.socket(), sds_request(&names)).await.expect("opened");
    let status = sds.next().await.expect_err("rejected");
    assert_eq!(status.code(), Code::InvalidArgument);
    let expected =
        "workload is not authorized for the requested identities [\"spiffe://example.org/nobody\"]";
    assert_eq!(status.message(), expected);
}

fn many_connections_of_one_process() -> Trial {
    let name = "five_thousand_connections_of_one_process_are_served";
    // An agent uses half of its descriptors for pidfds, and keeps an eighth of its connections for newcomers.
    let enough = getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(_, hard)| hard >= 14_000);
    if enough { trial(name, many_connections) } else { skipped(name, "fewer than 14,000 open files") }
}

async fn many_connections() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
    let (_server, agent) = agent_with(|conf| conf).await;
    let mut held = Vec::new();
    for _ in 0..5_000 {
        let channel = harness::channel(&agent.socket()).await;
        for name in ["spiffe://example.org/web", "spiffe://example.org"] {
            let stream = Sds::open_on(channel.clone(), sds_request(&[name])).await.expect("opened");
            held.push((name, stream));
        }
    }
    for (name, stream) in &mut held {
        let secrets = stream.secrets(&[*name]).await.expect("served");
        assert_eq!(secrets.len(), 1);
    }
    // The agent keeps not much more than it charges for: a DaemonSet gives it 64 MiB.
    let kept = anonymous_kib(agent.pid());
    assert!(kept < 32 * 1024, "{kept} KiB");
    let mut healthcheck = tokio::process::Command::new(harness::build_finial());
    healthcheck.args(["healthcheck", "-socketPath"]).arg(agent.socket());
    assert!(healthcheck.status().await.expect("it runs").success());
}

async fn open_files() {
    let shell = "ulimit -n 300 && exec \"$0\" \"$@\"";
    let (_server, mut agent) = agent_with(|conf| Conf {
        shell: Some(shell.into()),
        agent: format!("{}\n}}\nhealth_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" bind_port = \"0\" ", conf.agent),
        ..conf
    })
    .await;
    let line = agent.logged("Serving health checks").await;
    let address =
        line.split("address=").nth(1).and_then(|rest| rest.split('"').nth(1)).expect("an address").to_owned();
    let (before, mut connections) = (descriptors(agent.pid()), Vec::new());
    for _ in 0..400 {
        connections
            .push(tokio::net::UnixStream::connect(agent.socket()).await.expect("the backlog takes it"));
    }
    assert!(descriptors(agent.pid()) < 300);
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("health has room");
        stream.write_all(b"GET /live HTTP/1.0\r\n\r\n").expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    });
    assert!(answer.await.expect("no panic").starts_with("HTTP/1.0 200"));
    drop(connections);
    // Until it has noticed, a newcomer of the same group is one too many. What is open besides takes a few.
    while descriptors(agent.pid()) > before + 5 {
        tokio::task::yield_now().await;
    }
    let mut stream = x509_svid(&agent.socket()).await.expect("served again");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
}

/// The agent is in a child pid namespace, so it cannot see our pid.
async fn caller_without_a_pid() {
    let shell = "exec unshare --pid --fork --mount-proc --kill-child \"$0\" \"$@\"";
    let (_server, mut agent) = agent_with(|conf| Conf { shell: Some(shell.into()), ..conf }).await;
    let mut stream = UnixStream::connect(agent.socket()).expect("connected");
    let closed = tokio::task::block_in_place(|| stream.read(&mut [0; 1]).unwrap_or_default());
    assert_eq!(closed, 0);
    let line = agent.logged("Connection failed during accept").await;
    assert!(line.contains("hostPID"), "{line}");
}

async fn no_identity() {
    let server = server().await;
    let mut agent = Agent::start(&Conf::join_token(&server));
    agent.logged("Agent is ready").await;
    let status = x509_svid(&agent.socket()).await.expect_err("not registered");
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    let status = harness::x509_bundles(&agent.socket()).await.expect_err("not registered");
    assert_eq!(status.code(), Code::PermissionDenied);
    let line = agent.logged("No identity issued").await;
    assert!(line.contains("registered=false"), "{line}");
    // Over SDS everybody may have the bundle of the agent's trust domain, as in spire-agent.
    let mut sds = Sds::open(&agent.socket(), sds_request(&["spiffe://example.org"])).await.expect("served");
    sds.next().await.expect("served");
}
