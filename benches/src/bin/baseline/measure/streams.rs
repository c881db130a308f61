//! Measurements of streams: their cost, and how fast they are served.

use benches::running::Outcome;

use super::{derived, latency};
use crate::rows::Values;
use crate::world::{QUIET, World};
use crate::{Agent, Bench};
use sds_load::report::Report;

pub(crate) fn memory_1000(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let report = held(bench, agent, 1000, &[])?;
    Ok(vec![
        ("memory-1000.stream", derived(&report, "rss_kib_per_stream")?),
        ("memory-1000.open", derived(&report, "cpu_us_per_stream")?),
    ])
}

pub(crate) fn memory_5000(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let report = held(bench, agent, 5000, &[])?;
    Ok(vec![("memory-5000.stream", derived(&report, "rss_kib_per_stream")?)])
}

pub(crate) fn memory_10000(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let report = held(bench, agent, 10_000, &["--settle", "60s"])?;
    let grown = derived(&report, "rss_settled_kib")? - derived(&report, "rss_before_kib")?;
    Ok(vec![
        ("memory-10000.stream", derived(&report, "rss_kib_per_stream")?),
        ("memory-10000.after", grown / 1024.0),
    ])
}

pub(crate) fn memory_small(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let report = held(bench, agent, 10_000, &["--node-bytes", "1024"])?;
    Ok(vec![("memory-small.stream", derived(&report, "rss_kib_per_stream")?)])
}

pub(crate) fn memory_delta(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    if agent.name == SPIRE_AGENT {
        return Err("it has no DeltaSecrets".into());
    }
    let report = held(bench, agent, 10_000, &["--api", "delta"])?;
    Ok(vec![
        ("memory-delta.stream", derived(&report, "rss_kib_per_stream")?),
        ("memory-delta.open", derived(&report, "cpu_us_per_stream")?),
    ])
}

pub(crate) fn memory_bundles(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let x509 = held(bench, agent, 5000, &["--api", "x509-bundles"])?;
    let jwt = held(bench, agent, 5000, &["--api", "jwt-bundles"])?;
    Ok(vec![
        ("memory-bundles.x509", derived(&x509, "rss_kib_per_stream")?),
        ("memory-bundles.jwt", derived(&jwt, "rss_kib_per_stream")?),
    ])
}

/// Holds streams, two on each connection, which are opened slowly enough for any agent.
fn held(bench: &Bench, agent: &Agent, streams: usize, more: &[&str]) -> Outcome<Report> {
    let world = World::start(bench, agent, QUIET)?;
    let [connections, processes] = [streams / 2, streams.div_ceil(1000)].map(|number| number.to_string());
    let ramp = format!("{}s", streams / 200);
    let load = [
        "hold",
        "--connections",
        &connections,
        "--processes",
        &processes,
        "--ramp",
        &ramp,
        "--duration",
        "2s",
    ];
    let timeout = ["--timeout", "120s"];
    world.load(&[&load[..], &timeout, more].concat())
}

pub(crate) fn herd(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let world = World::start(bench, agent, QUIET)?;
    let report = world.load(&["herd", "--connections", "110", "--processes", "110"])?;
    Ok(vec![("herd.all", all_served(&report)? * 1e3), ("herd.cpu", derived(&report, "cpu_ms_to_open")?)])
}

pub(crate) fn storm_440(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("storm-440.all", all_served(&storm(bench, agent, 440)?)?)])
}

pub(crate) fn storm_880(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("storm-880.all", all_served(&storm(bench, agent, 880)?)?)])
}

pub(crate) fn storm_1600(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("storm-1600.all", all_served(&storm(bench, agent, 1600)?)?)])
}

pub(crate) fn storm_3200(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("storm-3200.all", all_served(&storm(bench, agent, 3200)?)?)])
}

pub(crate) fn storm_10000(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let report = storm(bench, agent, 10_000)?;
    let [_, newcomers99, newcomers_most] = latency(&report, "newcomer")?;
    let [health50, health99, health_most] = latency(&report, "health")?;
    Ok(vec![
        ("storm-10000.all", all_served(&report)?),
        ("storm-10000.newcomers", newcomers99),
        ("storm-10000.newcomersmax", newcomers_most),
        ("storm-10000.health50", health50),
        ("storm-10000.health", health99),
        ("storm-10000.healthmax", health_most),
    ])
}

fn storm(bench: &Bench, agent: &Agent, streams: usize) -> Outcome<Report> {
    if agent.name == SPIRE_AGENT && streams > 440 {
        // Afterwards it answers only its health check until it is restarted.
        return Err(
            "not run: from some 880 streams at once it stops serving for good, a fault of its gRPC library"
                .into(),
        );
    }
    let world = World::start(bench, agent, QUIET)?;
    let [connections, processes] =
        [streams / 2, (streams / 20).clamp(20, 110)].map(|number| number.to_string());
    world.load(&[
        "storm",
        "--connections",
        &connections,
        "--processes",
        &processes,
        "--newcomers",
        "1000",
        "--health",
    ])
}

fn all_served(report: &Report) -> Outcome<f64> {
    Ok(report.all_served_s.ok_or("not all were served")?)
}

pub(crate) fn warm(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let world = World::start(bench, agent, QUIET)?;
    let sds = world.load(&["warm", "--count", "1000"])?;
    let workload = world.load(&["warm", "--count", "1000", "--api", "workload"])?;
    let [sds50, sds99, _] = latency(&sds, "fresh_stream")?;
    let [connection50, ..] = latency(&sds, "fresh_connection")?;
    let [workload50, workload99, _] = latency(&workload, "fresh_stream")?;
    Ok(vec![
        ("warm.sds50", sds50),
        ("warm.sds99", sds99),
        ("warm.connection50", connection50),
        ("warm.workload50", workload50),
        ("warm.workload99", workload99),
    ])
}

pub(crate) fn churn(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let world = World::start(bench, agent, QUIET)?;
    let each = |api: &str| {
        let report = world.load(&[
            "churn",
            "--api",
            api,
            "--concurrency",
            "16",
            "--processes",
            "110",
            "--count",
            "4000",
        ])?;
        derived(&report, "cpu_us_per_exchange")
    };
    Ok(vec![("churn.sds", each("sds")?), ("churn.workload", each("workload")?)])
}

/// The name of the real spire-agent in the arguments.
const SPIRE_AGENT: &str = "spire-agent";
