//! The checks that only observe the Envoys. They are the same for the built-in server and a real one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::envoy::{Envoy, Stats};
use super::failure::Failure;
use super::http;
use super::plan::Workload;
use super::traffic::{CALLS, Traffic, call};
use super::wait::until;
use super::world::World;

/// The serial number of each registered workload's certificate, by the workload's name.
pub(crate) type Serials = BTreeMap<&'static str, String>;

/// The present serial numbers.
///
/// # Errors
/// If an Envoy does not answer.
pub(crate) async fn serials(world: &World<'_>) -> Result<Serials, Failure> {
    let mut serials = Serials::new();
    for (workload, envoy) in world.workloads().filter(|(workload, _)| workload.registered) {
        let own = envoy.certificates().await?.own;
        serials.insert(workload.name, own.first().map(|own| own.serial.clone()).unwrap_or_default());
    }
    Ok(serials)
}

/// Checks that each Envoy has one healthy connection to its agent, by its `/clusters`.
///
/// # Errors
/// If an Envoy has none soon.
pub(crate) async fn connections(world: &World<'_>) -> Result<(), Failure> {
    for (workload, envoy) in world.workloads() {
        let connected = async || Ok(envoy.agent_connection().await?.then_some(()));
        until(SOON, connected).await?.ok_or_else(|| {
            envoy
                .process
                .failure("has no healthy connection to its agent")
                .with_log(&world.agent_log(workload))
        })?;
    }
    Ok(())
}

/// Checks that calls reach the database and the cache.
///
/// # Errors
/// If one of them does not answer soon.
pub(crate) async fn chain_works(frontend: &Envoy) -> Result<(), Failure> {
    for (path, expected) in CALLS {
        let mut last = String::new();
        let works = async || match call(frontend.port, path, expected).await {
            Ok(()) => Ok(Some(())),
            Err(reason) => {
                last = reason;
                Ok(None)
            }
        };
        until(SOON, works).await?.ok_or_else(|| frontend.process.failure(&format!("GET {path}: {last}")))?;
    }
    Ok(())
}

/// Checks that `ssl.handshake` grows with each call.
///
/// # Errors
/// If it does not, on a listener or a cluster.
pub(crate) async fn handshakes(world: &World<'_>, traffic: &Traffic) -> Result<(), Failure> {
    let chain: Vec<_> = world.workloads().filter(|(workload, _)| workload.in_chain()).collect();
    let mut before = Vec::new();
    for (workload, envoy) in &chain {
        before.push(both_sides(workload, &envoy.stats().await?));
    }
    let calls = traffic.tally().ok;
    let enough = async || Ok((traffic.tally().ok >= calls + CALLS_COUNTED).then_some(()));
    until(SOON, enough)
        .await?
        .ok_or_else(|| Failure::new(format!("calls do not go on: {:?}", traffic.tally())))?;
    for ((workload, envoy), before) in chain.iter().zip(before) {
        // yelbdb and redis get every other call. One call may be under way at the beginning and at the end.
        let share = if workload.routes.is_empty() { CALLS_COUNTED / 2 } else { CALLS_COUNTED };
        let now = both_sides(workload, &envoy.stats().await?);
        for (what, now, before) in [("as server", now.0, before.0), ("as client", now.1, before.1)] {
            if let (Some(now), Some(before)) = (now, before)
                && now < before + share - 1
            {
                let what = format!("{what} made {} handshakes in {share} calls", now - before);
                return Err(envoy.process.failure(&what));
            }
        }
    }
    Ok(())
}

/// The counts of handshakes with callers and with callees; `None` for a workload without them.
fn both_sides(workload: &Workload, stats: &Stats) -> (Option<u64>, Option<u64>) {
    let server = (!workload.callers.is_empty()).then(|| stats.handshakes_in());
    let out = || workload.routes.iter().map(|(_, callee)| stats.handshakes_with(callee)).sum();
    (server, (!workload.routes.is_empty()).then(out))
}

/// Checks that the callee refuses a caller that it does not name, and counts it.
///
/// # Errors
/// If the stranger's call succeeds, or is not counted.
pub(crate) async fn stranger(world: &World<'_>) -> Result<(), Failure> {
    let ((_, stranger), (_, callee)) = (world.envoy("stranger")?, world.envoy("yelbapp")?);
    let before = callee.stats().await?.refused_names();
    let answer = http::get(stranger.port, CALLS[0].0).await;
    let answer = answer.map_err(|reason| stranger.process.failure(&format!("does not answer: {reason}")))?;
    if answer.status != 503 {
        return Err(stranger
            .process
            .failure(&format!("should get 503, but gets {}: {}", answer.status, answer.body)));
    }
    let counted = async || Ok((callee.stats().await?.refused_names() > before).then_some(()));
    let counted = until(SOON, counted).await?;
    counted.ok_or_else(|| callee.process.failure("does not count the stranger in ssl.fail_verify_san"))
}

/// Checks that an unregistered Envoy has no certificate and its calls fail.
///
/// # Errors
/// If it has a certificate, or a call succeeds.
pub(crate) async fn unregistered(world: &World<'_>) -> Result<(), Failure> {
    let (_, envoy) = world.envoy("latecomer")?;
    let shown = envoy.certificates().await?;
    if !shown.own.is_empty() {
        return Err(envoy
            .process
            .failure(&format!("is not registered, but has a certificate: {:?}", shown.own)));
    }
    let (path, expected) = CALLS[0];
    match call(envoy.port, path, expected).await {
        Err(_) => Ok(()),
        Ok(()) => Err(envoy.process.failure("is not registered, but its calls go through")),
    }
}

/// Checks that no call has failed.
///
/// # Errors
/// If a call has failed.
pub(crate) async fn all_went_well(world: &World<'_>, traffic: &Traffic) -> Result<(), Failure> {
    let tally = traffic.tally();
    if tally.failed == 0 {
        return Ok(());
    }
    let what = format!(
        "{} of {} calls failed; the last: {:?}",
        tally.failed,
        tally.ok + tally.failed,
        tally.failure
    );
    let (_, yelbapp) = world.envoy("yelbapp")?;
    Err(Failure::new(what).with_log(&yelbapp.process.log))
}

/// How long a busy machine may take for what otherwise takes a moment.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How many calls [`handshakes`] counts: one second of traffic.
const CALLS_COUNTED: u64 = 20;
