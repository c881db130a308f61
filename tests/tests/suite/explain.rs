//! `finial explain` on scripted mistakes, and the issuance record.

use std::path::Path;
use std::process::Output;

use dev::{Entry, Fault, Server};
use harness::{Agent, Conf, Sds, build_finial, sds_request, trial, unix_attestor, x509_svid};
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;

use super::server;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("explain_names_what_is_wrong_with_an_entry", entries),
        trial("explain_names_what_is_wrong_with_a_process", processes),
        trial("explain_names_what_is_wrong_with_calls", calls),
        trial("explain_names_what_is_wrong_with_the_agent", agents),
        trial("issuance_is_recorded", issuance),
    ]
}

/// An agent, its server, and the folder of its admin socket.
struct Fixture {
    server: Server,
    agent: Agent,
    private: TempDir,
    /// The parent of entries for this agent.
    parent: String,
}

impl Fixture {
    async fn start(unix: &str, experimental: &str) -> Self {
        let server = server().await;
        let private = tempfile::tempdir().expect("a temporary folder");
        let conf = Conf {
            agent: format!(
                "admin_socket_path = \"{}/admin.sock\"
                 experimental {{ sync_interval = \"200ms\" {experimental} }}",
                private.path().display()
            ),
            workload_attestors: unix_attestor(unix),
            ..Conf::join_token(&server)
        };
        let parent = server.join_token_agent_id(&conf.join_token.clone().unwrap_or_default());
        let mut agent = Agent::start(&conf);
        agent.logged("Agent is ready").await;
        Self { server, agent, private, parent }
    }

    /// Registers an entry, and waits until the agent has it.
    async fn entry(&mut self, name: &str, parent: &str, selectors: &[&str]) {
        let entry = Entry::new(format!("spiffe://example.org/{name}"), parent, selectors.iter().copied());
        self.server.create_entry(Entry { id: name.to_owned(), ..entry });
        if parent == self.parent {
            self.agent.logged(&format!("msg=\"Entry created\" entry={name} ")).await;
        }
    }

    /// What `explain` prints for these words.
    async fn explain(&self, words: &[&str]) -> Explained {
        let output = ask(self.private.path(), "explain", words).await;
        Explained::read(&output)
    }

    /// What it prints about this process.
    async fn of_this(&self) -> Explained {
        self.explain(&[&std::process::id().to_string()]).await
    }
}

async fn ask(private: &Path, command: &str, words: &[&str]) -> Output {
    let mut asking = Command::new(build_finial());
    asking.arg(command).args(["-output", "json", "-socketPath"]).arg(private.join("admin.sock")).args(words);
    asking.output().await.expect("run")
}

/// The answer of `explain`.
#[derive(Debug)]
struct Explained {
    code: Option<i32>,
    answer: Value,
}

impl Explained {
    fn read(output: &Output) -> Self {
        let answer = serde_json::from_slice(&output.stdout);
        let answer = answer.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        Self { code: output.status.code(), answer }
    }

    fn findings(&self, severity: &str) -> Vec<(&str, &str)> {
        let findings = self.answer["findings"].as_array().expect("findings");
        let of = findings.iter().filter(|finding| finding["severity"] == severity);
        of.map(|one| (one["code"].as_str().expect("a code"), one["text"].as_str().expect("a text"))).collect()
    }

    /// Checks that there is one cause, and part of its text. Prints it.
    #[track_caller]
    fn has_cause(&self, code: &str, part: &str) {
        let causes = self.findings("cause");
        assert!(matches!(causes[..], [(found, text)] if found == code && text.contains(part)), "{self:#?}");
        assert_eq!(self.code, Some(2));
        eprintln!("{code}: {}", causes[0].1);
    }

    #[track_caller]
    fn warns(&self, code: &str, part: &str) {
        let warnings = self.findings("warning");
        let found = warnings.iter().find(|(found, text)| *found == code && text.contains(part));
        eprintln!("{code}: {}", found.unwrap_or_else(|| panic!("{self:#?}")).1);
    }
}

async fn entries() {
    let mut fixture = Fixture::start("", "").await;
    let parent = fixture.parent.clone();
    fixture.of_this().await.has_cause("no-entry", "authorizes no entry");

    let elsewhere = "spiffe://example.org/spire/agent/another";
    fixture.entry("elsewhere", elsewhere, &["unix:uid:0"]).await;
    fixture.entry("stranger", &parent, &["k8s:ns:web", "k8s:sa:web"]).await;
    let explained = fixture.of_this().await;
    explained.has_cause("no-entry", "none of the 1 entries");
    explained.warns("other-parent", "it has another parent");

    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    fixture.entry("nearly", &parent, &[&uid, "unix:group:no-such-group"]).await;
    let explained = fixture.of_this().await;
    explained.has_cause("selector-missing", "the nearest is nearly (spiffe://example.org/nearly)");
    if nix::unistd::geteuid().is_root() {
        assert!(
            explained.findings("cause")[0].1.ends_with("lacks unix:group:no-such-group"),
            "{explained:#?}"
        );
    }

    fixture.entry("federated", &parent, &[&uid]).await;
    fixture.agent.logged("msg=\"SVID updated\" entry=federated ").await;
    let explained = fixture.of_this().await;
    assert_eq!(explained.code, Some(0));
    assert_eq!(explained.findings("ok")[0].0, "identity");

    let by_selectors = fixture.explain(&["-selector", "k8s:ns:web", "-selector", "k8s:sa:web"]).await;
    assert_eq!(
        (by_selectors.code, by_selectors.answer["matched"][0]["entry_id"].as_str()),
        (Some(0), Some("stranger"))
    );
    let by_one = fixture.explain(&["-selector", "k8s:ns:web"]).await;
    by_one.has_cause("selector-missing", "lacks");
}

async fn processes() {
    let fixture = Fixture::start("discover_workload_path = true workload_size_limit = 1", "").await;
    let explained = fixture.of_this().await;
    let causes: Vec<_> = explained.findings("cause").iter().map(|(code, _)| *code).collect();
    assert_eq!(causes, ["attestor-failed", "no-entry"], "{explained:#?}");
    eprintln!("attestor-failed: {}", explained.findings("cause")[0].1);
    fixture.explain(&["2147483647"]).await.has_cause("process-dead", "no process with pid 2147483647");
    for (words, expected) in [
        (&["x"][..], "Error: \"x\" is no pid\n"),
        (&[], "Error: give a pid, or selectors by -selector TYPE:VALUE\n"),
        (&["-selector", "a:b", "1"], "Error: give either a pid or selectors\n"),
    ] {
        let output = ask(fixture.private.path(), "explain", words).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    }
    let nowhere = tempfile::tempdir().expect("a temporary folder");
    for (command, words) in [("explain", &["1"][..]), ("issuance", &[]), ("top", &[])] {
        let output = ask(nowhere.path(), command, words).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.starts_with("Error: there is no socket ") && said.contains("admin_socket_path"),
            "{said}"
        );
        assert_eq!(output.status.code(), Some(1));
    }
}

async fn calls() {
    let mut fixture = Fixture::start("", "ratelimit { fetch_x509_svid = 1 }").await;
    let parent = fixture.parent.clone();
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    fixture.entry("web", &parent, &[&uid]).await;
    fixture.entry("db", &parent, &["unix:uid:12345"]).await;
    fixture.agent.logged("msg=\"SVID updated\" entry=web ").await;

    let socket = fixture.agent.socket();
    let held = Sds::open(&socket, sds_request(&["spiffe://example.org/db"])).await.expect("held");
    fixture.agent.logged("the stream is held").await;
    fixture.of_this().await.has_cause("name-of-another", "entry db wants unix:uid:12345");
    drop(held);

    loop {
        // One of two calls in a row is too many.
        if x509_svid(&socket).await.is_err() {
            break;
        }
    }
    let explained = fixture.of_this().await;
    let causes: Vec<_> = explained.findings("cause").iter().map(|(code, _)| *code).collect();
    assert_eq!(causes, ["rate-limited", "name-of-another"], "{explained:#?}");
    eprintln!("rate-limited: {}", explained.findings("cause")[0].1);
}

async fn agents() {
    let mut fixture = Fixture::start("", "").await;
    let parent = fixture.parent.clone();
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    fixture.server.fault(Fault::RefuseToSign).await;
    fixture.entry("web", &parent, &[&uid]).await;
    fixture.agent.logged("Failed to mint X509 SVID").await;
    fixture
        .of_this()
        .await
        .has_cause("svid-not-minted", "the server does not sign for spiffe://example.org/web");

    fixture.server.taint_old_cas();
    fixture.server.rotate_ca();
    fixture.server.taint_old_cas();
    fixture.agent.logged("New tainted X.509 authorities found").await;
    fixture.of_this().await.warns("authority-tainted", "tainted authority");

    fixture.server.forget_old_cas();
    fixture.agent.logged("The trust bundle file is stale").await;
    fixture.of_this().await.warns("bundle-stale", "a new node could not attest");

    let down = server().await;
    let private = tempfile::tempdir().expect("a temporary folder");
    let conf = Conf {
        agent: format!("admin_socket_path = \"{}/admin.sock\"", private.path().display()),
        ..Conf::join_token(&down)
    };
    down.shutdown().await;
    let mut agent = Agent::start(&conf);
    agent.logged("Failed to retrieve attestation result").await;
    let output = ask(private.path(), "explain", &[&std::process::id().to_string()]).await;
    Explained::read(&output).has_cause("agent-not-attested", "cannot reach the server");
}

async fn issuance() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("issued.json");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let reader = pipe::OpenOptions::new().open_receiver(&log).expect("opened");
    let mut fixture = Fixture::start("", &format!("issuance_log = \"{}\"", log.display())).await;
    let socket = fixture.agent.socket();
    x509_svid(&socket).await.expect_err("no identity");
    let parent = fixture.parent.clone();
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    fixture.entry("web", &parent, &[&uid]).await;
    fixture.agent.logged("msg=\"SVID updated\" entry=web ").await;
    x509_svid(&socket).await.expect("an identity");
    let mut stream = Sds::open(&socket, sds_request(&["spiffe://example.org/web"])).await.expect("opened");
    stream.next().await.expect("a secret");

    let output = ask(fixture.private.path(), "issuance", &[]).await;
    let records: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let told: Vec<_> = records
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| {
            let word = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            (word("event"), word("method"), word("spiffe_id"), word("reason"))
        })
        .collect();
    let issued = |method: &str| {
        ("issued".to_owned(), method.to_owned(), "spiffe://example.org/web".to_owned(), String::new())
    };
    let refused = ("refused".into(), "FetchX509SVID".into(), String::new(), "no identity issued".into());
    assert_eq!(told, [refused, issued("FetchX509SVID"), issued("StreamSecrets")]);
    assert_eq!(records[1]["pid"], std::process::id());

    let mut lines = BufReader::new(reader).lines();
    let line = lines.next_line().await.expect("read").expect("a line");
    let first: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(first["spiffe_id"], "spiffe://example.org/web");
    assert_eq!(first["selectors"][0], uid);
    assert!(first["serial_number"].is_string() && first["expires_at"].is_string(), "{first}");
}
