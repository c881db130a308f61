//! `cargo demo`: the application that finial is for, on this machine, in one command.
//!
//! A SPIRE server, two agents and the Envoys of `frontend → yelbapp → yelbdb, redis`, which call each other over mTLS
//! twenty times a second while their certificates are replaced; then a stranger, and somebody who registers late.
//!
//! * [`arguments`]: the flags. [`programs`]: finial is built, Envoy is fetched.
//! * [`plan`]: who there is, who may call whom, what the server knows. `sidecar`: that as Envoy's configuration.
//! * [`world`]: all that runs, in `process`es that cannot outlive the demo; `agent`: the agents among them.
//! * [`envoy`]: what an Envoy tells about itself. [`traffic`]: the calls. `http`: a GET.
//! * [`story`]: what happens, and what must be seen. [`screen`], `table`: how it is shown.

mod agent;
mod arguments;
mod envoy;
mod failure;
mod http;
mod plan;
mod process;
mod programs;
mod screen;
mod sidecar;
mod story;
mod table;
mod traffic;
mod world;

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use arguments::{Arguments, Wanted};
use failure::Failure;
use programs::Programs;
use screen::Screen;
use story::Story;
use world::World;

/// Runs the demo with the words after the program's name.
pub fn main(words: impl Iterator<Item = String>) -> ExitCode {
    let arguments = match Arguments::parse(words) {
        Ok(Wanted::Demo(arguments)) => arguments,
        Ok(Wanted::Help) => {
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
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(arguments, &programs, screen) => ended,
            reason = interrupted() => Err(reason),
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}

async fn run(arguments: &Arguments, programs: &Programs, screen: &Screen) -> Result<(), Failure> {
    let mut world = World::new(arguments, programs)?;
    let ended = play(arguments, &mut world, screen).await;
    if ended.is_err() || arguments.keep {
        // The logs are wanted.
        world.keep_files();
    }
    ended
}

async fn play(arguments: &Arguments, world: &mut World<'_>, screen: &Screen) -> Result<(), Failure> {
    // The calls go on as long as this lives.
    let _traffic = Story::new(arguments, screen).play(world).await?;
    if arguments.keep {
        screen.line(&world.where_it_is());
        screen.line("It all goes on until Ctrl-C.");
        let _: std::convert::Infallible = world.watch(screen).await?;
    }
    Ok(())
}

async fn interrupted() -> Failure {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
    Failure::interrupted()
}
