//! `fleet simulate`: all scenarios with all kinds of agents, and the report.

use std::fs;
use std::path::Path;

use benches::running::Outcome;
use fleet::{Costs, Facts, Kind, Load, Run, Scenario, Size, judge, page};

/// Runs these scenarios, or all. Prints what came of them, and writes the page.
pub(crate) fn simulate(size: &Size, seed: u64, html: Option<&Path>, only: &[String]) -> Outcome<()> {
    let costs = Costs::checked_in();
    println!(
        "{} agents, seed {seed}, {} replicas of {:.1} cores",
        size.agents,
        size.replicas,
        size.cores(&costs)
    );
    println!(
        "{:<11} {:<9} {:>12} {:>9} {:>12} {:>12} {:>11} {:>9}",
        "scenario", "agents", "CPU s/s rest", "most CPU", "most syncs", "connections", "99 % after", "errors"
    );
    let wanted = |scenario: &Scenario| only.is_empty() || only.iter().any(|name| name == scenario.name);
    let mut all = Vec::new();
    for scenario in Scenario::all().into_iter().filter(wanted) {
        let mut runs = Vec::new();
        for kind in [Kind::Called, Kind::Uncalled, Kind::Spire] {
            let run = fleet::run(&scenario, kind, size, &costs, seed);
            row(&scenario, &run, size.agents);
            runs.push(run);
        }
        all.push((scenario, runs));
    }
    let verdicts = judge(&all, size, &costs);
    for verdict in &verdicts {
        let met = match verdict.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not run",
        };
        println!("\n{met}: {}\n  {}\n  {}", verdict.aim, verdict.figure, verdict.reason);
    }
    if let Some(path) = html {
        fs::write(path, page(&Facts { size, costs: &costs, seed }, &all, &verdicts))?;
    }
    Ok(())
}

fn row(scenario: &Scenario, run: &Run, agents: usize) {
    let (tally, after) = (&run.tally, scenario.after.clone());
    let (cpu, syncs) = (|load: &Load| load.cpu, |load: &Load| f64::from(load.syncs));
    let (rest, rest_syncs) =
        (tally.mean(scenario.rest.clone(), cpu), tally.mean(scenario.rest.clone(), syncs));
    let back = tally.back_within(0.99, agents);
    println!(
        "{:<11} {:<9} {rest:>12.2} {:>9.2} {:>12.2} {:>12.2} {:>11} {:>9.2}",
        scenario.name,
        format!("{:?}", run.kind),
        tally.most(after.clone(), cpu) / rest,
        tally.most(after.clone(), syncs) / rest_syncs,
        tally.most(after, |load| f64::from(load.connections)) / rest_syncs,
        back.map_or_else(String::new, |time| format!("{:.1} s", time.as_secs_f64())),
        tally.sum(0..tally.loads.len(), |load| f64::from(load.errors)) / agents as f64,
    );
}
