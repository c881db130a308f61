//! What the end-to-end tests stand on: the `finial` program as users run it, a development server, and clients that
//! others wrote. Nothing here sleeps, but between two looks at Envoy's admin port: a test waits for a line of
//! a log, a message, or a count.

mod agent;
mod client;
mod envoy;
mod proc;
mod program;

pub use agent::{Agent, Conf, Exit, unix_attestor};
pub use client::{Sds, channel, health, narrow_channel, sds_request, x509_bundles, x509_svid, x509_svid_on};
pub use envoy::{Certificates, Envoy, Sidecar, envoy_program};
pub use proc::Proc;
pub use program::{build_finial, needs, python};

use std::future::Future;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

/// A test on a runtime of its own, which fails when it hangs.
pub fn trial<F, T>(name: &str, test: T) -> Trial
where
    F: Future<Output = ()>,
    T: FnOnce() -> F + Send + 'static,
{
    trial_within(HANG, name, test)
}

/// The same with a time of its own after which it hangs.
pub fn trial_within<F, T>(limit: Duration, name: &str, test: T) -> Trial
where
    F: Future<Output = ()>,
    T: FnOnce() -> F + Send + 'static,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|reason| Failed::from(reason.to_string()))?;
        let finished = runtime.block_on(async { tokio::time::timeout(limit, test()).await });
        runtime.shutdown_background();
        finished.map_err(|_| Failed::from("the test hangs"))
    })
}

/// A test that needs namespaces of its own, and so root.
pub fn trial_as_root<F, T>(name: &str, test: T) -> Trial
where
    F: Future<Output = ()>,
    T: FnOnce() -> F + Send + 'static,
{
    if nix::unistd::geteuid().is_root() { trial(name, test) } else { skipped(name, "not root") }
}

/// A test that cannot run here; shown as ignored, with the reason in its name.
#[must_use]
pub fn skipped(name: &str, reason: &str) -> Trial {
    Trial::test(format!("{name} (skipped: {reason})"), || Ok(())).with_ignored_flag(true)
}

/// Far beyond what any test takes on a slow machine.
const HANG: Duration = Duration::from_secs(240);
