//! Two Envoys in mutual TLS while everything happens to their agent that may happen (`benches/src/bin/soak`).

use verify::tools;

use crate::steps::{MINUTES, Outcome, Verdict, cargo, outcome};

/// The step of every run.
pub(crate) fn short() -> Outcome {
    soak(2)
}

/// The step of `--soak`.
pub(crate) fn long() -> Outcome {
    soak(120)
}

fn soak(minutes: u64) -> Outcome {
    let envoy = match tools::envoy() {
        Ok(envoy) => envoy,
        Err(reason) => return Outcome::skipped(format!("no ENVOY: {reason}")),
    };
    // The agent and its keeper lie beside the program that starts them.
    let built =
        outcome(cargo().args(["build", "--package", "finial", "--package", "finial-benches", "--bins"]));
    if let Verdict::Failed = built.verdict {
        return built;
    }
    let minutes = MINUTES.get().unwrap_or(&minutes).to_string();
    let mut cargo = cargo();
    cargo.args([
        "run",
        "--quiet",
        "--package",
        "finial-benches",
        "--bin",
        "soak",
        "--",
        "--minutes",
        &minutes,
    ]);
    match cargo.env("ENVOY", envoy).status() {
        // It has printed the reason.
        Ok(status) if status.code() == Some(77) => Outcome::skipped("see above"),
        Ok(status) if status.success() => Outcome::new(Verdict::Passed, format!("{minutes} minutes")),
        Ok(status) => Outcome::failed(status),
        Err(reason) => Outcome::failed(reason),
    }
}
