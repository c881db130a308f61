//! Each mode against finial, with a development server. The assertions are about counts, never about times.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::path::Path;
use std::sync::Arc;

use dev::{Entry, Options, Server};
use harness::{Agent, Conf};
use sds_load::report::Report;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;

/// A server, an agent and an entry for this user.
struct World {
    server: Arc<Server>,
    entry: Entry,
    agent: Agent,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let server = Arc::new(Server::start(Options::default()).await.unwrap());
        let mut conf = Conf::join_token(&server);
        conf.agent = "experimental { sync_interval = \"1s\" }".into();
        let parent = server.join_token_agent_id(conf.join_token.as_deref().unwrap());
        let selector = format!("unix:uid:{}", nix::unistd::getuid());
        let mut entry = Entry::new("spiffe://example.org/web", parent, [&*selector]);
        entry.id = server.create_entry(entry.clone());
        let agent = Agent::start(&conf);
        agent.wait_for_socket().await;
        Self { server, entry, agent, folder: tempfile::tempdir().unwrap() }
    }

    /// Runs sds-load. Returns its report and its exit code.
    async fn load(&self, arguments: &[&str]) -> (Report, i32) {
        let output = Command::new(env!("CARGO_BIN_EXE_sds-load"))
            .args(arguments)
            .arg("--socket")
            .arg(self.agent.socket())
            .args(["--quiet", "--json", "-"])
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let report = serde_json::from_slice(&output.stdout);
        let report =
            report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        (report, output.status.code().unwrap())
    }

    /// The shell command that makes the server rotate the SVID.
    fn trigger(&self) -> String {
        let fifo = self.folder.path().join("trigger");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Opened for reading and writing, so that it does not end between two triggers.
        let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(&fifo).unwrap();
        tokio::spawn(rotate(Arc::clone(&self.server), self.entry.clone(), receiver));
        format!("echo > {}", fifo.display())
    }
}

async fn rotate(server: Arc<Server>, mut entry: Entry, trigger: pipe::Receiver) {
    let mut lines = BufReader::new(trigger).lines();
    for number in 0.. {
        if !matches!(lines.next_line().await, Ok(Some(_))) {
            return;
        }
        entry.dns_names = vec![format!("n{number}.example.org")];
        assert!(server.update_entry(entry.clone()));
    }
}

fn count(report: &Report, name: &str) -> u64 {
    report.counts[name]
}

fn timed(report: &Report, name: &str) -> u64 {
    report.latencies.get(name).map_or(0, |latency| latency.count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn herd_serves_all_and_measures_the_agent() {
    let world = World::start().await;
    let html = world.folder.path().join("report.html");
    let page = html.to_str().unwrap();
    let (report, code) =
        world.load(&["herd", "--connections", "10", "--processes", "3", "--html", page]).await;
    assert_eq!((code, report.served, report.wanted), (0, 20, 20), "{report:?}");
    assert_eq!((count(&report, "acks"), timed(&report, "first_secret")), (20, 20));
    assert!(count(&report, "bytes_out") > 40 * 61_000);
    assert_eq!(report.target.pid, u32::try_from(world.agent.pid()).ok());
    assert!(report.derived["cpu_us_per_stream"] > 0.0 && report.phase("open").unwrap().streams == 20);
    assert!(std::fs::read_to_string(html).unwrap().ends_with("</html>\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hold_speaks_the_workload_api() {
    let world = World::start().await;
    let (report, code) =
        world.load(&["hold", "--api", "workload", "--connections", "4", "--duration", "0s"]).await;
    assert_eq!((code, report.served, count(&report, "acks")), (0, 8, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn storm_lets_newcomers_and_probes_in() {
    let world = World::start().await;
    // An agent that has just started correctly reports that it is not serving yet.
    let (first, _) = world.load(&["herd", "--connections", "1"]).await;
    assert_eq!(first.served, 2, "{first:?}");
    let (report, code) = world.load(&["storm", "--connections", "10", "--newcomers", "3", "--health"]).await;
    assert_eq!((code, report.served), (0, 20), "{report:?}");
    assert!(timed(&report, "newcomer") >= 1 && timed(&report, "health") >= 1);
    assert_eq!(count(&report, "health_probes_failed"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn churn_takes_turns_among_more_processes_than_lanes() {
    let world = World::start().await;
    for processes in ["1", "5"] {
        let (report, code) =
            world.load(&["churn", "--concurrency", "2", "--count", "30", "--processes", processes]).await;
        assert_eq!((code, count(&report, "exchanges"), count(&report, "acks")), (0, 30, 30), "{report:?}");
        assert_eq!(count(&report, "connections_opened"), 30);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rotate_sees_each_push_once_on_every_stream() {
    let world = World::start().await;
    let trigger = world.trigger();
    let (report, code) = world
        .load(&["rotate", "--connections", "6", "--pushes", "2", "--between", "0s", "--trigger", &trigger])
        .await;
    assert_eq!((code, report.rotations.len()), (0, 2), "{report:?}");
    for rotation in &report.rotations {
        assert_eq!((&*rotation.name, rotation.streams), ("spiffe://example.org/web", 6));
        assert!(rotation.trigger_to_first_ms.is_some() && rotation.cpu_us_per_push.is_some());
    }
    assert_eq!((count(&report, "pushes"), count(&report, "unneeded_pushes")), (12, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn slow_readers_stop_after_their_first_secret_or_never_have_one() {
    let world = World::start().await;
    let trigger = world.trigger();
    let socket = ["slow", "--connections", "5", "--pushes", "1", "--between", "0s", "--trigger", &trigger];
    let (report, code) = world.load(&socket).await;
    assert_eq!((code, report.served, count(&report, "pushes")), (0, 10, 0), "{report:?}");
    let (report, code) =
        world.load(&["slow", "--connections", "5", "--unread", "window", "--duration", "0s"]).await;
    assert_eq!(
        (code, timed(&report, "first_secret"), count(&report, "streams_opened")),
        (0, 0, 10),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn warm_times_streams_and_connections() {
    let world = World::start().await;
    for api in ["sds", "workload"] {
        let (report, code) = world.load(&["warm", "--count", "5", "--api", api]).await;
        assert_eq!(
            (code, timed(&report, "fresh_stream"), timed(&report, "fresh_connection")),
            (0, 5, 5),
            "{report:?}"
        );
        assert_eq!(count(&report, "connections_opened"), 6);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nacks_are_sent_as_often_as_asked() {
    let world = World::start().await;
    let (report, code) = world.load(&["herd", "--connections", "2", "--nack-every", "1"]).await;
    assert_eq!((code, count(&report, "nacks"), count(&report, "acks")), (0, 4, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_without_a_secret_are_named() {
    let world = World::start().await;
    // From here on the agent answers at once if it has an answer.
    let (first, _) = world.load(&["herd", "--connections", "1"]).await;
    assert_eq!(first.served, 2, "{first:?}");
    let names = "spiffe://example.org/web,spiffe://example.org/nobody";
    let (report, code) =
        world.load(&["herd", "--connections", "1", "--names", names, "--timeout", "2s"]).await;
    assert_eq!((code, report.served), (1, 1), "{report:?}");
    assert_eq!(report.unserved, ["connection 0: spiffe://example.org/nobody"]);
    assert!(report.hints.iter().any(|hint| hint.contains("--names")), "{:?}", report.hints);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn floods_of_every_kind_leave_the_others_alone() {
    let world = World::start().await;
    // An agent that has just started correctly reports that it is not serving yet.
    let (first, _) = world.load(&["herd", "--connections", "1"]).await;
    assert_eq!(first.served, 2, "{first:?}");
    // The flood keeps this user, who owns the folder of the socket.
    let user = nix::unistd::getuid().to_string();
    let of = ["flood", "--connections", "3", "--processes", "2", "--settle", "0s", "--uid", &user];
    let (report, code) = world.load(&[&of[..], &["--frames", "300"]].concat()).await;
    let failed = report.floods.iter().any(|flood| flood.failed > 0 || flood.calls == 0 || !flood.alive);
    assert_eq!((code, report.floods.len(), failed), (0, 12, false), "{report:?}");
    for flood in &report.floods[1..] {
        let frames = if flood.kind == "silent-connections" { 0 } else { 3 * 300 };
        assert!(flood.opened >= 3 && flood.frames <= frames, "{flood:?}");
    }
    // With this many reset calls, each connection exceeds the agent's limit at some time.
    let (report, _) = world.load(&[&of[..], &["--kind", "rapid-reset", "--frames", "9000"]].concat()).await;
    let goaways = report.floods[1].goaways.get("ENHANCE_YOUR_CALM (11)");
    assert_eq!((goaways, report.floods[1].opened), (Some(&3), 3), "{report:?}");
}

#[tokio::test]
async fn a_kind_of_flood_is_corrected() {
    let output = Command::new(env!("CARGO_BIN_EXE_sds-load"))
        .args(["flood", "--kind", "rapid-rest"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("'rapid-reset'"));
}

#[tokio::test]
async fn a_socket_that_is_not_there_is_said_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_sds-load"))
        .args(["herd", "--socket"])
        .arg(Path::new("/nowhere/api.sock"))
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is the agent running"));
}
