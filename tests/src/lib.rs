//! The harness of the end-to-end tests: the `finial` program as users run it, a development server, and clients that
//! others wrote. Nothing sleeps, except between two polls of Envoy's admin port: a test waits for a log line, a message
//! or a count.

mod agent;
mod client;
mod envoy;
mod gate;
mod http;
mod proc;
mod program;

pub use agent::{Agent, Conf, Exit, unix_attestor};
pub use client::{
    Sds, channel, health, jwt_bundles, jwt_svid_on, narrow_channel, sds_request, validate_jwt_on,
    x509_bundles, x509_svid, x509_svid_on,
};
pub use envoy::{Asks, Certificates, Envoy, Sidecar, envoy_program};
pub use gate::Gate;
pub use http::{get, get_at, get_bytes};
pub use proc::Proc;
pub use program::{build_finial, needs, python};

use std::future::Future;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

/// A test on a tokio runtime of its own. It fails if it hangs.
pub fn trial<F, T>(name: &str, test: T) -> Trial
where
    F: Future<Output = ()>,
    T: FnOnce() -> F + Send + 'static,
{
    trial_within(HANG, name, test)
}

/// Like [`trial`], with another time limit.
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

/// A test that needs its own namespaces, and therefore root. Otherwise it is skipped.
pub fn trial_as_root<F, T>(name: &str, test: T) -> Trial
where
    F: Future<Output = ()>,
    T: FnOnce() -> F + Send + 'static,
{
    if nix::unistd::geteuid().is_root() { trial(name, test) } else { skipped(name, "not root") }
}

/// A test that cannot run here. It shows as ignored, with the reason in its name.
#[must_use]
pub fn skipped(name: &str, reason: &str) -> Trial {
    Trial::test(format!("{name} (skipped: {reason})"), || Ok(())).with_ignored_flag(true)
}

/// The time limit of a test, much longer than any test takes on a slow machine.
const HANG: Duration = Duration::from_secs(240);
