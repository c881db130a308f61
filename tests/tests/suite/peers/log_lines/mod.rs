//! Both agents write the same lines for the same events, so that alerts made for spire-agent go on working. `lines` lists
//! them.

mod lines;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dev::Entry;
use harness::{Agent, Conf, Exit, Sds, build_finial, sds_request, unix_attestor, x509_svid};
use libtest_mimic::Trial;
use tempfile::TempDir;

use self::lines::{Line, Seen, all};
use super::agents::real_programs;
use super::spire_server::SpireServer;
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("lines_that_alerts_look_for_are_in_the_code", || {
            in_the_code();
            Ok(())
        }),
        trial_with("lines_that_alerts_look_for_are_in_both_logs", real_programs(), in_both_logs),
    ]
}

/// Every message of the table is a text of the agent's code.
fn in_the_code() {
    let mut code = String::new();
    for folder in ["agent/src", "attestors/src", "config/src", "sds/src", "transport/src"] {
        read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder), &mut code);
    }
    // Texts that are broken into several lines.
    let code: String = code.split("\\\n").map(str::trim_start).collect();
    for line in all() {
        let text = line.message.replace("\"unix\"", "{:?}").replace('"', "\\\"");
        let text = text.replace("0022", "0{before:03o}").replace("0027", "0{now:03o}");
        assert!(code.contains(&text), "{}: {:?} is not in the code", line.event, line.message);
    }
}

fn read_all(folder: &Path, code: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, code);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            code.push_str(&std::fs::read_to_string(path).expect("text"));
        }
    }
}

async fn in_both_logs((server, real): (PathBuf, PathBuf)) {
    let finial = logs_of(&build_finial(), &server).await;
    let spire = logs_of(&real, &server).await;
    let mut missing = Vec::new();
    for line in all().filter(|line| line.seen == Seen::Live) {
        for (whose, log) in [("finial", &finial), ("spire-agent", &spire)] {
            if let Err(found) = find(line, log) {
                missing.push(format!("{whose}: {} ({}): {found}", line.message, line.event));
            }
        }
    }
    for line in all().filter(|line| line.seen == Seen::Live) {
        let lines = |log: &str| {
            log.lines().filter_map(parse).filter(|one| one.message == line.message).collect::<Vec<_>>()
        };
        let theirs = lines(&spire);
        for own in lines(&finial) {
            if !theirs.iter().any(|one| one.origin() == own.origin()) {
                missing.push(format!("finial: {} comes from {:?}", line.message, own.origin()));
            }
        }
    }
    missing.dedup();
    assert!(missing.is_empty(), "{}\n\nfinial:\n{finial}\n\nspire-agent:\n{spire}", missing.join("\n"));
}

/// Looks for a line. The error has the most similar one.
fn find(line: &Line, log: &str) -> Result<(), String> {
    let mut found = String::new();
    for text in log.lines() {
        let Some(parsed) = parse(text).filter(|parsed| parsed.message == line.message) else { continue };
        if parsed.level == line.level && line.fields.iter().all(|name| parsed.fields.contains_key(*name)) {
            return Ok(());
        }
        text.clone_into(&mut found);
    }
    Err(if found.is_empty() { "no such message".to_owned() } else { found })
}

/// A line of the log.
struct Parsed {
    level: String,
    message: String,
    fields: BTreeMap<String, String>,
}

impl Parsed {
    /// The part of the agent that the line comes from.
    fn origin(&self) -> [Option<&str>; 3] {
        ["subsystem_name", "service", "method"].map(|name| self.fields.get(name).map(String::as_str))
    }
}

/// Reads a line as logrus writes it: `name=value` with spaces between, and values in quotes if they need them.
fn parse(line: &str) -> Option<Parsed> {
    let mut parsed = Parsed { level: String::new(), message: String::new(), fields: BTreeMap::new() };
    let mut rest = line;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            None => after.split_once(' ').unwrap_or((after, "")),
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c: char| {
                    let end = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    end
                })?;
                (&quoted[..end], quoted[end + 1..].trim_start())
            }
        };
        match name {
            "time" => {}
            "level" => value.clone_into(&mut parsed.level),
            "msg" => parsed.message = value.replace("\\\"", "\""),
            name => drop(parsed.fields.insert(name.to_owned(), value.to_owned())),
        }
        rest = after;
    }
    (!parsed.level.is_empty()).then_some(parsed)
}

/// The log of a program, for all events of the table.
async fn logs_of(program: &Path, server: &Path) -> String {
    let server = SpireServer::start(server).await;
    let mut world = World {
        program,
        server,
        folder: tempfile::tempdir().expect("a temporary folder"),
        log: String::new(),
    };
    world.away_at_the_start().await;
    let (mut left, _) = world.start("left", "disk").await;
    world.without_apis().await;
    world.attestor_fails().await;
    world.refused_at_the_start(false).await;
    world.refused_at_the_start(true).await;
    world.banned().await;
    world.served().await;
    let World { server, mut log, .. } = world;
    drop(server);
    left.logged("msg=\"Synchronize failed\"").await;
    log += &left.stop().await.log;
    log
}

struct World<'a> {
    program: &'a Path,
    server: SpireServer,
    /// The folder of the admin sockets.
    folder: TempDir,
    /// The logs of the agents that have ended.
    log: String,
}

impl World<'_> {
    async fn conf(&self, name: &str, keys: &str) -> (Conf, String) {
        let (conf, id) = self.server.agent("").await;
        let admin = self.folder.path().join(name).join("admin.sock");
        let rejects = if self.program == build_finial() { "sds { unknown_names = \"reject\" }" } else { "" };
        let agent = format!(
            "admin_socket_path = \"{}\"\n {rejects}
             experimental {{ sync_interval = \"500ms\" use_sync_authorized_entries = true ratelimit {{ fetch_secrets = 9 }} }}
             }}\n health_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" bind_port = \"0\"",
            admin.display()
        );
        let umask = "umask 0022 && exec \"$0\" \"$@\"";
        let conf = Conf {
            agent,
            disk_keys: keys == "disk",
            shell: Some(umask.to_owned()),
            workload_attestors: unix_attestor(""),
            ..conf
        };
        (conf, id)
    }

    fn keep(&mut self, exit: &Exit) {
        self.log += &exit.log;
        self.log.push('\n');
    }

    fn run(&self, conf: &Conf) -> Agent {
        Agent::start_program(self.program, conf, Arc::new(tempfile::tempdir().expect("a temporary folder")))
    }

    async fn start(&self, name: &str, keys: &str) -> (Agent, String) {
        let (conf, id) = self.conf(name, keys).await;
        let mut agent = self.run(&conf);
        agent.logged("Node attestation was successful").await;
        agent.logged("Starting agent APIs").await;
        agent.logged("Serving health checks").await;
        (agent, id)
    }

    async fn away_at_the_start(&mut self) {
        let (conf, _) = self.conf("away", "memory").await;
        let mut agent = self.run(&Conf { server: "127.0.0.1:1".into(), ..conf });
        agent.logged("Failed to retrieve attestation result").await;
        self.keep(&agent.stop().await);
    }

    /// Both public APIs are off, and the port of the health checks is taken: by the server.
    async fn without_apis(&mut self) {
        let (conf, _) = self.conf("off", "memory").await;
        let port = conf.server.rsplit(':').next().unwrap_or_default();
        let agent = conf.agent.replace("bind_port = \"0\"", &format!("bind_port = \"{port}\""));
        let agent = format!("disable_workload_api = true disable_sds_api = true\n {agent}");
        let mut agent = self.run(&Conf { agent, ..conf });
        agent.logged("Skipping agent APIs").await;
        agent.logged("Error serving health checks").await;
        self.keep(&agent.stop().await);
    }

    /// Every executable is too long for the attestor.
    async fn attestor_fails(&mut self) {
        let (conf, _) = self.conf("fails", "memory").await;
        let unix = unix_attestor("discover_workload_path = true workload_size_limit = 1");
        let mut agent = self.run(&Conf { workload_attestors: unix, ..conf });
        agent.logged("Node attestation was successful").await;
        let socket = agent.wait_for_socket().await;
        if let Ok(mut stream) = x509_svid(&socket).await {
            drop(stream.message().await);
        }
        agent.logged("Workload attestation failed").await;
        if let Ok(mut envoy) = Sds::open(&socket, sds_request(&["spiffe://example.org/web"])).await {
            drop(envoy.next().await);
        }
        agent.logged("Failed to attest the workload").await;
        self.keep(&agent.stop().await);
    }

    /// The server forgets the agent, or bans it, while it does not run.
    async fn refused_at_the_start(&mut self, ban: bool) {
        let name = if ban { "banned-meanwhile" } else { "evicted-meanwhile" };
        let (conf, id) = self.conf(name, "disk").await;
        let conf = Conf { agent: format!("rebootstrap_mode = \"auto\"\n {}", conf.agent), ..conf };
        let mut agent = self.run(&conf);
        agent.wait_for_socket().await;
        agent.logged("Node attestation was successful").await;
        let folder = agent.folder();
        self.keep(&agent.stop().await);
        if ban {
            self.server.ban(&id).await;
        } else {
            self.server.evict(&id).await;
        }
        let exit = Agent::start_program(self.program, &conf, folder).exited().await;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        self.keep(&exit);
    }

    async fn banned(&mut self) {
        let (agent, id) = self.start("banned", "memory").await;
        self.server.ban(&id).await;
        let exit = agent.exited().await;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        self.keep(&exit);
    }

    /// An agent that serves until it is evicted.
    async fn served(&mut self) {
        let (mut agent, id) = self.start("served", "disk").await;
        let socket = agent.socket();
        // Answered with an error in the stream or before it.
        if let Ok(mut stream) = x509_svid(&socket).await {
            drop(stream.message().await);
        }
        agent.logged("No identity issued").await;
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        let own_bundle = std::fs::read_to_string(agent.path("bundle")).expect("written");
        self.server.set_bundle("other.test", &own_bundle).await;
        let web = Entry {
            id: "web".to_owned(),
            federates_with: vec!["spiffe://other.test".to_owned()],
            ..Entry::new("spiffe://example.org/web", &id, [&*uid])
        };
        self.server.create(&web).await;
        agent.logged("msg=\"SVID updated\"").await;
        drop(x509_svid(&socket).await.expect("served").message().await.expect("served"));
        agent.logged("Fetched X.509 SVID").await;
        rejecting_envoy(&socket).await;
        agent.logged("Error building stream secrets response").await;
        self.orders_to_the_logger("served").await;
        let gid = format!("unix:gid:{}", nix::unistd::getgid());
        let changed =
            Entry { id: "web".to_owned(), ..Entry::new("spiffe://example.org/web", &id, [&*uid, &*gid]) };
        self.server.update(&changed).await;
        agent.logged("msg=\"Entry updated\"").await;
        agent.logged_times("msg=\"SVID updated\"", 2).await;
        agent.logged("msg=\"Bundle removed\"").await;
        self.taint(&mut agent).await;
        self.server.delete("web").await;
        agent.logged("msg=\"Entry removed\"").await;
        self.server.evict(&id).await;
        let exit = agent.exited().await;
        assert_eq!(exit.code, Some(1), "{}", exit.log);
        self.keep(&exit);
    }

    async fn taint(&self, agent: &mut Agent) {
        let old = self.server.authority("active").await;
        self.server.order(&["prepare"]).await;
        let new = self.server.authority("prepared").await;
        self.server.order(&["activate", "-authorityID", &new]).await;
        self.server.order(&["taint", "-authorityID", &old]).await;
        agent.logged("msg=\"Finished processing all tainted entries\"").await;
        agent.logged("msg=\"Successfully rotated agent SVID\"").await;
    }

    async fn orders_to_the_logger(&self, name: &str) {
        let socket = self.folder.path().join(name).join("admin.sock");
        for words in [&["get"][..], &["set", "-level", "trace"], &["reset"]] {
            let mut command = tokio::process::Command::new(self.program);
            command.arg("logger").args(words).arg("-socketPath").arg(&socket).stdin(Stdio::null());
            let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends");
            assert!(ended.expect("it starts").status.success());
        }
    }
}

/// A client of SDS that rejects what it gets, answers an old response, and asks for a name that it may not have.
async fn rejecting_envoy(socket: &Path) {
    let names = ["spiffe://example.org/web"];
    let mut envoy = Sds::open(socket, sds_request(&names)).await.expect("served");
    let response = envoy.next().await.expect("served");
    let mut rejection = sds_request(&names);
    rejection.response_nonce = response.nonce.clone();
    rejection.version_info = "older".into();
    rejection.error_detail = Some(envoy_types::pb::google::rpc::Status {
        code: 3,
        message: "rejected".into(),
        details: Vec::new(),
    });
    envoy.send(rejection).await;
    let mut late = sds_request(&names);
    late.response_nonce = "older".into();
    envoy.send(late).await;
    let mut strange = sds_request(&["spiffe://example.org/other"]);
    (strange.response_nonce, strange.version_info) = (response.nonce, response.version_info);
    envoy.send(strange).await;
    while envoy.next().await.is_ok() {}
}

const PATIENCE: Duration = Duration::from_secs(60);
