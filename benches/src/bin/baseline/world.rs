//! A real server and an agent in one folder. Both end with the value.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use benches::running::server::{SpireServer, join_token_agent_id};
use benches::running::{AGENT_CPU, Ended, LOAD_CPU, Outcome, conf, pin, until_first_svid};
use sds_load::process::{Process, Sample};
use sds_load::report::Report;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{Agent, Bench};

/// The options of a world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// More lines of the `agent` block.
    pub(crate) agent: &'static str,
    /// The server's `cache_reload_interval`.
    pub(crate) cache: &'static str,
    /// The server's log level.
    pub(crate) log: &'static str,
    /// The number of entries of other workloads of this agent.
    pub(crate) others: usize,
    /// Whether the callers have an entry from the start.
    pub(crate) entry: bool,
}

/// The options of most measurements: the defaults.
pub(crate) const QUIET: Options = Options { agent: "", cache: "1s", log: "WARN", others: 0, entry: true };

/// The options for rotations: the agent gets a changed entry within a second.
pub(crate) const ROTATING: Options = Options { agent: "experimental { sync_interval = \"1s\" }", ..QUIET };

pub(crate) struct World<'a> {
    bench: &'a Bench,
    program: PathBuf,
    token: String,
    agent: Option<Ended>,
    server: SpireServer,
    folder: TempDir,
}

impl<'a> World<'a> {
    /// Starts a server with its entries, and prepares all that the agent needs to start.
    pub(crate) fn prepare(bench: &'a Bench, agent: &Agent, options: Options) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let server = SpireServer::start(&bench.spire_server, folder.path(), options.cache, options.log)?;
        let token = server.join_token()?;
        let world = Self { bench, program: agent.program.clone(), token, agent: None, server, folder };
        fs::write(world.path("bundle.pem"), world.server.bundle()?)?;
        let attestor = "WorkloadAttestor \"unix\" { plugin_data {} }";
        let agent_block = format!("log_level = \"WARN\" {}", options.agent);
        let conf = conf(world.folder.path(), ("127.0.0.1", world.server.port()), &agent_block, attestor);
        fs::write(world.path("agent.conf"), conf)?;
        world.create_others(options.others)?;
        if options.entry {
            world.create_entry()?;
        }
        // The server answers from a cache, which must have loaded the entries.
        sleep(CACHE);
        Ok(world)
    }

    /// Starts a server and an agent, and waits for the agent's first SVID.
    pub(crate) fn start(bench: &'a Bench, agent: &Agent, options: Options) -> Outcome<Self> {
        let mut world = Self::prepare(bench, agent, options)?;
        world.exec()?;
        sleep(CALM);
        Ok(world)
    }

    /// Starts the agent. Returns the milliseconds to its socket and to its first SVID.
    pub(crate) fn exec(&mut self) -> Outcome<(f64, f64)> {
        let start = self.spawn()?;
        let socket = self.socket();
        until_first_svid(self.agent.as_mut().ok_or(NOT_STARTED)?, &socket, start)
    }

    /// Starts the agent without waiting for it. Returns the time of the start.
    pub(crate) fn spawn(&mut self) -> Outcome<Instant> {
        let log = File::create(self.path("agent.log"))?;
        let mut command = Command::new(&self.program);
        command.args(["run", "-joinToken", &self.token, "-config"]).arg(self.path("agent.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A child inherits the affinity, so no other program must start it, whose time would be measured too.
        pin(AGENT_CPU)?;
        let start = Instant::now();
        let child = command.spawn();
        pin(LOAD_CPU)?;
        self.agent = Some(Ended(child?));
        Ok(start)
    }

    pub(crate) fn create_entry(&self) -> Outcome<()> {
        let entry = self.entry();
        let entry: Vec<&str> = entry.iter().map(String::as_str).collect();
        self.server.ask(&["entry", "create"], &[&["-entryID", ENTRY], &entry[..]].concat()).map(drop)
    }

    /// A shell command that changes the entry, so that its SVID is minted again.
    pub(crate) fn trigger(&self) -> String {
        let (program, socket) = (self.server.program().display(), self.server.socket());
        format!(
            "'{program}' entry update -socketPath '{}' -entryID {ENTRY} {} -dns n$(date +%s%N).example.org",
            socket.display(),
            self.entry().join(" ")
        )
    }

    fn entry(&self) -> [String; 6] {
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        let [parent, id, selector] = ["-parentID", "-spiffeID", "-selector"].map(str::to_owned);
        [parent, self.agent_id(), id, WORKLOAD.to_owned(), selector, uid]
    }

    fn create_others(&self, count: usize) -> Outcome<()> {
        let numbers: Vec<usize> = (0..count).collect();
        for some in numbers.chunks(1000) {
            let entry = |number: &usize| {
                serde_json::json!({
                    "parent_id": self.agent_id(),
                    "spiffe_id": format!("spiffe://example.org/other/{number}"),
                    "selectors": [{ "type": "unix", "value": format!("user:other-{number}") }],
                })
            };
            let entries: Vec<_> = some.iter().map(entry).collect();
            let file = self.path("entries.json");
            fs::write(&file, serde_json::json!({ "entries": entries }).to_string())?;
            let file = file.display().to_string();
            self.server.ask(&["entry", "create"], &["-data", &file])?;
        }
        Ok(())
    }

    fn agent_id(&self) -> String {
        join_token_agent_id(&self.token)
    }

    /// Runs sds-load against the agent.
    pub(crate) fn load(&self, arguments: &[&str]) -> Outcome<Report> {
        let output = Command::new(self.bench.tools.join("sds-load"))
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .args(["--quiet", "--json", "-", "--pid", &self.process()?.id().to_string()])
            .env_remove("SPIFFE_ENDPOINT_SOCKET")
            .output()?;
        let report: Report = serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())?;
        if report.served < report.wanted {
            return Err(format!("{} of {} streams were served", report.served, report.wanted).into());
        }
        // In a storm, refused streams are opened again. This is a part of its time and no failure.
        match report.errors.first().filter(|_| report.mode != "storm") {
            Some(error) => Err(format!("{} × {}: {}", error.count, error.code, error.example).into()),
            None => Ok(report),
        }
    }

    /// Ends the server.
    pub(crate) fn lose_server(&mut self) -> Outcome<()> {
        self.server.stop()
    }

    pub(crate) fn sample(&self) -> Outcome<Sample> {
        Ok(self.process()?.sample().ok_or("the agent has ended")?)
    }

    fn process(&self) -> Outcome<Process> {
        let agent = self.agent.as_ref().ok_or(NOT_STARTED)?;
        Ok(Process::of(agent.0.id()).ok_or("the agent has ended")?)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("api.sock")
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn server_log(&self) -> Outcome<String> {
        self.server.log()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub(crate) const WORKLOAD: &str = "spiffe://example.org/web";
const ENTRY: &str = "measured";
const NOT_STARTED: &str = "the agent is not started";
const CACHE: Duration = Duration::from_millis(1500);
const CALM: Duration = Duration::from_secs(2);
