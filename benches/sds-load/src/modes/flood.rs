//! The mode `flood`: measures the effect of one hostile neighbour on the others.
//!
//! Each kind of flood is a run of its own. Processes of their own make the flood. Honest callers come at fixed
//! intervals, so that one long wait does not hide the callers who would have waited too. The first run has no flood,
//! for comparison.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::unistd::geteuid;

use super::{BETWEEN_PROBES, REST, UNLIMITED, plan};
use crate::assemble::{Job, assemble};
use crate::cli::{Common, FloodArgs};
use crate::error::Error;
use crate::flood::{self, Kind};
use crate::plan::{Answers, Order, Plan, Work};
use crate::progress::Progress;
use crate::report::{Flood, Point, Report};
use crate::run::{Finished, Run};
use crate::tally::Timed;

/// Runs all chosen kinds.
pub(super) async fn run(common: Common, floods: &FloodArgs) -> Result<Report, Error> {
    if floods.connections == Some(0) {
        return Err(Error::Usage("--connections must be at least 1".to_owned()));
    }
    let kinds = Kind::chosen(&floods.kind);
    let most = kinds.iter().map(|kind| connections(floods, *kind)).max().unwrap_or(0);
    let job = Job::new("flood", common, most, 0)?;
    let user = floods.uid.or_else(|| geteuid().is_root().then_some(NOBODY));
    let (first, mut whole, mut over) = one(&job, floods, None, user).await?;
    let mut rows = vec![first];
    for kind in kinds {
        // If calls fail without a flood, a flood shows nothing.
        if over || rows[0].failed > 0 {
            break;
        }
        let (row, finished, interrupted) = one(&job, floods, Some(kind), user).await?;
        if row.opened == 0 && row.alive && !interrupted {
            return Err(Error::Usage(format!(
                "{}: no connection could be made as UID {}: may that user write to the socket and enter its folder? (--uid)",
                row.kind,
                user.unwrap_or_else(|| geteuid().as_raw())
            )));
        }
        over = interrupted || !row.alive;
        rows.push(row);
        append(&mut whole, finished);
    }
    let failing = rows[0].failed > 0;
    let mut report = assemble(job, whole, Vec::new(), BTreeMap::new());
    report.floods = rows;
    if failing {
        report.hints.push("honest callers fail even without a flood, so nothing else was tried: look at --names and the entries".to_owned());
    }
    if user.is_none_or(|user| user == geteuid().as_raw()) {
        report.hints.push(SAME_USER.to_owned());
    }
    Ok(report)
}

fn connections(floods: &FloodArgs, kind: Kind) -> usize {
    floods.connections.unwrap_or_else(|| kind.usual_connections())
}

/// Runs one kind, or no flood. Also returns whether the user has interrupted the run.
async fn one(
    job: &Job,
    floods: &FloodArgs,
    kind: Option<Kind>,
    user: Option<u32>,
) -> Result<(Flood, Finished, bool), Error> {
    let common = &job.common;
    let name = kind.map_or("nothing", Kind::name);
    let honest = Work::Newcomers { count: UNLIMITED, health_every: Some(BETWEEN_PROBES) };
    let mut plans = vec![plan(common, Answers::Ack, honest)];
    let flooding = kind.map_or(0, |kind| connections(floods, kind));
    plans.extend(kind.into_iter().flat_map(|kind| plans_of(job, floods, kind, user)));
    let progress = Progress::new(common.quiet, name, None);
    let mut run = Run::start(plans, job.process, common.sample, progress).await?;
    match (kind, floods.frames) {
        (None, _) => run.rest(WITHOUT).await?,
        (Some(_), None) => run.rest(floods.duration).await?,
        (Some(_), Some(_)) => {
            let done = flooding as u64;
            let said = run.until(Some(common.timeout), |totals| totals.counts.flood.done >= done).await?;
            if !said && !run.is_interrupted() {
                return Err(Error::Usage(format!(
                    "{name}: not all of {flooding} connections could say their --frames within {} s (--timeout)",
                    common.timeout.as_secs_f64()
                )));
            }
        }
    }
    run.workers.order(HONEST, &Order::Calm).await?;
    run.rest(REST).await?;
    // Each of the honest callers has its own time limit.
    run.until(None, |totals| totals.counts.waiting == 0).await?;
    run.phase("end");
    let interrupted = run.is_interrupted();
    let usual = if kind.is_some() { AFTER } else { Duration::ZERO };
    let settle = common.settle.unwrap_or(usual);
    let finished = run.finish(settle).await?;
    let alive = job.process.is_none_or(|process| process.sample().is_some());
    Ok((row(name, flooding, &finished, alive), finished, interrupted))
}

/// The plans of a flood's processes.
fn plans_of(job: &Job, floods: &FloodArgs, kind: Kind, user: Option<u32>) -> Vec<Plan> {
    let (connections, processes) = (connections(floods, kind), job.common.processes);
    let of = |process: usize| {
        let connections = connections / processes + usize::from(process < connections % processes);
        let flood = flood::Flood { kind, connections, frames: floods.frames, uid: user };
        plan(&job.common, Answers::Never, Work::Flood(flood))
    };
    (0..processes.min(connections)).map(of).collect()
}

/// The row of one kind in the report.
fn row(name: &str, connections: usize, finished: &Finished, alive: bool) -> Flood {
    let counts = &finished.measured.totals.counts;
    let outcome = counts.flood.clone();
    let rss = |phase: &str| {
        let found = finished.phases.iter().find(|found| found.name == phase);
        found.map(|phase| phase.sample.rss_kib)
    };
    let times = finished.measured.latencies.together(&[Timed::Newcomer, Timed::Health]);
    let ms = |quantile| times.as_ref().map(|times| times.value_at_quantile(quantile) as f64 / 1e6);
    let seen = finished.points.iter().map(|point| point.rss_kib);
    Flood {
        kind: name.to_owned(),
        alive,
        calls: counts.newcomers + counts.probes,
        failed: counts.newcomers_failed + counts.probes_failed,
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        rss_before_kib: rss("before"),
        rss_peak_kib: seen.chain(rss("end")).max().filter(|most| *most > 0),
        rss_after_kib: rss("settled").or_else(|| rss("closed")),
        connections: connections as u64,
        opened: outcome.opened,
        refused: outcome.refused,
        closed: outcome.closed,
        frames: outcome.frames,
        goaways: outcome.goaways,
        resets: outcome.resets,
    }
}

/// Appends one run to another.
fn append(whole: &mut Finished, mut next: Finished) {
    let offset = next.start.saturating_sub(whole.start) as f64 / 1e9;
    next.phases.iter_mut().for_each(|phase| phase.at_s += offset);
    next.points.iter_mut().for_each(|point: &mut Point| point.t += offset);
    whole.phases.append(&mut next.phases);
    whole.points.append(&mut next.points);
    whole.end = next.end;
    whole.measured.totals.counts.add(&next.measured.totals.counts);
    whole.measured.latencies.add(&next.measured.latencies.to_pairs());
    whole.measured.cpu += next.measured.cpu;
}

/// The index of the honest callers' worker.
const HONEST: usize = 0;
/// The user `nobody`, on every Linux.
const NOBODY: u32 = 65_534;
const WITHOUT: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(5);
const SAME_USER: &str = "flood and honest callers ran as one user: an agent that shares out by user lets them share one fate. \
                         As root the flood runs as another (--uid); in one pod they share a fate in any case";
