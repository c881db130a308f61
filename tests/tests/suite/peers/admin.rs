//! Delegates written in Go (`tests/peers/go/delegate`). Each calls both agents, if the real one is there, and must get
//! the same answer from both.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use dev::Entry;
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::agents::{Agents, entry, real_programs};
use super::clients::{build, go};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let go = go("go");
    let with_real = go.clone().and_then(|go| Ok((go, real_programs()?)));
    vec![
        trial_with("admin_a_go_delegate_at_finial", go, async |go| {
            let callers = Callers::new(go).await;
            story(Agents::finial().await, callers).await;
        }),
        trial_with("admin_a_go_delegate_at_finial_and_at_the_real_agent", with_real, async |(go, real)| {
            let callers = Callers::new(go).await;
            story(Agents::both(real).await, callers).await;
        }),
    ]
}

/// One program under several paths. The agents distinguish callers by their path.
struct Callers(TempDir);

impl Callers {
    async fn new(go: PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("delegate");
        build(go, "go", "./delegate", &program).await;
        for name in ["stranger", "nobody"] {
            std::fs::hard_link(&program, folder.path().join(name)).expect("linked");
        }
        Self(folder)
    }

    /// The entry of a registered caller.
    fn entry(&self, name: &str) -> Entry {
        entry(name, [&*format!("unix:path:{}", self.0.path().join(name).display())])
    }

    fn command(&self, name: &str, socket: &PathBuf, words: &[&str]) -> Command {
        let mut command = Command::new(self.0.path().join(name));
        command.arg(socket).args(words).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a caller against every agent, and returns the lines that it prints. They must be the same for all agents.
    async fn answers(&self, agents: &Agents, name: &str, words: &[&str]) -> Vec<String> {
        let mut answers = Vec::new();
        for running in &agents.all {
            let output = self.command(name, &running.admin_socket, words).output();
            let output = timeout(PATIENCE, output).await.expect("it ends").expect("it starts");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{} {words:?}: {error}\n{}", running.whose, running.agent.log());
            answers.push(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{name} {words:?}: {answers:#?}");
        answers[0].lines().map(str::to_owned).collect()
    }

    /// Starts the delegate with one stream at each agent. It prints the changes.
    fn follow(&self, agents: &Agents, words: &[&str]) -> Vec<Follower> {
        let follow = |socket| {
            let mut command = self.command("delegate", socket, words);
            let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
            let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            Follower { lines, _child: child }
        };
        agents.all.iter().map(|running| follow(&running.admin_socket)).collect()
    }
}

/// A delegate with an open stream.
struct Follower {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Follower {
    /// Waits for these lines.
    async fn prints(&mut self, expected: &[&str]) {
        for line in expected {
            assert_eq!(self.line().await.as_deref(), Some(*line));
        }
    }

    /// Waits for the next line; `None` if the delegate has ended.
    async fn line(&mut self) -> Option<String> {
        timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").expect("readable")
    }
}

async fn story(mut agents: Agents, callers: Callers) {
    agents.federate("other.test").await;
    let own_path = std::env::current_exe().expect("this program has a path");
    let hint = || "internal".to_owned();
    let entries = [
        callers.entry("delegate"),
        callers.entry("stranger"),
        entry("subject", [&*format!("unix:path:{}", own_path.display())]),
        Entry { hint: hint(), ..entry("alpha", ["k8s:ns:a"]) },
        Entry {
            hint: hint(),
            federates_with: vec!["spiffe://other.test".to_owned()],
            ..entry("beta", ["k8s:ns:a", "k8s:sa:b"])
        },
        Entry { admin: true, ..entry("operator", ["k8s:ns:a"]) },
        Entry { downstream: true, ..entry("nested", ["k8s:ns:a"]) },
    ];
    agents.create(&entries).await;
    by_selectors(&agents, &callers).await;
    by_pid(&mut agents, &callers).await;
    strangers(&mut agents, &callers).await;
    many(&mut agents, &callers).await;
    loses_its_entry(&mut agents, &callers).await;
}

async fn by_selectors(agents: &Agents, callers: &Callers) {
    let pod = callers.answers(agents, "delegate", &["first", "k8s:ns:a", "k8s:sa:b", "k8s:more:yes"]).await;
    // SVIDs of administrators and nested servers are missing. SVIDs that share a hint are all there, which a workload
    // would not get.
    let expected = [
        "2 SVIDs, federated with [\"spiffe://other.test\"]",
        "spiffe://example.org/alpha with the hint \"internal\"",
        "spiffe://example.org/beta with the hint \"internal\"",
    ];
    assert_eq!(pod, expected);
    let nobody = callers.answers(agents, "delegate", &["first", "k8s:ns:nobody"]).await;
    assert_eq!(nobody, ["0 SVIDs, federated with []"]);
    for selector in [":value", "k8s:"] {
        let refused = callers.answers(agents, "delegate", &["first", "k8s:ns:a", selector]).await;
        assert_eq!(refused, ["InvalidArgument: could not parse provided selectors"]);
    }
    let bundles = callers.answers(agents, "delegate", &["bundles"]).await;
    let expected = ["spiffe://example.org has 1 authorities", "spiffe://other.test has 1 authorities"];
    assert_eq!(bundles, expected);
}

async fn by_pid(agents: &mut Agents, callers: &Callers) {
    let pid = std::process::id().to_string();
    let subject = callers.answers(agents, "delegate", &["first", &pid]).await;
    assert_eq!(subject, ["1 SVIDs, federated with []", "spiffe://example.org/subject with the hint \"\""]);
    for nobody in [i32::MAX.to_string(), "-1".to_owned()] {
        let refused = callers.answers(agents, "delegate", &["first", &nobody]).await;
        assert_eq!(refused, ["Unavailable: workload attestation failed"]);
    }
    for neither_or_both in [&["first"][..], &["first", &pid, "k8s:ns:a"]] {
        let refused = callers.answers(agents, "delegate", neither_or_both).await;
        let words = "InvalidArgument: must provide either selectors or non-zero PID, but not both";
        assert_eq!(refused, [words]);
    }
    let words = "msg=\"Invalid argument; must provide either selectors or non-zero PID, but not both\"";
    agents.logged(words).await;
}

/// As Cilium: a subscription for each pod of a big node, all on one connection. The real agent hashes the delegate's program
/// for each, so it gets fewer.
async fn many(agents: &mut Agents, callers: &Callers) {
    let count = if agents.all.len() == 1 { "1000" } else { "50" };
    agents.create(&[entry("many", ["k8s:ns:many"])]).await;
    let mut followers = callers.follow(agents, &["many", count, "k8s:ns:many"]);
    for follower in &mut followers {
        follower.prints(&["2 bundles, 2 key sets, 1 tokens"]).await;
        follower.prints(&[&format!("first: {count} times 1 SVIDs, federated with []")]).await;
    }
    agents.create(&[entry("more", ["k8s:ns:many"])]).await;
    for follower in &mut followers {
        follower.prints(&[&format!("next: {count} times 2 SVIDs, federated with []")]).await;
    }
}

async fn strangers(agents: &mut Agents, callers: &Callers) {
    // The last request is invalid, but strangers must not learn that.
    for words in [&["first", "k8s:ns:a"][..], &["bundles"], &["first"]] {
        let unlisted = callers.answers(agents, "stranger", words).await;
        assert_eq!(unlisted, ["PermissionDenied: caller not configured as an authorized delegate"]);
        let unregistered = callers.answers(agents, "nobody", words).await;
        assert_eq!(unregistered, ["PermissionDenied: no identity issued"]);
    }
    agents.logged("msg=\"Permission denied; caller not configured as an authorized delegate.\"").await;
    agents.logged("msg=\"No identity issued\"").await;
}

async fn loses_its_entry(agents: &mut Agents, callers: &Callers) {
    let mut of_svids = callers.follow(agents, &["follow", "k8s:ns:a"]);
    let mut of_bundles = callers.follow(agents, &["follow-bundles"]);
    for follower in &mut of_svids {
        let alpha = "spiffe://example.org/alpha with the hint \"internal\"";
        follower.prints(&["1 SVIDs, federated with []", alpha]).await;
    }
    for follower in &mut of_bundles {
        let other = "spiffe://other.test has 1 authorities";
        follower.prints(&["spiffe://example.org has 1 authorities", other]).await;
    }
    agents.delete("delegate").await;
    // Each stream has a change now, and the delegate is authorized again before it gets the change.
    agents.federate("third.test").await;
    let federates_with = vec!["spiffe://third.test".to_owned()];
    agents.create(&[Entry { federates_with, ..entry("gamma", ["k8s:ns:a"]) }]).await;
    for follower in of_svids.iter_mut().chain(&mut of_bundles) {
        follower.prints(&["PermissionDenied: no identity issued"]).await;
        assert_eq!(follower.line().await, None);
    }
    let again = callers.answers(agents, "delegate", &["first", "k8s:ns:a"]).await;
    assert_eq!(again, ["PermissionDenied: no identity issued"]);
    agents.create(&[Entry { id: "delegate-again".to_owned(), ..callers.entry("delegate") }]).await;
    let restored = callers.answers(agents, "delegate", &["first", "k8s:ns:a"]).await;
    assert_eq!(restored[0], "2 SVIDs, federated with [\"spiffe://third.test\"]");
}

const PATIENCE: Duration = Duration::from_secs(100);
