//! Makes the report from the measurements.

use std::collections::BTreeMap;
use std::fs;

use clap::ValueEnum;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::Common;
use crate::process::Process;
use crate::report::{self, ErrorCount, FORMAT, Latency, Machine, Phase, Report, Rotation, Setup, Target};
use crate::run::Finished;
use crate::tally::{Counts, Timed};

/// The load of a run, as the report describes it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) mode: &'static str,
    pub(crate) common: Common,
    pub(crate) process: Option<Process>,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    /// Whether streams should get a secret. Some slow readers should not.
    pub(crate) expects_secrets: bool,
    /// The number of rotations without a push.
    pub(crate) missing: usize,
}

impl Job {
    /// The number of streams that stay open.
    pub(crate) fn wanted(&self) -> u64 {
        (self.connections * self.streams) as u64
    }

    fn holds(&self) -> bool {
        !matches!(self.mode, "churn" | "warm" | "flood")
    }
}

/// The report.
pub(crate) fn assemble(
    job: Job,
    finished: Finished,
    rotations: Vec<Rotation>,
    mut derived: BTreeMap<String, f64>,
) -> Report {
    let counts = &finished.measured.totals.counts;
    let wanted = if job.holds() && job.expects_secrets { job.wanted() } else { 0 };
    let served = if job.holds() { counts.served } else { 0 };
    let all_served = wanted > 0 && served >= wanted;
    derived.insert("load_cpu_ms".to_owned(), finished.measured.cpu as f64 / 1e6);
    derive(&mut derived, &job, counts, &finished.phases, &rotations);
    let latencies = finished.measured.latencies.iter();
    let unserved = if wanted > 0 { &finished.measured.unserved[..] } else { &[] };
    let program = job.process.map(Process::name).unwrap_or_default();
    Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: job.mode.to_owned(),
        label: job.common.label.clone().unwrap_or_else(|| program.clone()),
        command: std::env::args().collect(),
        started: started(finished.start),
        machine: machine(),
        target: Target {
            socket: job.common.socket.display().to_string(),
            pid: job.process.map(Process::id),
            program,
        },
        setup: setup(&job),
        elapsed_s: seconds(finished.start, finished.end),
        wanted,
        served,
        all_served_s: all_served.then(|| seconds(finished.start, counts.last_served)),
        unserved: unserved
            .iter()
            .take(SHOWN)
            .map(|(connection, name)| format!("connection {connection}: {name}"))
            .collect(),
        errors: errors(counts),
        hints: hints(&job, counts, wanted),
        latencies: latencies
            .map(|(timed, histogram)| (key(timed).to_owned(), Latency::of(histogram)))
            .collect(),
        counts: named(counts),
        rotations,
        floods: Vec::new(),
        phases: finished.phases,
        derived,
        timeline: report::thin(finished.points),
    }
}

/// Derives costs from the phases, such as CPU time and memory per stream.
fn derive(
    derived: &mut BTreeMap<String, f64>,
    job: &Job,
    counts: &Counts,
    phases: &[Phase],
    rotations: &[Rotation],
) {
    let at = |name: &str| phases.iter().find(|phase| phase.name == name).map(|phase| phase.sample);
    let mut put = |key: &str, value: f64| {
        derived.insert(key.to_owned(), value);
    };
    let (before, open, end) = (at("before"), at("open"), at("end"));
    let streams = if job.expects_secrets { counts.served } else { counts.asked } as f64;
    if let (Some(before), Some(open), true) = (before, open, streams > 0.0) {
        put("cpu_us_per_stream", (open.cpu_ms - before.cpu_ms) * 1000.0 / streams);
        put("cpu_ms_to_open", open.cpu_ms - before.cpu_ms);
        put("rss_kib_per_stream", (open.rss_kib as f64 - before.rss_kib as f64) / streams);
        put("anon_kib_per_stream", (open.anon_kib as f64 - before.anon_kib as f64) / streams);
    }
    if let (Some(before), Some(end), true) = (before, end, counts.exchanges > 0) {
        put("cpu_us_per_exchange", (end.cpu_ms - before.cpu_ms) * 1000.0 / counts.exchanges as f64);
    }
    if let (Some(open), Some(end), true) = (open, end, matches!(job.mode, "slow" | "hold")) {
        put("rss_growth_kib", end.rss_kib as f64 - open.rss_kib as f64);
        put("cpu_ms_while_open", end.cpu_ms - open.cpu_ms);
    }
    for (key, value) in [
        ("cpu_us_per_push", median(rotations.iter().filter_map(|rotation| rotation.cpu_us_per_push))),
        ("spread_ms", median(rotations.iter().map(|rotation| rotation.spread_ms))),
        ("trigger_to_first_ms", median(rotations.iter().filter_map(|rotation| rotation.trigger_to_first_ms))),
    ] {
        if let Some(value) = value {
            put(key, value);
        }
    }
    for (phase, key) in [
        ("before", "rss_before_kib"),
        ("open", "rss_open_kib"),
        ("closed", "rss_closed_kib"),
        ("settled", "rss_settled_kib"),
    ] {
        if let Some(sample) = at(phase) {
            put(key, sample.rss_kib as f64);
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Hints for the user about what went wrong.
fn hints(job: &Job, counts: &Counts, wanted: u64) -> Vec<String> {
    let mut hints = Vec::new();
    let failed = |codes: &[&str]| codes.iter().any(|code| counts.errors.contains_key(*code));
    if failed(&["PermissionDenied", "InvalidArgument"]) {
        hints.push(format!(
            "the agent has no identity for these processes under {}: create an entry whose selectors match them (they run \
             as UID {}, as {}), or give --names that it has",
            job.common.names.join(", "),
            nix::unistd::getuid(),
            std::env::current_exe().unwrap_or_default().display()
        ));
    }
    // During a flood, the flood causes these errors.
    if job.mode != "flood" && failed(&["ResourceExhausted", "connection lost", "RST_STREAM REFUSED_STREAM"]) {
        hints.push(
            "agents cap what one process may open (1,024 connections, 4,096 streams): more --processes"
                .to_owned(),
        );
    }
    let unserved = wanted.saturating_sub(counts.served + counts.gave_up);
    if unserved > 0 && counts.errors.is_empty() {
        hints.push(format!(
            "{unserved} streams were taken but had no secret within {} s: an agent may hold a stream until an entry for \
             its name is created; check --names and the entries, or give it more --timeout",
            job.common.timeout.as_secs_f64()
        ));
    }
    if job.missing > 0 {
        hints.push(format!(
            "{} rotations brought no push within {} s: does --trigger change what these streams hold, and has the agent \
             heard of it by then?",
            job.missing,
            job.common.timeout.as_secs_f64()
        ));
    }
    if job.process.is_none() {
        hints.push(
            "the agent was not measured: who listens cannot be seen from here, so give its --pid".to_owned(),
        );
    }
    hints
}

fn setup(job: &Job) -> Setup {
    let word = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    };
    let common = &job.common;
    let sds = common.api.is_sds();
    Setup {
        api: word(common.api.to_possible_value()),
        connections: job.connections,
        streams: job.streams,
        processes: common.processes,
        node: if sds { word(common.node.to_possible_value()) } else { String::new() },
        node_bytes: if sds { common.node_bytes } else { 0 },
        names: common.names.clone(),
    }
}

fn errors(counts: &Counts) -> Vec<ErrorCount> {
    let error = |(code, errors): (&String, &crate::tally::Errors)| ErrorCount {
        code: code.clone(),
        count: errors.count,
        example: errors.example.clone(),
    };
    counts.errors.iter().map(error).collect()
}

fn named(counts: &Counts) -> BTreeMap<String, u64> {
    let all = [
        ("connections_opened", counts.connections_opened),
        ("streams_opened", counts.streams_opened),
        ("pushes", counts.pushes),
        ("unneeded_pushes", counts.unneeded),
        ("acks", counts.acks),
        ("nacks", counts.nacks),
        ("exchanges", counts.exchanges),
        ("newcomers", counts.newcomers),
        ("newcomers_failed", counts.newcomers_failed),
        ("health_probes", counts.probes),
        ("health_probes_failed", counts.probes_failed),
        ("bytes_in", counts.bytes_in),
        ("bytes_out", counts.bytes_out),
    ];
    all.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn key(timed: Timed) -> &'static str {
    match timed {
        Timed::FirstSecret => "first_secret",
        Timed::ArrivalToAck => "arrival_to_ack",
        Timed::Newcomer => "newcomer",
        Timed::Health => "health",
        Timed::Exchange => "exchange",
        Timed::FreshStream => "fresh_stream",
        Timed::FreshConnection => "fresh_connection",
    }
}

fn machine() -> Machine {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let load = read("/proc/loadavg");
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        load_average: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
    }
}

fn started(start: u64) -> String {
    let ago = time::Duration::nanoseconds_i128(i128::from(crate::clock::now().saturating_sub(start)));
    let started =
        (OffsetDateTime::now_utc() - ago).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    started.format(&Rfc3339).unwrap_or_default()
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

const SHOWN: usize = 20;
