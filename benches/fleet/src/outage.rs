//! Measures what a fleet of agents offers to a server that it loses, and to one that returns.
//!
//! `cargo run --release -p finial-fleet -- outage [--agents N] [--away SECONDS] AGENT` where AGENT is a program
//! that takes spire-agent's command line. N agents (1,000) run as processes against one development server, through a
//! gate that can be shut: it then cuts every connection and turns away, and counts, each new one. The fleet rests for a
//! minute, loses the server for SECONDS (180), and has it back for two minutes; then once more, with a caller at each
//! agent that waits for an entry. The table has the load of each ten seconds: connections, syncs (two calls each) and
//! signing calls a second, and the most connections and syncs within one second. The last lines compare them with the
//! rest before.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use benches::running::{Ended, Outcome, conf};
use dev::{Counters, Entry, Options, Server};
use harness::{Gate, Sds, sds_request};
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// Runs both outages.
pub(crate) fn outage(program: &Path, agents: usize, away: Duration) -> Outcome<()> {
    raise_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(program, agents, away))
}

async fn run(program: &Path, agents: usize, away: Duration) -> Outcome<()> {
    let server = Server::start(Options::default()).await?;
    let gate = Gate::open(server.address()).await;
    let fleet = Fleet::start(program, agents, &server, &gate).await?;
    let world = World { server, gate, agents };
    world.heading();
    world.outage("no callers", away).await;
    let waiting = fleet.wait().await;
    world.outage("a caller at each", away).await;
    drop((waiting, fleet));
    Ok(())
}

/// The agents and their folders.
struct Fleet {
    folder: TempDir,
    agents: Vec<Ended>,
}

impl Fleet {
    /// Starts the agents, twenty a second, and waits until all have synced.
    async fn start(program: &Path, count: usize, server: &Server, gate: &Gate) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        server.create_entry(Entry::new("spiffe://example.org/web", NODE, ["unix:uid:4242"]));
        let mut agents = Vec::with_capacity(count);
        let mut pace = interval(Duration::from_millis(50));
        for number in 0..count {
            pace.tick().await;
            let at = folder.path().join(number.to_string());
            fs::create_dir(&at)?;
            fs::write(at.join("bundle.pem"), server.bundle_pem())?;
            let attestor = "WorkloadAttestor \"unix\" { plugin_data {} }";
            let text = conf(&at, ("127.0.0.1", gate.address().port()), "log_level = \"ERROR\"", attestor);
            fs::write(at.join("agent.conf"), text)?;
            let mut command = Command::new(program);
            command.arg("run").arg("-config").arg(at.join("agent.conf"));
            command.args(["-joinToken", &server.create_join_token_for(NODE)]).stdin(Stdio::null());
            let log = fs::File::create(at.join("log"))?;
            agents.push(Ended(command.stdout(log.try_clone()?).stderr(log).spawn()?));
        }
        let ready = async {
            while server.counters().attested < count as u64 || server.counters().signed < count as u64 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(Duration::from_mins(3), ready)
            .await
            .map_err(|_| "not all agents are ready after 3 minutes")?;
        Ok(Self { folder, agents })
    }

    /// Opens an SDS stream at each agent for a name that has no entry.
    async fn wait(&self) -> Vec<Sds> {
        let mut streams = Vec::new();
        for number in 0..self.agents.len() {
            let socket = self.folder.path().join(number.to_string()).join("api.sock");
            streams.extend(Sds::open(&socket, sds_request(&["spiffe://example.org/late"])).await.ok());
        }
        streams
    }
}

struct World {
    server: Server,
    gate: Gate,
    agents: usize,
}

impl World {
    fn heading(&self) {
        println!("{} agents, sync_interval 5 s", self.agents);
        println!(
            "{:<26} {:>6} {:>13} {:>9} {:>10} {:>17} {:>11}",
            "", "second", "connections/s", "syncs/s", "signings/s", "most connections", "most syncs"
        );
    }

    /// Rests, loses the server, and has it back.
    async fn outage(&self, name: &str, away: Duration) {
        // What the preparation has asked for is over.
        sleep(Duration::from_secs(10)).await;
        let rest = self.observe(&format!("{name}: rest"), Duration::from_mins(1)).await;
        self.gate.shut();
        let lost = self.observe(&format!("{name}: away"), away).await;
        self.gate.lead_to(self.server.address());
        let back = self.observe(&format!("{name}: back"), Duration::from_mins(2)).await;
        let steady = rest.per_second(|load| load.syncs);
        let times = |value: f64| value / steady;
        println!(
            "{name}: at rest {steady:.0} syncs a second; of that: connections offered while away {:.2}, most in one \
             second {:.2}; most connections in one second after the return {:.2}, most syncs {:.2}; \
             all have synced after {}",
            times(lost.per_second(|load| load.connections)),
            times(lost.most(|load| load.connections)),
            times(back.most(|load| load.connections)),
            times(back.most(|load| load.syncs)),
            back.until(self.agents as f64)
                .map_or_else(|| "more than two minutes".into(), |seconds| format!("{seconds} s")),
        );
    }

    /// The load of each second, printed for each ten.
    async fn observe(&self, name: &str, duration: Duration) -> Loads {
        let mut loads = Loads(Vec::new());
        let mut pace = interval(Duration::from_secs(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace.tick().await;
        let start = Instant::now();
        let mut before = self.counters();
        while start.elapsed() < duration {
            pace.tick().await;
            let now = self.counters();
            loads.0.push(Load {
                connections: (now.0 - before.0) as f64,
                syncs: (now.1.syncs - before.1.syncs) as f64,
                signings: (now.1.sign_calls - before.1.sign_calls) as f64,
            });
            before = now;
            if loads.0.len().is_multiple_of(10) {
                let last = Loads(loads.0[loads.0.len() - 10..].to_vec());
                println!(
                    "{name:<26} {:>6} {:>13.1} {:>9.1} {:>10.1} {:>17} {:>11}",
                    loads.0.len(),
                    last.per_second(|load| load.connections),
                    last.per_second(|load| load.syncs),
                    last.per_second(|load| load.signings),
                    last.most(|load| load.connections),
                    last.most(|load| load.syncs),
                );
            }
        }
        loads
    }

    fn counters(&self) -> (u64, Counters) {
        (self.gate.connections(), self.server.counters())
    }
}

/// What happened in one second.
#[derive(Debug, Clone, Copy)]
struct Load {
    connections: f64,
    syncs: f64,
    signings: f64,
}

#[derive(Debug)]
struct Loads(Vec<Load>);

impl Loads {
    fn per_second(&self, of: impl Fn(&Load) -> f64) -> f64 {
        self.0.iter().map(of).sum::<f64>() / self.0.len().max(1) as f64
    }

    fn most(&self, of: impl Fn(&Load) -> f64) -> f64 {
        self.0.iter().map(of).fold(0.0, f64::max)
    }

    /// The first second at which there have been as many connections as agents.
    fn until(&self, agents: f64) -> Option<usize> {
        let mut sum = 0.0;
        self.0.iter().position(|load| {
            sum += load.connections;
            sum >= agents
        })
    }
}

/// Lets this process have all the files that it may.
fn raise_limit() -> Outcome<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// The node alias of all agents, so that one entry is for all of them.
const NODE: &str = "spiffe://example.org/node";
