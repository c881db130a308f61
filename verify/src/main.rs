//! `cargo verify`: runs the steps of CI, in CI's order.
//!
//! - [`steps`]: the list of steps and their code;
//! - [`soak`]: two Envoys through all that may happen to their agent;
//! - [`suite`]: runs `cargo test` and counts the tests;
//! - [`report`]: headlines, and the table at the end.
//!
//! Every step runs, even if others failed. The exit status is 1 if a step failed. [`verify::tools`] fetches the
//! programs that a step needs.

mod report;
mod soak;
mod steps;
mod suite;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use report::Report;
use steps::{CLUSTER, LONG_SOAK, MINUTES, STEPS, Step};

fn main() -> ExitCode {
    let steps = match chosen(env::args().skip(1).skip_while(|word| word == "--")) {
        Ok(Some(steps)) => steps,
        Ok(None) => {
            for step in named() {
                println!("{:12}{}", step.name, step.what);
            }
            return ExitCode::SUCCESS;
        }
        Err(reason) => {
            eprintln!(
                "{reason}\nusage: cargo verify [--list] [--only STEP]... [--cluster] [--soak [--minutes M]]"
            );
            return ExitCode::from(2);
        }
    };
    if let Err(reason) = enter_workspace() {
        eprintln!("{reason}");
        return ExitCode::FAILURE;
    }
    let mut report = Report::default();
    for step in steps {
        report.run(step);
    }
    if report.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The steps to run; `None` for `--list`.
fn chosen(mut arguments: impl Iterator<Item = String>) -> Result<Option<Vec<&'static Step>>, String> {
    let mut only = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => return Ok(None),
            "--cluster" => only.push(&CLUSTER),
            "--soak" => only.push(&LONG_SOAK),
            "--minutes" => {
                let minutes = arguments.next().and_then(|number| number.parse().ok());
                MINUTES
                    .set(minutes.ok_or("--minutes needs a number")?)
                    .map_err(|_| "--minutes comes twice")?;
            }
            "--only" => {
                let name = arguments.next().ok_or("--only needs a step")?;
                only.push(named().find(|step| step.name == name).ok_or_else(|| format!("no step {name}"))?);
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    if only.is_empty() {
        only.extend(STEPS);
    }
    Ok(Some(only))
}

/// All steps that `--list` shows and `--only` accepts.
fn named() -> impl Iterator<Item = &'static Step> {
    STEPS.iter().chain([&CLUSTER, &LONG_SOAK])
}

fn enter_workspace() -> Result<(), String> {
    let cargo = ["locate-project", "--workspace", "--message-format", "plain"];
    let found = Command::new("cargo").args(cargo).output().map_err(|reason| format!("cargo: {reason}"))?;
    let manifest = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    let root = manifest.parent().ok_or("run this inside the repository")?;
    env::set_current_dir(root).map_err(|reason| format!("{}: {reason}", root.display()))
}
