//! A real server and an agent, in a folder of their own; both end with it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use benches::running::{AGENT_CPU, Ended, LOAD_CPU, Outcome, conf, pin, until_first_svid};
use sds_load::process::{Process, Sample};
use sds_load::report::Report;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{Agent, Bench};

/// What differs between worlds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Lines for the `agent` block.
    pub(crate) agent: &'static str,
    /// The server's `cache_reload_interval`.
    pub(crate) cache: &'static str,
    /// The server's log level.
    pub(crate) log: &'static str,
    /// Entries of other workloads of the same agent.
    pub(crate) others: usize,
    /// Whether there is an entry for the callers from the start.
    pub(crate) entry: bool,
}

/// What most measurements need: the defaults.
pub(crate) const QUIET: Options = Options { agent: "", cache: "1s", log: "WARN", others: 0, entry: true };

/// An agent that hears of a changed entry within a second.
pub(crate) const ROTATING: Options = Options { agent: "experimental { sync_interval = \"1s\" }", ..QUIET };

pub(crate) struct World<'a> {
    bench: &'a Bench,
    program: PathBuf,
    folder: TempDir,
    token: String,
    agent: Option<Ended>,
    _server: Ended,
}

impl<'a> World<'a> {
    /// A server with its entries, and all that the agent needs to start.
    pub(crate) fn prepare(bench: &'a Bench, agent: &Agent, options: Options) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        fs::write(path.join("server.conf"), server_conf(path, port, options))?;
        let log = File::create(path.join("server.log"))?;
        let mut command = Command::new(&bench.spire_server);
        command.args(["run", "-config"]).arg(path.join("server.conf")).stdin(Stdio::null());
        let server = Ended(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        let program = agent.program.clone();
        let mut world = Self { bench, program, folder, token: String::new(), agent: None, _server: server };
        world.until_healthy()?;
        let token: serde_json::Value =
            serde_json::from_str(&world.ask(&["token", "generate", "-output", "json"])?)?;
        world.token = token["value"].as_str().ok_or("no token")?.to_owned();
        fs::write(world.path("bundle.pem"), world.ask(&["bundle", "show"])?)?;
        let attestor = "WorkloadAttestor \"unix\" { plugin_data {} }";
        let agent_block = format!("log_level = \"WARN\" {}", options.agent);
        let conf = conf(world.folder.path(), ("127.0.0.1", port), &agent_block, attestor);
        fs::write(world.path("agent.conf"), conf)?;
        world.create_others(options.others)?;
        if options.entry {
            world.create_entry()?;
        }
        // The server answers from a cache that must have seen them.
        sleep(CACHE);
        Ok(world)
    }

    /// The same, with the agent running and its first SVID there.
    pub(crate) fn start(bench: &'a Bench, agent: &Agent, options: Options) -> Outcome<Self> {
        let mut world = Self::prepare(bench, agent, options)?;
        world.exec()?;
        sleep(CALM);
        Ok(world)
    }

    /// Starts the agent; milliseconds to its socket and to its first SVID.
    pub(crate) fn exec(&mut self) -> Outcome<(f64, f64)> {
        let start = self.spawn()?;
        let socket = self.socket();
        until_first_svid(self.agent.as_mut().ok_or(NOT_STARTED)?, &socket, start)
    }

    /// Starts the agent, and waits for nothing; when that was.
    pub(crate) fn spawn(&mut self) -> Outcome<Instant> {
        let log = File::create(self.path("agent.log"))?;
        let mut command = Command::new(&self.program);
        command.args(["run", "-joinToken", &self.token, "-config"]).arg(self.path("agent.conf"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A child inherits the affinity, and so needs no program before it that would be timed too.
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
        self.ask(&[&["entry", "create", "-entryID", ENTRY], &entry[..]].concat()).map(drop)
    }

    /// A shell command that changes the entry, so that its SVID is minted anew.
    pub(crate) fn trigger(&self) -> String {
        let (program, socket) = (self.bench.spire_server.display(), self.path("server.sock"));
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
            self.ask(&["entry", "create", "-data", &file])?;
        }
        Ok(())
    }

    fn agent_id(&self) -> String {
        format!("spiffe://example.org/spire/agent/join_token/{}", self.token)
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
        // In a storm streams are refused and come back: that is what its time is made of.
        match report.errors.first().filter(|_| report.mode != "storm") {
            Some(error) => Err(format!("{} × {}: {}", error.count, error.code, error.example).into()),
            None => Ok(report),
        }
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
        Ok(fs::read_to_string(self.path("server.log"))?)
    }

    fn until_healthy(&self) -> Outcome<()> {
        let start = Instant::now();
        while let Err(reason) = self.ask(&["healthcheck"]) {
            if start.elapsed() > PATIENCE {
                return Err(format!("the server is not healthy: {reason}").into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A command of the server's command line; what it printed.
    fn ask(&self, arguments: &[&str]) -> Outcome<String> {
        let mut command = Command::new(&self.bench.spire_server);
        // The flag stands behind the command's own words, of which `healthcheck` has but one.
        let words = if arguments[0] == "healthcheck" { 1 } else { 2 };
        command.args(&arguments[..words]).arg("-socketPath").arg(self.path("server.sock"));
        let output = command.args(&arguments[words..]).output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Its datastore does not wait for the disk: nothing here outlives the server, and ten thousand entries take a while.
fn server_conf(folder: &Path, port: u16, options: Options) -> String {
    let (folder, Options { cache, log, .. }) = (folder.display(), options);
    format!(
        "server {{ bind_address = \"127.0.0.1\" bind_port = \"{port}\" trust_domain = \"example.org\" \
         data_dir = \"{folder}\" socket_path = \"{folder}/server.sock\" log_level = \"{log}\" \
         experimental {{ cache_reload_interval = \"{cache}\" }} }}\n\
         plugins {{ DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" \
         connection_string = \"{folder}/datastore.sqlite3?_synchronous=OFF\" }} }} KeyManager \"memory\" {{ plugin_data {{}} }} \
         NodeAttestor \"join_token\" {{ plugin_data {{}} }} }}\n"
    )
}

pub(crate) const WORKLOAD: &str = "spiffe://example.org/web";
const ENTRY: &str = "measured";
const NOT_STARTED: &str = "the agent is not started";
const CACHE: Duration = Duration::from_millis(1500);
const CALM: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);
