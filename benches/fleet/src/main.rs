//! What a fleet of agents offers to its servers.
//!
//! * `fleet simulate`: a hundred thousand agents in virtual time, and a report;
//! * `fleet costs`: measures what the calls of an agent cost a real spire-server, which the simulation works with;
//! * `fleet calibrate`: some real agents at a real spire-server, beside the simulation of as many;
//! * `fleet outage`: real agents at the development server, which they lose.

mod calibrate;
mod measure;
mod outage;
mod simulate;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use benches::running::Outcome;
use clap::{Parser, Subcommand};
use fleet::{Costs, Kind, Size};

#[derive(Debug, Parser)]
#[command(about = "What a fleet of agents offers to its servers")]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Simulates fleets in virtual time and writes a report.
    Simulate {
        /// How many agents.
        #[arg(long, default_value_t = 100_000)]
        agents: usize,
        /// How many identities each has.
        #[arg(long, default_value_t = 10)]
        identities: usize,
        /// The seed of the random generator.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The HTML file of the report.
        #[arg(long)]
        html: Option<PathBuf>,
        /// Only these scenarios.
        scenarios: Vec<String>,
    },
    /// Measures the costs of calls.
    Costs {
        /// The file that they are written to.
        #[arg(long)]
        json: Option<PathBuf>,
        /// What is measured, for the file: the version, the machine and the date.
        #[arg(long)]
        note: String,
        /// A spire-server.
        server: PathBuf,
        /// A finial.
        finial: PathBuf,
        /// A spire-agent.
        spire_agent: PathBuf,
    },
    /// Runs real agents beside their simulation.
    Calibrate {
        #[arg(long, default_value_t = 30)]
        agents: usize,
        #[arg(long, default_value_t = 10)]
        identities: usize,
        /// The interval of syncs in milliseconds.
        #[arg(long, default_value_t = 5000)]
        interval: u64,
        /// The lifetime of SVIDs in seconds.
        #[arg(long, default_value_t = 240)]
        ttl: u64,
        #[arg(long, default_value_t = 5)]
        minutes: usize,
        /// The agent is a spire-agent.
        #[arg(long)]
        spire: bool,
        /// A spire-server.
        server: PathBuf,
        /// A program that takes spire-agent's command line.
        agent: PathBuf,
    },
    /// Real agents lose the development server, and have it back.
    Outage {
        #[arg(long, default_value_t = 1000)]
        agents: usize,
        /// How long it is away, in seconds.
        #[arg(long, default_value_t = 180)]
        away: u64,
        /// A program that takes spire-agent's command line.
        agent: PathBuf,
    },
}

fn main() -> Outcome<()> {
    match Arguments::parse().mode {
        Mode::Simulate { agents, identities, seed, html, scenarios } => {
            let size = Size { agents, identities, ..Size::default() };
            simulate::simulate(&size, seed, html.as_deref(), &scenarios)
        }
        Mode::Costs { json, note, server, finial, spire_agent } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut costs = runtime.block_on(measure::costs(&server, note))?;
            costs.real_sync = calibrate::real_sync(&server, &finial)?;
            costs.real_sync_of_spire_agent = calibrate::real_sync(&server, &spire_agent)?;
            let text = serde_json::to_string_pretty(&costs)? + "\n";
            print!("{text}");
            if let Some(path) = json {
                fs::write(path, text)?;
            }
            Ok(())
        }
        Mode::Calibrate { agents, identities, interval, ttl, minutes, spire, server, agent } => {
            let kind = if spire { Kind::Spire } else { Kind::Uncalled };
            let (interval, lifetime) = (Duration::from_millis(interval), Duration::from_secs(ttl));
            let size = Size { agents, identities, interval, lifetime, ..Size::default() };
            let costs = Costs::checked_in();
            let plan = calibrate::Plan { server, agent, kind, size, minutes };
            calibrate::calibrate(&plan, &costs)
        }
        Mode::Outage { agents, away, agent } => outage::outage(&agent, agents, Duration::from_secs(away)),
    }
}
