//! When the next sync is, and when a reason is worth a line in the log.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use crate::upstream::backoff::{Backoff, jitter};

/// When to sync: at the interval, sooner on demand, with backoff after an error.
#[derive(Debug)]
pub(super) struct SyncClock {
    regular: Instant,
    demands: BTreeSet<Instant>,
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

    pub(super) fn next(&self) -> Instant {
        let demand = self.demands.first().copied().zip(self.last).map(|(at, last)| at.max(last + DEMAND_GAP));
        demand.map_or(self.regular, |demand| demand.min(self.regular))
    }

    /// A sync has ended: well, or with an error and perhaps with a time for which the server wants to be left alone.
    pub(super) fn synced(&mut self, outcome: Result<(), Option<Duration>>, interval: Duration) {
        let now = Instant::now();
        self.last = Some(now);
        self.demands.retain(|at| *at > now);
        match outcome {
            Ok(()) => {
                self.backoff.reset();
                self.regular = now + jitter(interval, 0.1);
            }
            Err(hold) => {
                // A server that is down is not asked more often on demand.
                self.demands.clear();
                // Those that it has turned away do not all come back in one moment.
                let hold = hold.map(|hold| jitter(hold.mul_f64(1.1), 0.1));
                self.regular = now + self.backoff.wait().max(hold.unwrap_or_default());
            }
        }
    }

    /// A new process matched nothing: now, then after 1, 2 and 4 s.
    pub(super) fn demand(&mut self) {
        let now = Instant::now();
        for after in [0, 1, 2, 4] {
            self.demands.insert(now + Duration::from_secs(after) + jitter(Duration::from_millis(50), 1.0));
        }
        while self.demands.len() > DEMANDS_KEPT {
            self.demands.pop_last();
        }
    }

    /// A renewal worked.
    pub(super) fn renewed(&mut self) {
        self.renewal.reset();
    }

    /// How long a renewal that failed has to wait.
    pub(super) fn renewal_wait(&mut self) -> Duration {
        self.renewal.wait()
    }
}

/// Logs a reason when it changes, not at each try.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    last: String,
}

impl Reasons {
    pub(super) fn log(&mut self, reason: &str, wait: Duration, message: &'static str) {
        if self.last != reason {
            self.last = reason.to_owned();
            // Where the time of the next try is another's to say, nothing is said of it.
            if wait.is_zero() {
                error!(error = reason, "{message}");
            } else {
                error!(error = reason, retry_in = ?wait, "{message}");
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.last.clear();
    }
}

const DEMAND_GAP: Duration = Duration::from_secs(1);
const DEMANDS_KEPT: usize = 8;

#[cfg(test)]
mod tests;
