//! `sds-load`: simulated Envoys and workloads on the socket of a SPIFFE agent. It measures their cost for the agent.
//!
//! The parent samples the agent and shows progress. Worker processes of one thread each make the load, so that load and
//! sampling do not disturb each other, and the agent sees as many callers as intended.
//!
//! * `cli`, `modes`: the command line and the modes. `target`: the socket and the process that listens.
//! * `plan`: the messages between parent and worker. `workers`, `run`: the parent's side. `worker`: the worker's.
//! * `envoy`, `connection`, `wire`, `backoff`: the load. `flood`: the load of a hostile caller.
//! * `tally`: the counters. [`report`]: the report; `assemble` makes it, `table`, `html` and `compare` show it; [`chart`]: a
//!   plot as SVG.
//! * [`process`]: the cost of a process, by the kernel's counters.

pub mod chart;
pub mod process;
pub mod report;

mod assemble;
mod backoff;
mod cli;
mod clock;
mod compare;
mod connection;
mod envoy;
mod error;
mod flood;
mod html;
mod modes;
mod plan;
mod progress;
mod run;
mod table;
mod tally;
mod target;
mod wire;
mod worker;
mod workers;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command, Common};
use error::Error;
use report::Report;

/// Runs the program. It exits with 1 if a stream got no secret or something failed, and with 2 if there is no report.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sds-load: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool, Error> {
    match command {
        Command::Worker => worker::run().map(|()| true),
        Command::Compare { a, b } => {
            let (a, b) = (compare::read(&a)?, compare::read(&b)?);
            print(&compare::render(&a, &b)).map(|()| true)
        }
        command => {
            let output = command.common().cloned();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Worker)?;
            let report = runtime.block_on(modes::run(command))?;
            if let Some(common) = output {
                write(&report, &common)?;
            }
            Ok(report.is_clean())
        }
    }
}

fn write(report: &Report, common: &Common) -> Result<(), Error> {
    let to_file = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|source| Error::Write { path: path.to_owned(), source })
    };
    let standard_output = common.json.as_deref() == Some(Path::new("-"));
    if !common.quiet && !standard_output {
        print(&table::render(report))?;
    }
    if let Some(path) = &common.json {
        let json = serde_json::to_string_pretty(report).unwrap_or_default();
        if standard_output { print(&json)? } else { to_file(path, &json)? }
    }
    common.html.as_ref().map_or(Ok(()), |path| to_file(path, &html::render(report)))
}

fn print(text: &str) -> Result<(), Error> {
    let written = writeln!(io::stdout().lock(), "{}", text.trim_end());
    written.map_err(|source| Error::Write { path: "standard output".into(), source })
}
