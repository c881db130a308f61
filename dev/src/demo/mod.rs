//! `cargo demo`: runs the application that finial is made for on this machine, with one command.
//!
//! It starts a SPIRE server, two agents and the Envoys of `frontend → yelbapp → yelbdb, redis`. These call each other
//! over mTLS twenty times a second while their certificates are replaced. Then a stranger calls, and a workload that is
//! registered late.
//!
//! * `arguments`: the flags. `programs`: builds finial, fetches Envoy.
//! * `plan`: the workloads, who may call whom, and the registration entries. `sidecar`: the Envoy configuration from
//!   that.
//! * `world`: all that runs, as `process`es that cannot outlive the demo. `agent`: the configuration of the agents.
//!   `ports`: their ports.
//! * `envoy`: reads an Envoy's admin port. `traffic`: the calls. `http`: a GET. `wait`: polls for a condition.
//! * `story`: the steps in order. `checks`: what each step checks. `screen`, `table`: the output. `failure`: an early
//!   end.

mod agent;
mod arguments;
mod checks;
mod envoy;
mod failure;
mod http;
mod plan;
mod ports;
mod process;
mod programs;
mod screen;
mod sidecar;
mod story;
mod table;
mod traffic;
mod wait;
mod world;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use arguments::{Arguments, Invocation};
use failure::Failure;
use programs::Programs;
use screen::Screen;
use story::Story;
use traffic::Traffic;
use world::World;

/// Runs the demo with the words after the program's name.
pub fn main(words: impl Iterator<Item = String>) -> ExitCode {
    let arguments = match Arguments::parse(words) {
        Ok(Invocation::Demo(arguments)) => arguments,
        Ok(Invocation::Help) => {
            println!("{}", arguments::HELP);
            return ExitCode::SUCCESS;
        }
        Err(failure) => return failure.show(),
    };
    let screen = Screen::new(!arguments.check);
    match prepare_and_run(&arguments, &screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            screen.clear_table();
            failure.show()
        }
    }
}

fn prepare_and_run(arguments: &Arguments, screen: &Screen) -> Result<(), Failure> {
    screen.title("finial demo: frontend → yelbapp → yelbdb, redis, over mTLS by SPIFFE");
    let programs = Programs::prepare(arguments.agent.as_deref(), screen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|reason| Failure::new(format!("cannot start: {reason}")))?;
    let ended = runtime.block_on(run(arguments, &programs, screen));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}

async fn run(arguments: &Arguments, programs: &Programs, screen: &Screen) -> Result<(), Failure> {
    let mut world = World::new(arguments, programs)?;
    let story = Story::new(arguments, screen);
    let played = tokio::select! {
        played = story.play(&mut world) => played,
        () = interrupted() => Err(Failure::interrupted()),
    };
    let ended = match played {
        Ok(traffic) if arguments.keep => stay(&world, screen, traffic).await,
        Ok(_) => Ok(()),
        Err(failure) => Err(failure),
    };
    if arguments.keep || ended.as_ref().is_err_and(|failure| !failure.is_interruption()) {
        // The user wants to read the logs.
        world.keep_files();
    }
    ended
}

/// Keeps everything running until Ctrl-C (`--keep`).
async fn stay(world: &World<'_>, screen: &Screen, _calls: Traffic) -> Result<(), Failure> {
    screen.line(&format!("\n{}\n\nIt all goes on until Ctrl-C.", world.where_it_is()));
    tokio::select! {
        Err(failure) = world.watch(screen) => Err(failure),
        () = interrupted() => Ok(()),
    }
}

async fn interrupted() {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}
