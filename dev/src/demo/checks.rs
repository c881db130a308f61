//! The checks that only look: what must be seen of the Envoys, whoever the server is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::envoy::{Envoy, Stats};
use super::failure::Failure;
use super::http;
use super::plan::Workload;
use super::traffic::{CALLS, Traffic, call};
use super::wait::until;
use super::world::World;

/// Serial numbers of the registered workloads.
pub(crate) type Serials = BTreeMap<&'static str, String>;

/// The serial numbers of this moment.
///
/// # Errors
/// An Envoy does not answer.
pub(crate) async fn serials(world: &World<'_>) -> Result<Serials, Failure> {
    let mut serials = Serials::new();
    for (workload, envoy) in world.workloads().filter(|(workload, _)| workload.registered) {
        let own = envoy.certificates().await?.own;
        serials.insert(workload.name, own.first().map(|own| own.serial.clone()).unwrap_or_default());
    }
    Ok(serials)
}

/// As `/clusters` shows it: `cx_active::1`, and healthy.
///
/// # Errors
/// It is not so for one of them.
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

/// The database and the cache answer.
///
/// # Errors
/// They do not, within a while.
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

/// `ssl.handshake` grows with each call.
///
/// # Errors
/// It does not, on one of the listeners and clusters.
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
        // The leaves get every other call. One may be under way at either end.
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

/// Handshakes with callers and with callees, where it has some.
fn both_sides(workload: &Workload, stats: &Stats) -> (Option<u64>, Option<u64>) {
    let server = (!workload.callers.is_empty()).then(|| stats.handshakes_in());
    let out = || workload.routes.iter().map(|(_, callee)| stats.handshakes_with(callee)).sum();
    (server, (!workload.routes.is_empty()).then(out))
}

/// The callee lets in nobody but those whom it names.
///
/// # Errors
/// It lets in the stranger, or does not count him.
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

/// Who is not registered is nobody.
///
/// # Errors
/// He is somebody.
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

/// No call has failed.
///
/// # Errors
/// Some have.
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

/// What is a matter of a moment may take so long on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);
const CALLS_COUNTED: u64 = 20;
