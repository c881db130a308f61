//! Schedules the syncs, and limits how often the reason of a failure is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use crate::upstream::backoff::{Backoff, jitter};

/// The schedule of syncs: at the interval, earlier on demand, and with backoff after an error. It also has the backoff
/// of failed renewals.
#[derive(Debug)]
pub(super) struct SyncClock {
    /// The next sync without a demand.
    regular: Instant,
    /// Early syncs that were requested.
    demands: BTreeSet<Instant>,
    /// The end of the last sync.
    last: Option<Instant>,
    backoff: Backoff,
    renewal: Backoff,
}

impl SyncClock {
    pub(super) fn new() -> Self {
        Self {
            regular: Instant::now(),
            demands: BTreeSet::new(),
            last: None,
            backoff: Backoff::default(),
            renewal: Backoff::default(),
        }
    }

    /// The time of the next sync.
    pub(super) fn next(&self) -> Instant {
        let demand = self.demands.first().copied().zip(self.last).map(|(at, last)| at.max(last + DEMAND_GAP));
        demand.map_or(self.regular, |demand| demand.min(self.regular))
    }

    /// Notes the end of a sync. The error is the wait that the server asks for, if any.
    pub(super) fn synced(&mut self, outcome: Result<(), Option<Duration>>, interval: Duration) {
        let now = Instant::now();
        self.last = Some(now);
        self.demands.retain(|at| *at > now);
        match outcome {
            Ok(()) => {
                self.backoff.reset();
                self.regular = now + jitter(interval, 0.1);
            }
            Err(wait) => {
                // Demands do not make the agent call a failing server more often.
                self.demands.clear();
                // Jitter, so that the agents which the server turned away do not all return in one moment.
                let wait = wait.map(|wait| jitter(wait.mul_f64(1.1), 0.1));
                self.regular = now + self.backoff.wait().max(wait.unwrap_or_default());
            }
        }
    }

    /// Requests early syncs because a new process matched no entry: one now, then after 1, 2 and 4 s.
    pub(super) fn demand(&mut self) {
        let now = Instant::now();
        for after in [0, 1, 2, 4] {
            self.demands.insert(now + Duration::from_secs(after) + jitter(Duration::from_millis(50), 1.0));
        }
        while self.demands.len() > DEMANDS_KEPT {
            self.demands.pop_last();
        }
    }

    /// Notes that the agent's own SVID was renewed.
    pub(super) fn renewed(&mut self) {
        self.renewal.reset();
    }

    /// Counts a failed renewal and returns the wait before the next one.
    pub(super) fn renewal_wait(&mut self) -> Duration {
        self.renewal.wait()
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

/// The shortest time between the end of a sync and the next one on demand.
const DEMAND_GAP: Duration = Duration::from_secs(1);
/// The most early syncs that wait: those of two new processes.
const DEMANDS_KEPT: usize = 8;

#[cfg(test)]
mod tests;
