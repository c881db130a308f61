//! What became of each aim.

use std::time::Duration;

use crate::{Costs, Kind, Load, Run, Scenario, Size, Tally};

/// One aim.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What was wanted.
    pub aim: &'static str,
    /// What was measured.
    pub figure: String,
    /// Whether it is met; `None` if the scenario was not run.
    pub met: Option<bool>,
    /// Why it came out so.
    pub reason: String,
}

/// Compares the runs with the aims.
#[must_use]
pub fn judge(runs: &[(Scenario, Vec<Run>)], size: &Size, costs: &Costs) -> Vec<Verdict> {
    let of = |name: &str, kind| {
        let (scenario, runs) = runs.iter().find(|(scenario, _)| scenario.name == name)?;
        Some((scenario, &runs.iter().find(|run| run.kind == kind)?.tally))
    };
    vec![load(of), back(of, size.agents), taint(of, size), cpu(of, size, costs), errors(of)]
}

fn load<'a>(of: impl Fn(&str, Kind) -> Option<(&'a Scenario, &'a Tally)>) -> Verdict {
    let most =
        |kind| outages().map(|name| of(name, kind).map(|(scenario, tally)| peak(scenario, tally))).collect();
    let all: [Option<Vec<f64>>; 3] = [Kind::Called, Kind::Uncalled, Kind::Spire].map(most);
    let figure = |values: &Option<Vec<f64>>| match values.as_deref() {
        Some([ten, hour]) => format!("{ten:.2} and {hour:.2}"),
        _ => "not run".to_owned(),
    };
    let ours: Option<Vec<f64>> = all[0].clone().zip(all[1].clone()).map(|(one, other)| [one, other].concat());
    Verdict {
        aim: "After ten minutes and after an hour without servers, the load of the worst second is at most 3 times that at \
              rest (CPU of the servers that is asked for)",
        figure: format!(
            "{} with callers at each agent, {} without any; spire-agent {}",
            figure(&all[0]),
            figure(&all[1]),
            figure(&all[2])
        ),
        met: ours.map(|ours| ours.iter().all(|most| *most <= 3.0)),
        reason: "With callers an agent waits at most five seconds for a server that is away, and one second for each \
                 minute of a longer outage, at most a minute; without callers at most a minute. One loop looks for the \
                 server, and what no caller misses yet keeps its wait when it is back. An agent of which every \
                 certificate has expired costs ten times as much as a connection and a sync."
            .into(),
    }
}

fn back<'a>(of: impl Fn(&str, Kind) -> Option<(&'a Scenario, &'a Tally)>, agents: usize) -> Verdict {
    let within = |kind| -> Option<Vec<Option<Duration>>> {
        outages().map(|name| of(name, kind).map(|(_, tally)| tally.back_within(0.99, agents))).collect()
    };
    let figure = |times: &Option<Vec<Option<Duration>>>| match times.as_deref() {
        Some([ten, hour]) => format!("{} and {}", seconds(*ten), seconds(*hour)),
        _ => "not run".to_owned(),
    };
    let all = [Kind::Called, Kind::Uncalled, Kind::Spire].map(within);
    let ours = all[0].clone().zip(all[1].clone()).map(|(one, other)| [one, other].concat());
    let limit = Duration::from_mins(1);
    Verdict {
        aim: "99 % of the agents have synced within 60 s of the servers' return",
        figure: format!(
            "{} with callers, {} without; spire-agent {}",
            figure(&all[0]),
            figure(&all[1]),
            figure(&all[2])
        ),
        met: ours.map(|ours| ours.iter().all(|time| time.is_some_and(|time| time <= limit))),
        reason: "No wait is longer than a minute, and an agent whose certificate has expired attests and syncs at once \
                 when the server is there. spire-agent's waits grow to four minutes; after an hour its processes have \
                 ended, and wait for their next start."
            .into(),
    }
}

fn taint<'a>(of: impl Fn(&str, Kind) -> Option<(&'a Scenario, &'a Tally)>, size: &Size) -> Verdict {
    let ratio = |kind| of("taint", kind).map(|(scenario, tally)| signing(scenario, tally, size));
    let (ours, theirs) = (ratio(Kind::Called), ratio(Kind::Spire));
    let figure = |ratio: Option<Option<Signing>>| match ratio {
        Some(Some(Signing { peak, mean, seconds })) => {
            format!("{:.2} ({peak:.0} of {mean:.0} a second, over {seconds} s)", peak / mean)
        }
        Some(None) => "not all replaced".to_owned(),
        None => "not run".to_owned(),
    };
    Verdict {
        aim: "A tainted authority: the peak of signatures a second is at most 1.5 times their mean until 99 % are replaced",
        figure: format!("{}; spire-agent {}", figure(ours), figure(theirs)),
        met: ours.map(|ours| ours.is_some_and(|signing| signing.peak <= 1.5 * signing.mean)),
        reason: "An agent replaces its SVIDs in one call at a random moment of six sync intervals. The fleet learns of the \
                 taint within one interval, so the rate rises for five seconds, is level for 25 and falls for five."
            .into(),
    }
}

fn cpu<'a>(
    of: impl Fn(&str, Kind) -> Option<(&'a Scenario, &'a Tally)>,
    size: &Size,
    costs: &Costs,
) -> Verdict {
    let minute = |kind| {
        let (scenario, tally) = of("steady", kind)?;
        Some(tally.mean(scenario.after.clone(), |load| load.cpu) * 6e4 / size.agents as f64)
    };
    let (ours, theirs) = (minute(Kind::Called), minute(Kind::Spire));
    let both = ours.zip(theirs);
    let bundles = 12.0 * costs.bundle / 1e3;
    Verdict {
        aim: "At rest the servers' CPU for an agent and minute is at most 60 % of that for spire-agent",
        figure: both.map_or_else(
            || "not run".to_owned(),
            |(ours, theirs)| format!("{:.0} % ({ours:.2} of {theirs:.2} ms)", 100.0 * ours / theirs),
        ),
        met: both.map(|(ours, theirs)| ours <= 0.6 * theirs),
        reason: both.map_or_else(String::new, |(ours, theirs)| {
            format!(
                "Both make the same two calls every five seconds, {:.0} % of it; finial makes them at once, which spares the \
                 server {:.0} % of a sync (thirty real agents of each). Without any GetBundle, {bundles:.1} ms of it, {:.0} % \
                 would remain, and a taint would not be heard of; to sync less often would break sync_interval. The rest \
                 is connections, which the server ends every three minutes, and certificates.",
                100.0 * 12.0 * costs.sync / 1e3 / ours,
                100.0 * (1.0 - costs.real_sync / costs.real_sync_of_spire_agent),
                100.0 * (ours - bundles) / theirs
            )
        }),
    }
}

fn errors<'a>(of: impl Fn(&str, Kind) -> Option<(&'a Scenario, &'a Tally)>) -> Verdict {
    let lines = |kind| {
        of("steady", kind).map(|(_, tally)| tally.sum(0..tally.loads.len(), |load| f64::from(load.errors)))
    };
    let (ours, theirs) = (lines(Kind::Called), lines(Kind::Spire));
    let figure =
        |lines: Option<f64>| lines.map_or_else(|| "not run".to_owned(), |lines| format!("{lines:.0}"));
    Verdict {
        aim: "At rest no agent writes a line of level error",
        figure: format!("{}; spire-agent {}", figure(ours), figure(theirs)),
        met: ours.map(|ours| ours == 0.0),
        reason: "A connection that the server ends is replaced by the next call. This is the model; the real agents' logs \
                 are counted by fleet calibrate."
            .into(),
    }
}

/// The most CPU that was asked for in a second after the disturbance, as a multiple of the mean at rest.
pub(crate) fn peak(scenario: &Scenario, tally: &Tally) -> f64 {
    let cpu = |load: &Load| load.cpu;
    tally.most(scenario.after.clone(), cpu) / tally.mean(scenario.rest.clone(), cpu)
}

/// How SVIDs were replaced.
#[derive(Debug, Clone, Copy)]
struct Signing {
    peak: f64,
    mean: f64,
    seconds: usize,
}

/// Signatures from the taint until as many are made as 99 % of the SVIDs; `None` if they are not.
fn signing(scenario: &Scenario, tally: &Tally, size: &Size) -> Option<Signing> {
    let start = scenario.after.start;
    let wanted = 0.99 * (size.agents * size.identities) as f64;
    let signatures = |load: &Load| f64::from(load.signatures);
    let mut sum = 0.0;
    let last = tally.loads[start..].iter().position(|load| {
        sum += signatures(load);
        sum >= wanted
    })?;
    let seconds = last + 1;
    Some(Signing {
        peak: tally.most(start..start + seconds, signatures),
        mean: sum / seconds as f64,
        seconds,
    })
}

fn outages() -> impl Iterator<Item = &'static str> {
    ["outage-10m", "outage-1h"].into_iter()
}

pub(crate) fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "not at all".to_owned(), |time| format!("{:.0} s", time.as_secs_f64()))
}
