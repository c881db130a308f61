//! The schedule of syncs.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::Rng;

use crate::{Backoff, Cause, Failure, Need, jitter};

/// The schedule of syncs: at the interval, earlier on demand, and with backoff after an error. It also has the backoff
/// of failed renewals.
///
/// `now`, and the times that it returns, count from a start that its owner chooses.
#[derive(Debug, Default)]
pub struct Cadence {
    /// The next sync without a demand.
    regular: Duration,
    /// Early syncs that were requested.
    demands: BTreeSet<Duration>,
    /// The end of the last sync.
    last: Option<Duration>,
    /// Until then, a process that matched nothing waits for the server.
    awaited_until: Duration,
    /// No sync before this time, whoever asks for one: the server asks for it, or a refusal must be confirmed.
    not_before: Duration,
    /// Whether the next sync was brought forward since the last one failed.
    hastened: bool,
    backoff: Backoff,
    renewal: Backoff,
}

impl Cadence {
    /// A schedule whose first sync is at `now`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { regular: now, awaited_until: now, not_before: now, ..Self::default() }
    }

    /// The time of the next sync.
    #[must_use]
    pub fn next(&self) -> Duration {
        let demand = self.demands.first().copied().zip(self.last).map(|(at, last)| at.max(last + DEMAND_GAP));
        demand.map_or(self.regular, |demand| demand.min(self.regular))
    }

    /// Notes the end of a sync. `need` is that of the callers. Returns whether the server is back: the sync before this
    /// one failed.
    pub fn synced(
        &mut self,
        outcome: Result<(), Failure>,
        interval: Duration,
        need: Need,
        now: Duration,
        random: &mut impl Rng,
    ) -> bool {
        self.last = Some(now);
        self.demands.retain(|at| *at > now);
        match outcome {
            Ok(()) => {
                let is_back = self.backoff.reset();
                let next = now + jitter(interval, 0.1, random);
                // A sync on demand leaves the regular one where it was: the server may read its entries in between.
                let keeps = !is_back && self.regular > now;
                self.regular = if keeps { self.regular.max(now + DEMAND_GAP).min(next) } else { next };
                is_back
            }
            Err(failure) => {
                // Demands do not make the agent call a failing server more often.
                self.demands.clear();
                // Jitter, so that the agents which the server turned away do not all return in one moment.
                let asked = failure.asked.map(|wait| jitter(wait.mul_f64(1.1), 0.1, random));
                // A server that has too much to do is not helped by being asked more often than at rest, whoever waits.
                let (need, least) = match failure.cause {
                    Cause::Busy => (Need::Idle, jitter(interval, 0.1, random)),
                    _ if now < self.awaited_until => (Need::Urgent, Duration::ZERO),
                    _ => (need, Duration::ZERO),
                };
                self.not_before = now + asked.unwrap_or_default().max(least);
                self.regular = (now + self.backoff.wait(need, random)).max(self.not_before);
                self.hastened = false;
                false
            }
        }
    }

    /// Requests early syncs because a new process matched no entry: one now, then after 1, 2, 4 and 6 s (a server
    /// reads its entries from its database every five seconds). While syncs fail,
    /// it only keeps the waits short.
    pub fn demand(&mut self, now: Duration, random: &mut impl Rng) {
        self.awaited_until = now + AWAITED;
        if self.backoff.is_failing() {
            self.hasten(now, Need::Urgent.jittered(random));
            return;
        }
        for after in [0, 1, 2, 4, 6] {
            let at = now + Duration::from_secs(after) + jitter(DEMAND_JITTER, 1.0, random);
            // Another process may wait for about the same sync.
            let near = at.saturating_sub(2 * DEMAND_JITTER)..at + DEMAND_GAP / 2;
            if self.demands.range(near).next().is_none() {
                self.demands.insert(at);
            }
        }
        while self.demands.len() > DEMANDS_KEPT {
            self.demands.pop_last();
        }
    }

    /// Requests a sync soon that confirms what the last one took back.
    pub fn confirm(&mut self, now: Duration, random: &mut impl Rng) {
        self.regular = self.regular.min(now + jitter(CONFIRM, 0.1, random));
    }

    /// Delays the next sync after a refusal that another one must confirm.
    pub fn confirm_refusal(&mut self, now: Duration, random: &mut impl Rng) {
        self.not_before = self.not_before.max(now + jitter(REFUSED, 0.1, random));
        self.regular = self.regular.max(self.not_before);
    }

    /// Notes that the server has answered another call. A failing sync is made again soon.
    pub fn reached(&mut self, now: Duration, random: &mut impl Rng) {
        if self.backoff.is_failing() {
            self.hasten(now, jitter(REACHED, 1.0, random));
        }
    }

    /// Notes that an attestation failed. Syncs go on, at short waits.
    pub fn attestation_failed(&mut self, now: Duration, random: &mut impl Rng) {
        self.hasten(now, Need::Urgent.jittered(random));
    }

    /// Brings the next sync forward, once after each failure, so that a crowd does not make the agent press the server.
    fn hasten(&mut self, now: Duration, wait: Duration) {
        if !std::mem::replace(&mut self.hastened, true) {
            self.regular = self.regular.min(now + wait).max(self.not_before);
        }
    }

    /// Notes that the agent's own SVID was renewed.
    pub fn renewed(&mut self) {
        self.renewal.reset();
    }

    /// Whether the last renewal failed.
    #[must_use]
    pub fn renewal_fails(&self) -> bool {
        self.renewal.is_failing()
    }

    /// Counts a renewal that was in vain: the SVID has come, but an authority that is not relied on has signed it.
    /// Returns the wait before the next one.
    pub fn renewal_in_vain(&mut self, random: &mut impl Rng) -> Duration {
        self.renewal.wait(Need::Idle, random)
    }

    /// Counts a failed renewal. Returns the wait before the next one. `until_old` is the time until the SVID is old, when it
    /// presses; `None` if there is no SVID.
    ///
    /// While syncs fail, too, they find out when the server is back, and an old SVID is renewed then: two loops that look
    /// for the server would bring a fleet back twice as fast.
    pub fn renewal_failed(&mut self, until_old: Option<Duration>, random: &mut impl Rng) -> Duration {
        if self.backoff.is_failing() {
            return self.renewal.wait(Need::Idle, random);
        }
        let is_old = until_old.is_none_or(|left| left.is_zero());
        let wait = self.renewal.wait(Need::urgent_if(is_old), random);
        until_old.filter(|left| !left.is_zero()).map_or(wait, |left| wait.min(left))
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
