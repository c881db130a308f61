//! `finial check`: looks at a node before an agent runs there, and says what would keep it from working.
//!
//! It attests nothing, spends no token, and neither binds nor removes a socket. It writes nothing but a probe file, which
//! it removes, in folders that must be writable.
//!
//! One module for each area. In each, a struct of facts is filled by looking, and a function without side effects makes
//! [`Line`]s of it:
//!
//! * `configuration`: what the settings themselves say; `storage`: `data_dir`, the keys and the stored SVID;
//! * `socket`: the sockets' folders, `mounts` below them; `process`: the pid namespace and the limits of this process;
//! * `attestor`: what the node attestor will present, and `token`, a JWT;
//! * `kubernetes`: kubelet, API server, container runtime; `bundle`, `server`: the way to the server and its identity.
//!
//! What the network must answer is asked at once, within one time limit.

mod attestor;
mod bundle;
mod configuration;
mod kubernetes;
mod line;
mod mounts;
mod process;
mod server;
mod socket;
mod storage;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use config::{Settings, WorkloadAttestor};
use tokio::time::{Instant, timeout};

pub(crate) use self::configuration::unusable;
pub(crate) use self::line::{Line, Report, Status};
use self::process::Limits;
use self::storage::Stored;

/// Looks at everything. `limit` is for what is read from disks, and again for all that the network must answer.
pub(crate) async fn look(settings: Arc<Settings>, limit: Duration) -> Report {
    let now = SystemTime::now();
    let mut lines = configuration::lines(&settings);
    let local = Arc::clone(&settings);
    let found = blocking(limit, move || on_disk(&local, now)).await;
    let (on_disk, stored, limits) = match found {
        Some((lines, stored, limits)) => (lines, stored, Some(limits)),
        None => (vec![slow("data-dir", "the folders of the configuration", limit)], Stored::default(), None),
    };
    lines.extend(on_disk);
    let until = Instant::now() + limit;
    let (attestor, (kubernetes, pods), server) = tokio::join!(
        attestor::lines(&settings, &stored, now, until),
        kubernetes::lines(&settings, until),
        server::lines(&settings, &stored, now, until),
    );
    lines.extend(attestor);
    lines.extend(server);
    lines.extend(kubernetes);
    lines.extend(limits.map(|limits| limits.lines(pods)).unwrap_or_default());
    Report(lines)
}

/// The lines of all that needs no network.
fn on_disk(settings: &Settings, now: SystemTime) -> (Vec<Line>, Stored, Limits) {
    let mut lines = configuration::log_file(settings.log_file.as_deref());
    lines.extend(socket::lines(settings));
    lines.push(process::pids(is_kubernetes(settings)));
    let (storage, stored) = storage::lines(settings, now);
    lines.extend(storage);
    (lines, stored, Limits::read())
}

/// Whether the k8s workload attestor is configured.
fn is_kubernetes(settings: &Settings) -> bool {
    let attestors = settings.plugins().map(|plugins| &plugins.workload_attestors[..]).unwrap_or_default();
    attestors.iter().any(|attestor| matches!(attestor, WorkloadAttestor::K8s(_)))
}

/// Does work that may wait for a disk on another thread; `None` after `limit`.
async fn blocking<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    timeout(limit, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

/// The line of something that is not read in time.
fn slow(name: &'static str, what: &str, limit: Duration) -> Line {
    Line::failure(name, format!("{what} are not read within {limit:?}"), "Find out whether the disk answers.")
}

/// A duration in its largest whole unit, for people.
fn roughly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The time of a certificate or token; the epoch for one before it.
fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_for_people() {
        let told = |seconds| roughly(Duration::from_secs(seconds));
        assert_eq!([told(1), told(119), told(120)], ["1 second", "119 seconds", "2 minutes"]);
        assert_eq!([told(7200), told(172_800)], ["2 hours", "2 days"]);
    }
}
