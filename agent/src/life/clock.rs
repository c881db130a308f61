//! Schedules the syncs, and limits how often the reason of a failure is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::error;

use crate::upstream::backoff::{Backoff, Need, jitter};

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
    /// Until then, a process that matched nothing waits for the server.
    awaited_until: Instant,
    /// No sync before this time, whoever asks for one: the server asks for it, or a refusal must be confirmed.
    not_before: Instant,
    /// Whether the next sync was brought forward since the last one failed.
    hastened: bool,
    backoff: Backoff,
    renewal: Backoff,
}

impl SyncClock {
    pub(super) fn new() -> Self {
        Self {
            regular: Instant::now(),
            demands: BTreeSet::new(),
            last: None,
            awaited_until: Instant::now(),
            not_before: Instant::now(),
            hastened: false,
            backoff: Backoff::default(),
            renewal: Backoff::default(),
        }
    }

    /// The time of the next sync.
    pub(super) fn next(&self) -> Instant {
        let demand = self.demands.first().copied().zip(self.last).map(|(at, last)| at.max(last + DEMAND_GAP));
        demand.map_or(self.regular, |demand| demand.min(self.regular))
    }

    /// Notes the end of a sync. The error is the wait that the server asks for, if any; `need` is that of the callers.
    /// Returns whether the server is back: the sync before this one failed.
    pub(super) fn synced(
        &mut self,
        outcome: Result<(), Option<Duration>>,
        interval: Duration,
        need: Need,
    ) -> bool {
        let now = Instant::now();
        self.last = Some(now);
        self.demands.retain(|at| *at > now);
        match outcome {
            Ok(()) => {
                let is_back = self.backoff.reset();
                let next = now + jitter(interval, 0.1);
                // A sync on demand leaves the regular one where it was: the server may read its entries in between.
                let keeps = !is_back && self.regular > now;
                self.regular = if keeps { self.regular.max(now + DEMAND_GAP).min(next) } else { next };
                is_back
            }
            Err(wait) => {
                // Demands do not make the agent call a failing server more often.
                self.demands.clear();
                // Jitter, so that the agents which the server turned away do not all return in one moment.
                let wait = wait.map(|wait| jitter(wait.mul_f64(1.1), 0.1));
                let need = if now < self.awaited_until { Need::Urgent } else { need };
                self.not_before = now + wait.unwrap_or_default();
                self.regular = (now + self.backoff.wait(need)).max(self.not_before);
                self.hastened = false;
                false
            }
        }
    }

    /// Requests early syncs because a new process matched no entry: one now, then after 1, 2, 4 and 6 s (a server
    /// reads its entries from its database every five seconds). While syncs fail,
    /// it only keeps the waits short.
    pub(super) fn demand(&mut self) {
        let now = Instant::now();
        self.awaited_until = now + AWAITED;
        if self.backoff.is_failing() {
            self.hasten(Need::Urgent.jittered());
            return;
        }
        for after in [0, 1, 2, 4, 6] {
            let at = now + Duration::from_secs(after) + jitter(DEMAND_JITTER, 1.0);
            // Another process may wait for about the same sync.
            if self.demands.range(at - 2 * DEMAND_JITTER..at + DEMAND_GAP / 2).next().is_none() {
                self.demands.insert(at);
            }
        }
        while self.demands.len() > DEMANDS_KEPT {
            self.demands.pop_last();
        }
    }

    /// Requests a sync soon that confirms what the last one took back.
    pub(super) fn confirm(&mut self) {
        self.regular = self.regular.min(Instant::now() + jitter(CONFIRM, 0.1));
    }

    /// Delays the next sync after a refusal that another one must confirm.
    pub(super) fn confirm_refusal(&mut self) {
        self.not_before = self.not_before.max(Instant::now() + jitter(REFUSED, 0.1));
        self.regular = self.regular.max(self.not_before);
    }

    /// Notes that the server has answered another call. A failing sync is made again soon.
    pub(super) fn reached(&mut self) {
        if self.backoff.is_failing() {
            self.hasten(jitter(REACHED, 1.0));
        }
    }

    /// Notes that an attestation failed. Syncs go on, at short waits.
    pub(super) fn attestation_failed(&mut self) {
        self.hasten(Need::Urgent.jittered());
    }

    /// Brings the next sync forward, once after each failure, so that a crowd does not make the agent press the server.
    fn hasten(&mut self, wait: Duration) {
        if !std::mem::replace(&mut self.hastened, true) {
            self.regular = self.regular.min(Instant::now() + wait).max(self.not_before);
        }
    }

    /// Notes that the agent's own SVID was renewed.
    pub(super) fn renewed(&mut self) {
        self.renewal.reset();
    }

    /// Whether the last renewal failed.
    pub(super) fn renewal_fails(&self) -> bool {
        self.renewal.is_failing()
    }

    /// Counts a failed renewal and returns the wait before the next one.
    pub(super) fn renewal_wait(&mut self, need: Need) -> Duration {
        self.renewal.wait(need)
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
/// The middle of what is added to the time of an early sync.
const DEMAND_JITTER: Duration = Duration::from_millis(50);
/// The most early syncs that wait: those of two new processes.
const DEMANDS_KEPT: usize = 10;

/// How long a process that matched nothing keeps the waits of failing syncs short.
const AWAITED: Duration = Duration::from_mins(1);
/// The wait before what the server took back is confirmed. A server reads its entries from its database this often.
const CONFIRM: Duration = Duration::from_secs(5);
/// The wait before a refusal is confirmed.
const REFUSED: Duration = Duration::from_secs(2);
/// The middle of the wait before a failing sync is made again because another call succeeded.
const REACHED: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
