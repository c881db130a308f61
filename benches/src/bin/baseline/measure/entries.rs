//! Measurements with registration entries: very many, and a new one.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use benches::running::{Outcome, svid};
use tokio::time::Instant;

use super::mib;
use crate::rows::Values;
use crate::world::{Options, QUIET, World};
use crate::{Agent, Bench};

pub(crate) fn ten_thousand(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let mut world = World::prepare(bench, agent, Options { others: 9_999, log: "DEBUG", ..QUIET })?;
    let signed = |world: &World<'_>| world.server_log().map(|log| log.matches(SIGNED).count());
    let before = signed(&world)?;
    let (_, first) = world.exec()?;
    // If the agent mints more SVIDs, it does so now.
    sleep(Duration::from_secs(30));
    let minted = signed(&world)? - before;
    let rested = world.sample()?;
    sleep(Duration::from_secs(30));
    let after = world.sample()?;
    Ok(vec![
        ("entries.svid", first),
        ("entries.signed", minted as f64),
        ("entries.rss", mib(after.rss_kib)),
        ("entries.cpu", (after.cpu_ms - rested.cpu_ms) * 2.0),
    ])
}

pub(crate) fn created_1s(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("created-1s.secret", created(bench, agent, "1s")?)])
}

pub(crate) fn created_5s(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("created-5s.secret", created(bench, agent, "5s")?)])
}

/// The seconds from the creation of an entry until a client that retries has its SVID.
fn created(bench: &Bench, agent: &Agent, cache: &'static str) -> Outcome<f64> {
    let mut world = World::prepare(bench, agent, Options { entry: false, cache, ..QUIET })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    world.spawn()?;
    // A random moment between two syncs of the agent.
    let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_micros() / 200;
    sleep(STARTED + Duration::from_millis(u64::from(moment)));
    let start = Instant::now();
    world.create_entry()?;
    while !runtime.block_on(svid(&world.socket())) {
        if start.elapsed() > PATIENCE {
            return Err(format!("no SVID within {PATIENCE:?}").into());
        }
        sleep(RETRY);
    }
    Ok(start.elapsed().as_secs_f64())
}

/// The server's log line for each signed SVID.
const SIGNED: &str = "Signed X509 SVID";
const STARTED: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);
