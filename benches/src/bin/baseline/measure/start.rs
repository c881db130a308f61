//! Measurements of the program: its size, its start, its cost at rest and its command line.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use benches::running::Outcome;

use super::mib;
use crate::rows::Values;
use crate::world::{QUIET, World};
use crate::{Agent, Bench, usage};

pub(crate) fn size(_: &Bench, agent: &Agent) -> Outcome<Values> {
    let folder = tempfile::tempdir()?;
    let stripped = folder.path().join("stripped");
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(&agent.program).status();
    if !status.is_ok_and(|status| status.success()) {
        return Err("needs `strip`".into());
    }
    Ok(vec![("size.stripped", mib(std::fs::metadata(stripped)?.len() / 1024))])
}

pub(crate) fn start(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let (socket, svid) = World::prepare(bench, agent, QUIET)?.exec()?;
    Ok(vec![("start.socket", socket), ("start.svid", svid)])
}

pub(crate) fn idle(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let mut world = World::prepare(bench, agent, QUIET)?;
    world.exec()?;
    sleep(SETTLED);
    let before = world.sample()?;
    sleep(Duration::from_secs(30));
    let after = world.sample()?;
    Ok(vec![
        ("idle.rss", mib(after.rss_kib)),
        ("idle.anon", mib(after.anon_kib)),
        ("idle.cpu", (after.cpu_ms - before.cpu_ms) * 2.0),
    ])
}

pub(crate) fn cli(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let world = World::start(bench, agent, QUIET)?;
    let program = world.program().display().to_string();
    let socket = world.socket().display().to_string();
    let command = [&program, "api", "fetch", "x509", "-socketPath", &socket].map(str::to_owned);
    let usage = usage::of(20, &command)?;
    Ok(vec![("cli.wall", usage.wall_ms), ("cli.cpu", usage.cpu_ms), ("cli.peak", usage.peak_mib)])
}

const SETTLED: Duration = Duration::from_secs(10);
