//! Restarts the agent again and again, and counts what two real Envoys notice of it.
//!
//! `ENVOY=… [SPIRE_SERVER=…] cargo run --release -p finial-benches --bin restarts -- [--restarts N] [--nodes N] [--minutes M] [--mode MODE]…
//! [AGENT]` where AGENT is the path of finial. Each mode is another way to go from one process to the next:
//!
//! * `keep`: a keeper starts the agent again after SIGKILL, after SIGTERM, and after SIGKILL with another file in place of
//!   the program, in turn. Each agent lives for ten seconds, so that the keeper starts the next at once.
//! * `systemd`: the same with a holder as systemd is one, 100 ms later.
//! * `surge`: a second keeper takes over, and SIGTERM ends the first.
//!
//! The server is the real one if `SPIRE_SERVER` names it, and otherwise the development server.
//! At each restart the entries of both Envoys are updated. An Envoy that has no new certificate 30 s later is stranded.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use benches::pair::{Counts, NAMES, Node, Pair, Traffic, Unit, Upstream, Waits};
use benches::running::Outcome;
use clap::{Parser, ValueEnum};
use harness::{Agent, envoy_program};
use nix::sys::signal::Signal;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until};

#[derive(Parser)]
struct Arguments {
    /// Restarts in each mode.
    #[arg(long, default_value_t = 1000)]
    restarts: usize,
    /// Nodes at the same time, each with its own agent and Envoys.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// The most minutes for each mode.
    #[arg(long, default_value_t = 600)]
    minutes: u64,
    /// The modes; all if there is none.
    #[arg(long)]
    mode: Vec<Mode>,
    /// The program; otherwise the one beside this program.
    agent: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Keep,
    Systemd,
    Surge,
}

/// What runs the agent.
enum Runner {
    Keeper(Agent),
    Unit(Unit),
}

/// The results of a mode.
#[derive(Default)]
struct Tally {
    counts: Arc<Counts>,
    restarts: AtomicUsize,
    /// The way of each restart, and how long both Envoys waited.
    waits: Mutex<Vec<(&'static str, Waits)>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let envoy = match envoy_program() {
        Ok(envoy) => envoy,
        Err(reason) => {
            println!("skipped: {reason}");
            return ExitCode::from(77);
        }
    };
    match run(arguments, &envoy) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, envoy: &Path) -> Outcome<()> {
    let program = match arguments.agent {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("finial"),
    };
    let modes = if arguments.mode.is_empty() { Mode::value_variants().to_vec() } else { arguments.mode };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!(
        "{:<8} {:<17} {:>8} {:>14} {:>14} {:>8} {:>8} {:>8}",
        "mode", "way", "restarts", "stranded file", "stranded dir", "p50 s", "p99 s", "max s"
    );
    for mode in modes {
        let tally = Arc::new(Tally::default());
        let until = Instant::now() + Duration::from_secs(60 * arguments.minutes);
        // One thread drives the nodes, which mostly wait.
        let (local, mut nodes) = (LocalSet::new(), JoinSet::new());
        for _ in 0..arguments.nodes {
            let (tally, envoy, program) = (Arc::clone(&tally), envoy.to_owned(), program.clone());
            let node = async move {
                let restarted = match std::env::var_os("SPIRE_SERVER") {
                    Some(server) => {
                        let node = Node::start_real(&program, Path::new(&server));
                        restart(node.map_err(words)?, mode, &envoy, &tally, arguments.restarts, until).await
                    }
                    None => {
                        let node = Node::start(&program, Duration::from_mins(10)).await;
                        restart(node.map_err(words)?, mode, &envoy, &tally, arguments.restarts, until).await
                    }
                };
                restarted.map_err(words)
            };
            nodes.spawn_local_on(node, &local);
        }
        let all = local.run_until(async {
            while let Some(ended) = nodes.join_next().await {
                ended??;
            }
            Outcome::Ok(())
        });
        runtime.block_on(all)?;
        tally.print(mode);
    }
    Ok(())
}

/// Restarts the agent of one node until there were enough restarts on all of them.
async fn restart(
    mut node: Node<impl Upstream>,
    mode: Mode,
    envoy: &Path,
    tally: &Tally,
    enough: usize,
    until: Instant,
) -> Outcome<()> {
    let mut runner = match mode {
        Mode::Keep | Mode::Surge => Runner::Keeper(node.keep()),
        Mode::Systemd => Runner::Unit(Unit::start(&node)?),
    };
    if let Runner::Keeper(agent) = &runner {
        agent.wait_for_socket().await;
    }
    let mut pair = Pair::start(envoy, &node).await?;
    let traffic = Traffic::start(pair.port(), node.path("api.sock"), &tally.counts);
    let mut started = Instant::now();
    for way in WAYS.into_iter().cycle() {
        if mode == Mode::Keep {
            sleep_until(started + LIFE).await;
        }
        if Instant::now() > until || tally.restarts.fetch_add(1, Ordering::Relaxed) >= enough {
            break;
        }
        if way == UPGRADE && mode != Mode::Surge {
            node.upgrade()?;
        }
        let signal = if way == TERMINATE { Signal::SIGTERM } else { Signal::SIGKILL };
        started = Instant::now();
        match (&mut runner, mode) {
            (Runner::Keeper(first), Mode::Surge) => {
                let mut second = node.keep();
                second.logged("Taking over from the other agent").await;
                started = Instant::now();
                node.rotate();
                tokio::spawn(std::mem::replace(first, second).stop());
            }
            (Runner::Keeper(agent), _) => {
                agent.signal_kept(signal);
                node.rotate();
            }
            (Runner::Unit(unit), _) => {
                node.rotate();
                unit.restart(&node, signal).await?;
            }
        }
        let waits = pair.rotated(started, LIMIT).await;
        let way = if mode == Mode::Surge { "hand-over" } else { way };
        if waits.contains(&None) {
            let log = match &runner {
                Runner::Keeper(agent) => agent.log(),
                Runner::Unit(_) => std::fs::read_to_string(node.path("log"))?,
            };
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("stranded after {way}:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        tally.waits.lock().unwrap_or_else(PoisonError::into_inner).push((way, waits));
    }
    drop(traffic);
    Ok(())
}

/// An error that another thread may have.
fn words(reason: Box<dyn std::error::Error>) -> String {
    reason.to_string()
}

impl Tally {
    fn print(&self, mode: Mode) {
        let all = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ways: Vec<&str> = all.iter().map(|(way, _)| *way).collect();
        ways.sort_unstable();
        ways.dedup();
        let mode = format!("{mode:?}").to_lowercase();
        for wanted in ways {
            let waits: Vec<Waits> =
                all.iter().filter(|(way, _)| *way == wanted).map(|(_, waits)| *waits).collect();
            let stranded = [0, 1].map(|envoy| waits.iter().filter(|waits| waits[envoy].is_none()).count());
            let mut times: Vec<f64> = waits.iter().flatten().flatten().map(Duration::as_secs_f64).collect();
            times.sort_unstable_by(f64::total_cmp);
            let part = |percent: usize| {
                let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
                times.get(place).copied().unwrap_or_default()
            };
            println!(
                "{mode:<8} {wanted:<17} {:>8} {:>14} {:>14} {:>8.2} {:>8.2} {:>8.2}",
                waits.len(),
                stranded[0],
                stranded[1],
                part(50),
                part(99),
                part(100)
            );
        }
        let [requests, failed, connects, refused] = self.counts.all();
        println!(
            "{mode}: {requests} requests from {} to {}, {failed} failed; {connects} connects, {refused} refused",
            NAMES[0], NAMES[1]
        );
        for words in self.counts.words() {
            println!("  {words}");
        }
    }
}

const TERMINATE: &str = "SIGTERM";
const UPGRADE: &str = "upgrade, SIGKILL";
const WAYS: [&str; 3] = ["SIGKILL", TERMINATE, UPGRADE];
/// An Envoy without a new certificate after this time is stranded.
const LIMIT: Duration = Duration::from_secs(30);
/// How long each agent lives: long enough for the Envoys to have a certificate of it.
const LIFE: Duration = Duration::from_millis(2_000);
