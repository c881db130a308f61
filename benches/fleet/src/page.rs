//! The report as one HTML page, without scripts, fonts or external resources. It is light or dark, as the reader
//! prefers.

use std::fmt::Write as _;

use sds_load::chart::{Chart, Line, STYLE, Scale, escape};

use crate::aims::{peak, seconds};
use crate::{Costs, Kind, Load, Run, Scenario, Size, Tally, Verdict};

/// What the page is about.
#[derive(Debug)]
pub struct Facts<'a> {
    /// How many agents and servers there were, and what each agent had.
    pub size: &'a Size,
    /// What calls cost.
    pub costs: &'a Costs,
    /// The seed of the random generator.
    pub seed: u64,
}

/// The complete page.
#[must_use]
pub fn page(facts: &Facts<'_>, runs: &[(Scenario, Vec<Run>)], verdicts: &[Verdict]) -> String {
    let size = facts.size;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>A fleet in virtual time</title>\n<style>\n{STYLE}td, th {{ text-align: left; white-space: normal; }} .plots {{ margin-top: 32px; }}\n\
         </style>\n</head>\n<body>\n<main>\n\
         <header><p class=\"mode\"><b>fleet simulate</b></p><h1>{} agents in virtual time</h1>\
         <p class=\"facts\">{} identities each · sync_interval {:?} · SVIDs of {:?} · {} replicas of {:.1} cores, {:.0} % \
         used at rest · seed {}</p></header>\n",
        size.agents,
        size.identities,
        size.interval,
        size.lifetime,
        size.replicas,
        size.cores(facts.costs),
        100.0 * size.used,
        facts.seed
    );
    page += &aims(verdicts);
    page += &summary(runs, size.agents);
    page += "<div class=\"plots\">\n";
    for (scenario, runs) in runs {
        page += &plots(scenario, runs);
    }
    page += "</div>\n";
    page += &costs(facts.costs);
    page += &limits();
    page + "</main>\n</body>\n</html>\n"
}

fn aims(verdicts: &[Verdict]) -> String {
    let row = |verdict: &Verdict| {
        let met = match verdict.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not run",
        };
        [verdict.aim.to_owned(), met.to_owned(), verdict.figure.clone(), verdict.reason.clone()].to_vec()
    };
    table("Aims", &["aim", "", "figure", "why"], verdicts.iter().map(row))
}

fn summary(runs: &[(Scenario, Vec<Run>)], agents: usize) -> String {
    let rows = runs.iter().flat_map(|(scenario, runs)| {
        runs.iter().map(move |run| {
            let (tally, after) = (&run.tally, scenario.after.clone());
            let syncs = tally.mean(scenario.rest.clone(), |load| f64::from(load.syncs));
            let times = |of: fn(&Load) -> f64| format!("{:.2}", tally.most(after.clone(), of) / syncs);
            vec![
                scenario.title.to_owned(),
                name(run.kind).to_owned(),
                format!("{:.2}", peak(scenario, tally)),
                times(|load| f64::from(load.syncs)),
                times(|load| f64::from(load.connections)),
                if tally.back.is_empty() { String::new() } else { seconds(tally.back_within(0.99, agents)) },
                format!("{:.0}", tally.sum(0..tally.loads.len(), |load| f64::from(load.refusals))),
                format!(
                    "{:.2}",
                    tally.sum(0..tally.loads.len(), |load| f64::from(load.errors)) / agents as f64
                ),
            ]
        })
    });
    let columns = [
        "what happens",
        "agents",
        "most CPU in a second, times rest",
        "most syncs, times rest",
        "most connections, times syncs at rest",
        "99 % have synced",
        "refusals",
        "error lines of an agent",
    ];
    table("Scenarios", &columns, rows)
}

fn plots(scenario: &Scenario, runs: &[Run]) -> String {
    let rest = |tally: &Tally| tally.mean(scenario.rest.clone(), |load| load.cpu).max(f64::MIN_POSITIVE);
    let figures = chart(
        &format!("{}: CPU that is asked for, times rest", scenario.title),
        runs,
        |tally| Box::new(move |load: &Load| load.cpu / rest(tally)),
        |times| format!("{times:.1}"),
    );
    let (what, of): (_, fn(&Load) -> f64) = match scenario.name {
        "taint" | "start" => ("signatures a second", |load| f64::from(load.signatures)),
        "storm" => ("refusals a second", |load| f64::from(load.refusals)),
        "steady" => ("syncs a second", |load| f64::from(load.syncs)),
        _ => ("connections a second", |load| f64::from(load.connections)),
    };
    figures + &chart(&format!("{}: {what}", scenario.title), runs, |_| Box::new(of), count)
}

fn chart<'a>(
    title: &str,
    runs: &'a [Run],
    of: impl Fn(&'a Tally) -> Box<dyn Fn(&Load) -> f64 + 'a>,
    unit: fn(f64) -> String,
) -> String {
    let line = |run: &'a Run| {
        let of = of(&run.tally);
        let step = run.tally.loads.len().div_ceil(POINTS).max(1);
        // The most of each step, so that no peak is lost.
        let point = |(number, loads): (usize, &[Load])| {
            ((number * step) as f64, loads.iter().map(&of).fold(0.0, f64::max))
        };
        let points = run.tally.loads.chunks(step).enumerate().map(point).collect();
        Line { name: name(run.kind).to_owned(), points, right: false, area: false }
    };
    Chart {
        title,
        x: Scale::Linear,
        x_unit: |second| format!("{:.0} min", second / 60.0),
        left_unit: unit,
        right_unit: None,
        lines: runs.iter().map(line).collect(),
    }
    .render()
}

fn costs(costs: &Costs) -> String {
    let rows = [
        ("connection", costs.connection),
        ("sync (two calls)", costs.sync),
        ("… of which GetBundle", costs.bundle),
        ("attestation, its connection included", costs.attestation),
        ("RenewAgent", costs.renewal),
        ("PostStatus", costs.status),
        ("BatchNewX509SVID", costs.batch),
        ("… and for each entry", costs.signature),
        ("a refusal", costs.refusal),
        ("a sync of 30 finials that sync each second", costs.real_sync),
        ("… of 30 spire-agents", costs.real_sync_of_spire_agent),
    ];
    let rows = rows.into_iter().map(|(what, cost)| vec![what.to_owned(), format!("{cost:.0} µs")]);
    table(&format!("CPU of a spire-server: {}", costs.measured), &["", ""], rows)
}

fn limits() -> String {
    let sentences = [
        "finial’s decisions (waits, syncs, batches, renewals, replacements) are the agent’s own code. What leads from one to \
         the next is written again here, as are spire-agent’s rules.",
        "A replica works through one queue at the measured costs. Database, network and the garbage of Go are in the costs \
         or nowhere. A call that is given up has cost all the same.",
        "A process that ends starts again as in Kubernetes: after 10 s, and twice as long each time, up to five minutes. \
         Keys are in memory, and agents can attest anew.",
    ];
    let items: String = sentences.iter().map(|sentence| format!("<p>{sentence}</p>\n")).collect();
    format!("<section><h2>What this is not</h2>{items}</section>\n")
}

fn table(title: &str, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: String = columns.iter().map(|column| format!("<th>{}</th>", escape(column))).collect();
    let mut text =
        format!("<section><h2>{}</h2><div class=\"wide\"><table>\n<tr>{head}</tr>\n", escape(title));
    for cells in rows {
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "<tr>{cells}</tr>");
    }
    text + "</table></div></section>\n"
}

/// The agents in words.
pub(crate) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Called => "finial, callers at each",
        Kind::Uncalled => "finial, no callers",
        Kind::Spire => "spire-agent",
    }
}

fn count(count: f64) -> String {
    if count >= 1e4 { format!("{:.0} k", count / 1e3) } else { format!("{count:.0}") }
}

/// The most points of a line.
const POINTS: usize = 600;
