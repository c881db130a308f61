//! The modes: the plans of their workers, and the conditions that the parent waits for.

mod flood;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::assemble::{Job, assemble};
use crate::cli::{Command, Common, FleetArgs, TriggerArgs, Unread};
use crate::clock;
use crate::error::Error;
use crate::plan::{Answers, Hold, Order, Plan, Reading, Work};
use crate::process::Process;
use crate::progress::Progress;
use crate::report::{Report, Rotation};
use crate::run::Run;
use crate::tally::{Arrivals, Content};
use crate::target;
use crate::workers::Totals;

/// Runs a mode and returns its report.
pub(crate) async fn run(command: Command) -> Result<Report, Error> {
    match command {
        Command::Hold { common, fleet, duration } => {
            let mut load = Load::of_streams("hold", common, &fleet, Reading::All, fleet.reconnect).await?;
            load.open().await?;
            load.run.rest(duration).await?;
            load.run.phase("end");
            load.report().await
        }
        Command::Herd { common, fleet } => {
            let mut load = Load::of_streams("herd", common, &fleet, Reading::All, fleet.reconnect).await?;
            load.open().await?;
            load.report().await
        }
        Command::Storm { common, fleet, newcomers, health } => storm(common, &fleet, newcomers, health).await,
        Command::Churn { common, concurrency, count, duration } => {
            churn(common, concurrency, count, duration).await
        }
        Command::Rotate { common, fleet, pushes, trigger } => rotate(common, &fleet, pushes, &trigger).await,
        Command::Slow { common, fleet, unread, window, pushes, duration, trigger } => {
            let reading = match unread {
                Unread::Socket => Reading::UntilServed,
                Unread::Everything => Reading::Nothing,
                Unread::Window => Reading::Window(window),
            };
            slow(common, &fleet, reading, pushes, duration, &trigger).await
        }
        Command::Warm { common, count } => warm(common, count).await,
        Command::Flood { common, floods } => flood::run(common, &floods).await,
        Command::Compare { .. } | Command::Worker => unreachable!("have no run"),
    }
}

/// A run, and the data for its report.
struct Load {
    job: Job,
    run: Run,
    rotations: Vec<Rotation>,
    derived: BTreeMap<String, f64>,
}

impl Load {
    async fn start(job: Job, plans: Vec<Plan>, bar: Option<u64>) -> Result<Self, Error> {
        let common = &job.common;
        let process = job.process;
        let progress = Progress::new(common.quiet, job.mode, bar);
        let run = Run::start(plans, process, common.sample, progress).await?;
        Ok(Self { job, run, rotations: Vec::new(), derived: BTreeMap::new() })
    }

    /// Starts a run of streams that stay open.
    async fn of_streams(
        mode: &'static str,
        common: Common,
        fleet: &FleetArgs,
        reading: Reading,
        reconnect: bool,
    ) -> Result<Self, Error> {
        let job = Job::new(mode, common, fleet.connections, fleet.streams)?;
        let plans = hold_plans(&job, fleet, reading, reconnect);
        let wanted = job.wanted();
        Self::start(job, plans, Some(wanted)).await
    }

    /// Waits until all streams are served or have failed, or the time is over.
    async fn open(&mut self) -> Result<(), Error> {
        let wanted = self.job.wanted();
        self.open_until(move |totals| totals.counts.served + totals.counts.gave_up >= wanted).await
    }

    async fn open_until(&mut self, enough: impl FnMut(&Totals) -> bool) -> Result<(), Error> {
        self.run.until(Some(self.job.common.timeout), enough).await?;
        // Gives the agent time for the last ACKs.
        self.run.rest(REST).await?;
        self.run.phase("open");
        Ok(())
    }

    async fn report(self) -> Result<Report, Error> {
        let finished = self.run.finish(self.job.common.settle.unwrap_or_default()).await?;
        Ok(assemble(self.job, finished, self.rotations, self.derived))
    }
}

fn plan(common: &Common, answers: Answers, work: Work) -> Plan {
    Plan {
        socket: common.socket.clone(),
        api: common.api,
        names: common.names.clone(),
        node_in: common.node,
        node_bytes: common.node_bytes,
        answers,
        work,
    }
}

fn hold_plans(job: &Job, fleet: &FleetArgs, reading: Reading, reconnect: bool) -> Vec<Plan> {
    let processes = job.common.processes.min(fleet.connections);
    let of = |process: usize| {
        let connections = (process..fleet.connections).step_by(processes).collect();
        let hold = Hold {
            connections,
            streams: fleet.streams,
            ramp: fleet.ramp,
            of: fleet.connections,
            reconnect,
            reading,
        };
        plan(&job.common, fleet.answers(), Work::Hold(hold))
    };
    (0..processes).map(of).collect()
}

async fn storm(common: Common, fleet: &FleetArgs, newcomers: usize, health: bool) -> Result<Report, Error> {
    let job = Job::new("storm", common, fleet.connections, fleet.streams)?;
    let mut plans = hold_plans(&job, fleet, Reading::All, true);
    if newcomers > 0 || health {
        let health_every = health.then_some(BETWEEN_PROBES);
        plans.push(plan(&job.common, Answers::Ack, Work::Newcomers { count: newcomers, health_every }));
    }
    let wanted = job.wanted();
    let mut load = Load::start(job, plans, Some(wanted)).await?;
    let timeout = load.job.common.timeout;
    load.run.until(Some(timeout), move |totals| totals.counts.served >= wanted).await?;
    load.run.workers.order_all(&Order::Calm).await?;
    load.run.rest(REST).await?;
    load.open_until(|totals| totals.counts.waiting == 0).await?;
    load.report().await
}

async fn warm(common: Common, count: usize) -> Result<Report, Error> {
    let job = Job::new("warm", Common { processes: 1, ..common }, 0, 0)?;
    let plans = vec![plan(&job.common, Answers::Ack, Work::Warm { count })];
    let mut load = Load::start(job, plans, Some(2 * count as u64)).await?;
    load.run.until(None, |totals| totals.finished).await?;
    load.run.phase("end");
    load.report().await
}

async fn churn(
    common: Common,
    concurrency: usize,
    count: Option<usize>,
    duration: Option<Duration>,
) -> Result<Report, Error> {
    if concurrency == 0 {
        return Err(Error::Usage("--concurrency must be at least 1".to_owned()));
    }
    let job = Job::new("churn", common, concurrency, 1)?;
    let processes = job.common.processes;
    let count = count.or_else(|| duration.is_none().then_some(CHURN));
    // If there are at least as many lanes as processes, each process works on its own. Otherwise they take turns.
    let own = |process: usize, of: usize| of / processes + usize::from(process < of % processes);
    let turns = concurrency < processes;
    let work = |process| match turns {
        true => Work::Churn { lanes: 1, granted: 0 },
        false => Work::Churn {
            lanes: own(process, concurrency),
            granted: count.map_or(UNLIMITED, |count| own(process, count)),
        },
    };
    let plans = (0..processes).map(|process| plan(&job.common, Answers::Ack, work(process))).collect();
    let mut load = Load::start(job, plans, count.map(|count| count as u64)).await?;
    if turns {
        take_turns(&mut load.run, concurrency, count, duration).await?;
    } else {
        let enough = |totals: &Totals| count.is_some_and(|count| totals.counts.exchanges >= count as u64);
        load.run.until(duration, enough).await?;
    }
    load.run.rest(REST).await?;
    load.run.phase("end");
    load.report().await
}

/// Lets the processes do a few exchanges in turn, so that the agent always meets another caller.
async fn take_turns(
    run: &mut Run,
    concurrency: usize,
    count: Option<usize>,
    duration: Option<Duration>,
) -> Result<(), Error> {
    let deadline = duration.map(|duration| Instant::now() + duration);
    let mut left = count.unwrap_or(usize::MAX);
    let mut idle: VecDeque<usize> = (0..run.workers.len()).collect();
    let mut granted = vec![0_u64; run.workers.len()];
    let mut busy = Vec::new();
    while (left > 0 || !busy.is_empty()) && !run.is_interrupted() {
        while busy.len() < concurrency && left > 0 {
            let Some(worker) = idle.pop_front() else { break };
            let batch = left.min(BATCH);
            run.workers.order(worker, &Order::More(batch)).await?;
            granted[worker] += batch as u64;
            left -= batch;
            busy.push(worker);
        }
        if !run.step(deadline).await? {
            break;
        }
        let (done, still) =
            busy.into_iter().partition(|worker| run.workers.exchanges(*worker) >= granted[*worker]);
        let done: Vec<usize> = done;
        idle.extend(done);
        busy = still;
    }
    Ok(())
}

async fn rotate(
    common: Common,
    fleet: &FleetArgs,
    pushes: usize,
    trigger: &TriggerArgs,
) -> Result<Report, Error> {
    let mut load = Load::of_streams("rotate", common, fleet, Reading::All, fleet.reconnect).await?;
    load.open().await?;
    let expected = expected(&load.job.common, fleet);
    let mut seen = BTreeSet::new();
    for _ in 0..pushes {
        if load.run.is_interrupted() {
            break;
        }
        let cpu_before = load.run.cpu_ms();
        let (pushes_before, unneeded_before) = pushed(load.run.totals());
        let triggered = clock::now();
        if let Some(command) = &trigger.trigger {
            load.run.shell(command).await?;
        }
        let limit = trigger.trigger.is_some().then_some(load.job.common.timeout);
        let came = load.run.until(limit, |totals| fresh(totals, &seen).next().is_some()).await?;
        load.job.missing += usize::from(!came && !load.run.is_interrupted());
        let all_there = |totals: &Totals| {
            fresh(totals, &seen).all(|(content, arrivals)| arrivals.streams >= expected[&content.name])
        };
        load.run.until(Some(STRAGGLERS), all_there).await?;
        load.run.rest(trigger.between).await?;
        let (pushed, unneeded) = pushed(load.run.totals());
        let cpu_ms = load.run.cpu_ms().zip(cpu_before).map(|(after, before)| after - before);
        let per_push = cpu_ms.map(|cpu| cpu * 1000.0 / (pushed - pushes_before).max(1) as f64);
        let mut new: Vec<(Content, Arrivals)> =
            fresh(load.run.totals(), &seen).map(|(content, arrivals)| (content.clone(), *arrivals)).collect();
        new.sort_by_key(|(_, arrivals)| arrivals.first);
        for (content, arrivals) in new {
            load.rotations.push(Rotation {
                streams: arrivals.streams,
                expected: expected[&content.name],
                trigger_to_first_ms: trigger.trigger.is_some().then(|| ms(triggered, arrivals.first)),
                spread_ms: ms(arrivals.first, arrivals.last),
                unneeded: unneeded - unneeded_before,
                cpu_ms,
                cpu_us_per_push: per_push,
                name: content.name.clone(),
            });
            seen.insert(content);
        }
    }
    load.run.phase("end");
    load.report().await
}

/// The number of streams for each name.
fn expected(common: &Common, fleet: &FleetArgs) -> BTreeMap<String, u64> {
    let mut expected = BTreeMap::new();
    for stream in 0..fleet.streams {
        *expected.entry(common.names[stream % common.names.len()].clone()).or_default() +=
            fleet.connections as u64;
    }
    expected
}

/// The pushed contents that are not in an earlier rotation.
fn fresh<'a>(
    totals: &'a Totals,
    seen: &'a BTreeSet<Content>,
) -> impl Iterator<Item = (&'a Content, &'a Arrivals)> {
    totals.rotations.iter().filter(|(content, _)| !seen.contains(content))
}

/// The number of all pushes, and of those with nothing new.
fn pushed(totals: &Totals) -> (u64, u64) {
    (totals.counts.pushes + totals.counts.unneeded, totals.counts.unneeded)
}

fn ms(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

async fn slow(
    common: Common,
    fleet: &FleetArgs,
    reading: Reading,
    pushes: usize,
    duration: Duration,
    trigger: &TriggerArgs,
) -> Result<Report, Error> {
    let mut load = Load::of_streams("slow", common, fleet, reading, false).await?;
    let wanted = load.job.wanted();
    match reading {
        Reading::UntilServed | Reading::All => load.open().await?,
        // These streams do not read enough to be served.
        Reading::Nothing | Reading::Window(_) => {
            load.job.expects_secrets = false;
            load.open_until(move |totals| totals.counts.asked + totals.counts.gave_up >= wanted).await?;
        }
    }
    match &trigger.trigger {
        Some(command) => {
            for _ in 0..pushes {
                load.run.shell(command).await?;
                load.run.rest(trigger.between).await?;
            }
        }
        None => load.run.rest(duration).await?,
    }
    load.run.phase("end");
    load.report().await
}

impl Job {
    fn new(
        mode: &'static str,
        mut common: Common,
        connections: usize,
        streams: usize,
    ) -> Result<Self, Error> {
        if common.processes == 0 || common.names.is_empty() {
            return Err(Error::Usage("--processes and --names must not be empty".to_owned()));
        }
        if !common.api.is_sds() {
            common.names = vec![WORKLOAD.to_owned()];
        }
        let process: Option<Process> = target::find(&common.socket, common.pid)?;
        target::raise_descriptors(connections, common.processes, connections * streams)?;
        Ok(Self { mode, common, process, connections, streams, expects_secrets: true, missing: 0 })
    }
}

/// The name of the only answer of FetchX509SVID, which has none.
const WORKLOAD: &str = "FetchX509SVID";
const REST: Duration = Duration::from_millis(500);
const STRAGGLERS: Duration = Duration::from_secs(10);
const BETWEEN_PROBES: Duration = Duration::from_millis(50);
const CHURN: usize = 10_000;
const BATCH: usize = 4;
/// More permits than are ever used, but below the limit of a semaphore.
const UNLIMITED: usize = usize::MAX >> 8;
