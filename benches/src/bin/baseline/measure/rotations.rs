//! Measurements of rotations: pushes, their answers, and clients that never read them.

use std::process::Command;

use benches::running::{AGENT_CPU, LOAD_CPU, Outcome};
use sds_load::report::Report;

use super::derived;
use crate::rows::Values;
use crate::world::{ROTATING, WORKLOAD, World};
use crate::{Agent, Bench};

pub(crate) fn rotation(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let world = World::start(bench, agent, ROTATING)?;
    let trigger = world.trigger();
    let rotated = |node: &str| {
        let load = ["rotate", "--connections", "500", "--names", WORKLOAD, "--node", node, "--ramp", "3s"];
        world.load(&[&load[..], &["--pushes", "5", "--between", "1500ms", "--trigger", &trigger]].concat())
    };
    let (big, small) = (rotated("always")?, rotated("once")?);
    let [big_cpu, small_cpu] = [per_push(&big)?, per_push(&small)?];
    Ok(vec![
        ("rotation.big", big_cpu),
        ("rotation.bigtimes", big_cpu / bare(bench, "61214")?),
        ("rotation.small", small_cpu),
        ("rotation.smalltimes", small_cpu / bare(bench, "104")?),
        ("rotation.spread", derived(&small, "spread_ms")?),
    ])
}

fn per_push(report: &Report) -> Outcome<f64> {
    let short = report.rotations.iter().find(|rotation| rotation.streams < rotation.expected);
    match short {
        Some(rotation) => {
            Err(format!("a push came to {} of {} streams", rotation.streams, rotation.expected).into())
        }
        None => derived(report, "cpu_us_per_push"),
    }
}

/// The CPU time per push of a server that only writes to and reads from sockets.
fn bare(bench: &Bench, answer: &str) -> Outcome<f64> {
    let [server, client] = [AGENT_CPU, LOAD_CPU].map(|cpu| cpu.to_string());
    let output = Command::new(bench.tools.join("bare-socket"))
        .args(["--server-cpu", &server, "--client-cpu", &client, "--answer-bytes", answer])
        .output()?;
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(outcome["cpu_us_per_push"].as_f64().ok_or("bare-socket said nothing")?)
}

pub(crate) fn unneeded(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    let world = World::start(bench, agent, ROTATING)?;
    let load = ["rotate", "--connections", "500", "--node", "once", "--ramp", "3s", "--pushes", "3"];
    let report =
        world.load(&[&load[..], &["--between", "1500ms", "--trigger", &world.trigger()]].concat())?;
    let unneeded = report.counts.get("unneeded_pushes").copied().unwrap_or(0);
    Ok(vec![("unneeded.pushes", unneeded as f64 / report.rotations.len().max(1) as f64)])
}

pub(crate) fn stuck_socket(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("stuck-socket.growth", stuck(bench, agent, &["--unread", "socket"])?)])
}

pub(crate) fn stuck_window(bench: &Bench, agent: &Agent) -> Outcome<Values> {
    Ok(vec![("stuck-window.growth", stuck(bench, agent, &["--unread", "window", "--window", "0"])?)])
}

/// The growth of the agent's memory in MiB.
fn stuck(bench: &Bench, agent: &Agent, how: &[&str]) -> Outcome<f64> {
    let world = World::start(bench, agent, ROTATING)?;
    let load = ["slow", "--connections", "500", "--streams", "1", "--names", WORKLOAD, "--ramp", "3s"];
    let rotations = ["--pushes", "20", "--between", "2s", "--trigger", &world.trigger()];
    Ok(derived(&world.load(&[&load[..], &rotations, how].concat())?, "rss_growth_kib")? / 1024.0)
}
