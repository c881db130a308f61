//! Two Envoys in mutual TLS for hours, while everything happens to their agent that may happen.
//!
//! `ENVOY=… cargo verify -- --soak [--minutes M]`, or `cargo run -p finial-benches --bin soak -- [--minutes M] [--seed N]
//! [AGENT]`. The operations (`operation`) come one after another at random; each ends with a rotation that both Envoys must
//! get. `growth` looks at the memory and descriptors of agent and keeper. The exit status is 1 if a request failed, a
//! connect was refused, an Envoy was stranded or something has grown; 77 if there is no Envoy.

mod flood;
mod growth;
mod operation;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use benches::pair::{Counts, Node, Pair, Traffic};
use benches::running::Outcome;
use clap::Parser;
use harness::envoy_program;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use self::growth::Growth;
use self::operation::{Operation, World};

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 120)]
    minutes: u64,
    /// The operations of a run are repeated by its seed; otherwise they are others each time.
    #[arg(long)]
    seed: Option<u64>,
    /// The program; otherwise the one beside this program.
    agent: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let [_, word, socket, seconds] = &std::env::args().collect::<Vec<_>>()[..]
        && [flood::WORD, flood::OWN].contains(&&**word)
    {
        let seconds = seconds.parse().unwrap_or(1);
        return exit(flood::run(word, Path::new(socket), seconds).map(|()| true));
    }
    let arguments = Arguments::parse();
    match envoy_program() {
        Ok(envoy) => exit(run(&arguments, &envoy)),
        Err(reason) => {
            println!("skipped: {reason}");
            ExitCode::from(77)
        }
    }
}

fn exit(outcome: Outcome<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, envoy: &Path) -> Outcome<bool> {
    let program = match &arguments.agent {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("finial"),
    };
    let seed = arguments.seed.unwrap_or_else(rand::random);
    println!("seed {seed}, {} minutes", arguments.minutes);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let until = Duration::from_secs(60 * arguments.minutes);
    runtime.block_on(soak(&program, envoy, StdRng::seed_from_u64(seed), until))
}

/// Returns whether all went well.
async fn soak(program: &Path, envoy: &Path, mut random: StdRng, until: Duration) -> Outcome<bool> {
    let node = Node::start(program, SVID_TTL).await?;
    let keeper = node.keep();
    let socket = keeper.wait_for_socket().await;
    let pair = Pair::start(envoy, &node).await?;
    let counts = Arc::<Counts>::default();
    let traffic = Traffic::start(pair.port(), socket, &counts);
    let (start, growth) = (Instant::now(), Growth::watch(keeper.pid()));
    // The first look is at an agent at rest.
    sleep(SETTLE).await;
    let mut world = World { node, keeper, pair, growth };
    let (mut stranded, mut times) = (0, [0; Operation::ALL.len()]);
    // Each operation once in an order of its own, again and again: a short run has them all, too.
    let mut left: Vec<usize> = Vec::new();
    while start.elapsed() < until {
        if left.is_empty() {
            left.extend(0..Operation::ALL.len());
        }
        let place = left.swap_remove(random.random_range(..left.len()));
        let operation = Operation::ALL[place];
        times[place] += 1;
        let [_, failed, _, refused] = counts.all();
        let waits = operation.run(&mut world, &mut random).await?;
        let seconds = waits.map(|wait| match wait {
            Some(wait) => format!("{:.2} s", wait.as_secs_f64()),
            None => "stranded".to_owned(),
        });
        println!("{:>6} s  {operation:?}: rotated after {}", start.elapsed().as_secs(), seconds.join(", "));
        stranded += waits.iter().filter(|wait| wait.is_none()).count();
        let [_, failed_now, _, refused_now] = counts.all();
        if waits.contains(&None) || failed_now > failed || refused_now > refused {
            println!(
                "  {} requests failed, {} connects were refused; the agent's log ends:",
                failed_now - failed,
                refused_now - refused
            );
            let log = world.keeper.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        sleep(Duration::from_millis(random.random_range(..2_000))).await;
    }
    // What a flood or a rotation needs for a moment has been returned then.
    sleep(REST).await;
    drop(traffic);
    for (operation, times) in Operation::ALL.iter().zip(times) {
        println!("{operation:?}: {times} times");
    }
    let [requests, failed, connects, refused] = counts.all();
    println!(
        "{requests} requests, {failed} failed; {connects} connects, {refused} refused; {stranded} Envoys stranded"
    );
    for words in counts.words() {
        println!("  {words}");
    }
    let flat = world.growth.report();
    Ok(failed == 0 && refused == 0 && stranded == 0 && flat)
}

/// Half of it is longer than every outage with what follows.
const SVID_TTL: Duration = Duration::from_mins(3);
const SETTLE: Duration = Duration::from_secs(3);
const REST: Duration = Duration::from_secs(10);
