//! How X.509-SVIDs are asked for: calls at one time, entries of one call, and when one that failed is due again.

use std::time::{Duration, SystemTime};

use rand::Rng;

use crate::{Backoff, Need, jitter};

/// The calls for X.509-SVIDs of one agent.
#[derive(Debug)]
pub struct Minting {
    /// The most entries of one call. It is halved when a call fails and doubled when one succeeds.
    batch: usize,
    /// Calls that are under way.
    in_flight: usize,
    backoff: Backoff,
}

/// When the entries of a call that failed are due again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    idle: Duration,
    urgent: Duration,
    asked: Duration,
}

impl Default for Minting {
    fn default() -> Self {
        Self { batch: BATCH, in_flight: 0, backoff: Backoff::default() }
    }
}

impl Minting {
    /// Whether another call may begin: at most two are under way.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.in_flight < PARALLEL
    }

    /// The most entries of the next call.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Notes the beginning of a call.
    pub fn began(&mut self) {
        self.in_flight += 1;
    }

    /// Notes that the server answered a call. Returns whether the call before it failed.
    pub fn answered(&mut self) -> bool {
        self.in_flight -= 1;
        self.batch = (self.batch * 2).min(BATCH);
        self.reached()
    }

    /// Notes that the server answered a call of another kind. Returns whether minting failed before.
    pub fn reached(&mut self) -> bool {
        self.backoff.reset()
    }

    /// Whether the last call failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.backoff.is_failing()
    }

    /// Notes that a call failed. `asked` is the wait that the server asks for.
    pub fn failed(&mut self, asked: Option<Duration>, random: &mut impl Rng) -> Retry {
        self.in_flight -= 1;
        self.batch = (self.batch / 2).max(1);
        let idle = self.backoff.wait(Need::Idle, random);
        Retry { idle, urgent: idle.min(Need::Urgent.jittered(random)), asked: asked.unwrap_or_default() }
    }

    /// The wait, ± 30 %, before the server is asked again for an entry that it refused to sign, or that it signed with an
    /// authority that is not relied on.
    #[must_use]
    pub fn refused(random: &mut impl Rng) -> Duration {
        jitter(ENTRY_RETRY, 0.3, random)
    }
}

impl Retry {
    /// When an entry is due again. `pressing` is when its callers are worse off; `None` if it has none.
    #[must_use]
    pub fn at(&self, pressing: Option<SystemTime>, now: SystemTime) -> SystemTime {
        let idle = now + self.idle;
        let at = pressing.map_or(idle, |pressing| idle.min(pressing.max(now + self.urgent)));
        at.max(now + self.asked)
    }
}

/// The most entries of one call. A SPIRE server signs at most 500 in one call and 500 a second.
pub const BATCH: usize = 500;
/// The most calls that are under way at one time.
const PARALLEL: usize = 2;
/// The middle of [`Minting::refused`].
const ENTRY_RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::URGENT;

    #[test]
    fn a_batch_is_halved_by_a_failure_and_doubled_by_an_answer() {
        let random = &mut rand::rng();
        let mut minting = Minting::default();
        let mut sizes = Vec::new();
        for _ in 0..10 {
            minting.began();
            minting.failed(None, random);
            sizes.push(minting.batch());
        }
        assert_eq!(sizes, [250, 125, 62, 31, 15, 7, 3, 1, 1, 1]);
        assert!(minting.is_failing());
        minting.began();
        assert!(minting.is_free());
        minting.began();
        assert!(!minting.is_free(), "two are under way");
        assert!(minting.answered() && !minting.answered());
        assert_eq!(minting.batch(), 4);
    }

    #[test]
    fn what_failed_waits_for_the_server_and_presses_when_it_must() {
        let random = &mut rand::rng();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut minting = Minting::default();
        for _ in 0..20 {
            minting.began();
            let retry = minting.failed(None, random);
            assert!(retry.at(Some(SystemTime::UNIX_EPOCH), now) <= now + URGENT);
            let soon = now + Duration::from_secs(20);
            assert!(retry.at(Some(soon), now) <= soon.max(now + URGENT));
        }
        minting.began();
        let asked = Duration::from_mins(5);
        assert!(minting.failed(Some(asked), random).at(Some(now), now) >= now + asked);
    }
}
