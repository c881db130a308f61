//! Tests of the development server: each API by a plain client, the faults, and the real spire-agent. Tests of the
//! development kubelet, API server and container runtime.
//!
//! A test that needs a missing program shows as skipped, with the reason in its name.

mod apis;
mod client;
mod faults;
mod kube;
mod program;
mod real_agent;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = apis::trials();
    trials.extend(faults::trials());
    trials.extend(kube::trials());
    trials.push(program::trial());
    trials.push(program::demo_trial());
    trials.extend(real_agent::trials());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test on a tokio runtime of its own. It fails after two minutes.
fn trial<F>(name: &str, test: impl FnOnce() -> F + Send + 'static) -> Trial
where
    F: Future<Output = Outcome>,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let outcome = runtime.block_on(async { tokio::time::timeout(Duration::from_mins(2), test()).await });
        runtime.shutdown_background();
        match outcome {
            Ok(outcome) => outcome.map_err(|error| Failed::from(error.to_string())),
            Err(_) => Err(Failed::from("the test did not end within two minutes")),
        }
    })
}
