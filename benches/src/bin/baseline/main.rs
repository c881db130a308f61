//! Compares agents in one run: measures each row of the comparison with each agent, on this machine.
//!
//! `SPIRE_SERVER=PATH cargo run --release -p finial-benches --bin baseline -- [--only ROW,…] [--runs 3] [--json FILE]
//! finial=PATH spire-agent=PATH`, where `SPIRE_SERVER` is a real spire-server built with cgo (for sqlite).
//!
//! Every agent gets its own server on loopback, a join token and the unix attestor. The agent runs on CPU 0, the load
//! and the server on CPU 1. The runs of the agents alternate, and a row is the median of its runs. A failure is shown
//! with its reason.
//!
//! * `rows`: the rows, their aims and their measurements. `measure`: the code of the measurements.
//! * `world`: a server and an agent. `usage`: the cost of a command. `table`: the output.

mod measure;
mod rows;
mod table;
mod usage;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;

use benches::running::{LOAD_CPU, Outcome, median, pin, tools};
use clap::Parser;
use serde::Serialize;

use rows::{GROUPS, Group, ROWS, Row};

/// Agents side by side, in one run.
#[derive(Debug, Parser)]
struct Cli {
    /// Only these rows or groups of rows; `memory` is `memory-1000` and all the others
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Show the names of the rows
    #[arg(long)]
    list: bool,
    /// The real server
    #[arg(long, env = "SPIRE_SERVER", hide = true)]
    spire_server: Option<PathBuf>,
    /// Agents as NAME=PATH; the first of all is compared with the others
    agents: Vec<String>,
}

/// An agent under measurement.
#[derive(Debug, Clone)]
struct Agent {
    name: String,
    program: PathBuf,
}

/// The inputs of all measurements.
struct Bench {
    spire_server: PathBuf,
    /// The folder of `sds-load` and `bare-socket`.
    tools: PathBuf,
}

/// The results of one agent, by row.
type Results = BTreeMap<&'static str, Cell>;

/// The results of one agent in one row.
#[derive(Debug, Clone, Default, Serialize)]
struct Cell {
    median: Option<f64>,
    values: Vec<f64>,
    /// The reasons of failed runs.
    failures: Vec<String>,
}

fn main() -> Outcome<()> {
    if std::env::args().nth(1).as_deref() == Some(usage::FLAG) {
        return usage::child();
    }
    let cli = Cli::parse();
    if cli.list {
        ROWS.iter().for_each(|row| println!("{:<24} {}", row.id, row.title));
        return Ok(());
    }
    let agents = agents(&cli.agents)?;
    let spire_server =
        cli.spire_server.clone().ok_or("set SPIRE_SERVER to a spire-server that has sqlite")?;
    let bench = Bench { spire_server, tools: tools()? };
    pin(LOAD_CPU)?;
    table::head(&agents);
    let mut results: Vec<Results> = vec![Results::new(); agents.len()];
    for group in GROUPS {
        let chosen = ROWS.iter().any(|row| row.group() == group.id && is_chosen(&cli.only, row));
        for run in 0..if chosen { group.runs(cli.runs) } else { 0 } {
            for (agent, results) in agents.iter().zip(&mut results) {
                eprintln!("{} of {}, run {}", group.id, agent.name, run + 1);
                measure(&bench, group, agent, results);
            }
        }
        if chosen {
            table::rows(group, &agents, &results);
        }
    }
    cli.json.map_or(Ok(()), |path| Ok(std::fs::write(path, table::json(&agents, &results)?)?))
}

fn measure(bench: &Bench, group: &Group, agent: &Agent, results: &mut Results) {
    match (group.measure)(bench, agent) {
        Ok(values) => {
            for (row, value) in values {
                let cell = results.entry(row).or_default();
                cell.values.push(value);
                cell.median = median(cell.values.clone());
            }
        }
        Err(reason) => {
            eprintln!("  failed: {reason}");
            for row in ROWS.iter().filter(|row| row.group() == group.id) {
                results.entry(row.id).or_default().failures.push(reason.to_string());
            }
        }
    }
}

/// Whether `--only` names a row: by its name, its group, or the beginning of its group's name. So `memory` is
/// `memory-1000` and all the others.
fn is_chosen(only: &[String], row: &Row) -> bool {
    let is = |name: &String| {
        let rest = row.id.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
    };
    only.is_empty() || only.iter().any(is)
}

fn agents(arguments: &[String]) -> Outcome<Vec<Agent>> {
    let agent = |argument: &String| {
        let (name, program) = argument.split_once('=').ok_or("agents are given as NAME=PATH")?;
        let program = std::fs::canonicalize(program).map_err(|reason| format!("{program}: {reason}"))?;
        Ok(Agent { name: name.to_owned(), program })
    };
    let agents: Outcome<Vec<Agent>> = arguments.iter().map(agent).collect();
    if arguments.is_empty() {
        Err("usage: baseline [--only ROW,…] NAME=PATH…; --list shows the rows".into())
    } else {
        agents
    }
}
