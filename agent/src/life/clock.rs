//! Schedules the syncs, and limits how often the reason of a failure is logged.

use std::collections::BTreeMap;
use std::time::Duration;

use pace::{Cadence, Failure};
use tokio::time::Instant;
use tracing::error;

use crate::upstream::backoff::Need;

/// [`Cadence`], the schedule of syncs and renewals, by tokio's clock and the thread's randomness.
#[derive(Debug)]
pub(super) struct SyncClock {
    start: Instant,
    cadence: Cadence,
}

impl SyncClock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), cadence: Cadence::new(Duration::ZERO) }
    }

    /// The time of the next sync.
    pub(super) fn next(&self) -> Instant {
        self.start + self.cadence.next()
    }

    /// Notes the end of a sync. `need` is that of the callers. Returns whether the server is back: the sync before this
    /// one failed.
    pub(super) fn synced(&mut self, outcome: Result<(), Failure>, interval: Duration, need: Need) -> bool {
        self.cadence.synced(outcome, interval, need, self.start.elapsed(), &mut rand::rng())
    }

    /// Requests early syncs because a new process matched no entry.
    pub(super) fn demand(&mut self) {
        self.cadence.demand(self.start.elapsed(), &mut rand::rng());
    }

    /// Requests a sync soon that confirms what the last one took back.
    pub(super) fn confirm(&mut self) {
        self.cadence.confirm(self.start.elapsed(), &mut rand::rng());
    }

    /// Delays the next sync after a refusal that another one must confirm.
    pub(super) fn confirm_refusal(&mut self) {
        self.cadence.confirm_refusal(self.start.elapsed(), &mut rand::rng());
    }

    /// Notes that the server has answered another call. A failing sync is made again soon.
    pub(super) fn reached(&mut self) {
        self.cadence.reached(self.start.elapsed(), &mut rand::rng());
    }

    /// Notes that an attestation failed. Syncs go on, at short waits.
    pub(super) fn attestation_failed(&mut self) {
        self.cadence.attestation_failed(self.start.elapsed(), &mut rand::rng());
    }

    /// Notes that the agent's own SVID was renewed.
    pub(super) fn renewed(&mut self) {
        self.cadence.renewed();
    }

    /// Whether the last renewal failed.
    pub(super) fn renewal_fails(&self) -> bool {
        self.cadence.renewal_fails()
    }

    /// Counts a renewal whose SVID an authority has signed that is not relied on. Returns the wait before the next one.
    pub(super) fn renewal_in_vain(&mut self) -> Duration {
        self.cadence.renewal_in_vain(&mut rand::rng())
    }

    /// Counts a failed renewal. Returns the wait before the next one. `until_old` is the time until the SVID is old.
    pub(super) fn renewal_failed(&mut self, until_old: Option<Duration>) -> Duration {
        self.cadence.renewal_failed(until_old, &mut rand::rng())
    }
}

/// Why each kind of work failed last. A reason is logged when it changes, not at each attempt.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    last: BTreeMap<&'static str, String>,
}

impl Reasons {
    /// Logs `reason` if it is not the last one under this message.
    pub(super) fn log(&mut self, reason: &str, message: &'static str) {
        if self.changed(message, reason) {
            error!(error = reason, "{message}");
        }
    }

    /// Whether `reason` is not the last one of this work. It is from now on.
    pub(super) fn changed(&mut self, work: &'static str, reason: &str) -> bool {
        let changed = self.last.get(work).is_none_or(|last| last != reason);
        if changed {
            self.last.insert(work, reason.to_owned());
        }
        changed
    }

    /// Forgets the last reasons, because an attempt succeeded.
    pub(super) fn clear(&mut self) {
        self.last.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_schedule_follows_tokios_clock() {
        let interval = Duration::from_secs(5);
        let mut clock = SyncClock::new();
        assert_eq!(clock.next(), Instant::now(), "the first is at once");
        tokio::time::advance(Duration::from_mins(10)).await;
        clock.synced(Ok(()), interval, Need::Idle);
        let wait = clock.next() - Instant::now();
        assert!(wait >= interval.mul_f64(0.9) && wait <= interval.mul_f64(1.1), "{wait:?}");
    }
}
