//! The measurements. Each starts what it needs and returns the values of its rows.

pub(crate) mod entries;
pub(crate) mod jwt;
pub(crate) mod rotations;
pub(crate) mod start;
pub(crate) mod streams;

use benches::running::Outcome;
use sds_load::report::Report;

/// A derived value of a report.
fn derived(report: &Report, key: &str) -> Outcome<f64> {
    Ok(*report.derived.get(key).ok_or_else(|| format!("the report has no {key}"))?)
}

/// A latency of a report: p50, p99 and maximum.
fn latency(report: &Report, name: &str) -> Outcome<[f64; 3]> {
    let latency = report.latencies.get(name).ok_or_else(|| format!("nothing of {name} was timed"))?;
    Ok([latency.p50, latency.p99, latency.max])
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
