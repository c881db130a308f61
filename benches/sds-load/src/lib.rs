//! `sds-load`: simulated Envoys and workloads for the socket of a SPIFFE agent, and what they cost it.
//!
//! The parent samples the agent and shows progress; the load comes from worker processes of one thread each, so that the
//! one does not disturb the other and an agent sees as many callers as it is meant to.
//!
//! * `cli`, `modes`: the command line, and what each mode does. `target`: the socket and who listens.
//! * `plan`: orders and news between parent and worker. `workers`, `run`: the parent's side. `worker`: the other.
//! * `envoy`, `connection`, `wire`, `backoff`: the load itself. `flood`: the load of one who means ill.
//! * `tally`: what is counted. [`report`]: what comes out; `assemble` makes it, `table`, `html`, `compare` show it.
//! * [`process`]: what a process has cost, as the kernel counts it.

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

/// The program. It exits with 1 when a stream had no secret or something failed, and with 2 when there is no report.
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
