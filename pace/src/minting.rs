//! How X.509-SVIDs are asked for: calls at one time, entries of one call, and when one that failed is due again.

use std::time::{Duration, SystemTime};

use rand::Rng;

use crate::{Backoff, Cause, Failure, Need, jitter};

/// The calls for X.509-SVIDs of one agent.
#[derive(Debug)]
pub struct Minting {
    /// The most entries of one call. It is halved when a call fails that the server has seen, and doubled when one succeeds.
    batch: usize,
    /// Calls that are under way.
    in_flight: usize,
    /// No call before this time, because one has failed. It holds for all entries: each with a wait of its own, an agent
    /// with many SVIDs would call a server that is away many times a second.
    held_until: Option<SystemTime>,
    /// Whether the next call was brought forward since the last one failed.
    hastened: bool,
    backoff: Backoff,
}

impl Default for Minting {
    fn default() -> Self {
        Self { batch: BATCH, in_flight: 0, held_until: None, hastened: false, backoff: Backoff::default() }
    }
}

impl Minting {
    /// Whether another call may begin: at most two are under way, and one after a failure.
    #[must_use]
    pub fn is_free(&self, now: SystemTime) -> bool {
        let most = if self.is_failing() { 1 } else { PARALLEL };
        self.in_flight < most && self.held_until.is_none_or(|until| until <= now)
    }

    /// When a call may begin for what is due at this time; `None` if the end of another call must come first.
    #[must_use]
    pub fn next(&self, due: SystemTime) -> Option<SystemTime> {
        let most = if self.is_failing() { 1 } else { PARALLEL };
        (self.in_flight < most).then(|| self.held_until.map_or(due, |until| until.max(due)))
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
        self.reached(true)
    }

    /// Notes that the server answered. Returns whether minting failed before. What failed may be asked for at once if it is
    /// `pressing`, and otherwise keeps its wait, so that a fleet does not ask for all that it has missed in one moment.
    pub fn reached(&mut self, pressing: bool) -> bool {
        if pressing {
            self.held_until = None;
        }
        self.backoff.reset()
    }

    /// Whether the last call failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.backoff.is_failing()
    }

    /// Notes that a call failed. `pressing_in` is the time until the callers of its entries are worse off; `None` if there
    /// is none. Returns when its entries are due again.
    pub fn failed(
        &mut self,
        failure: Failure,
        pressing_in: Option<Duration>,
        now: SystemTime,
        random: &mut impl Rng,
    ) -> SystemTime {
        self.in_flight -= 1;
        let wait = match (failure.cause, pressing_in) {
            // The syncs find out when it is back. A call that could not be made says nothing of its size.
            (Cause::Away, _) => self.backoff.wait(Need::Idle, random),
            (_, pressing) => {
                self.batch = (self.batch / 2).max(1);
                let is_urgent = failure.cause == Cause::Other && pressing.is_some_and(|left| left.is_zero());
                let wait = self.backoff.wait(Need::urgent_if(is_urgent), random);
                pressing.filter(|left| !left.is_zero()).map_or(wait, |left| wait.min(left))
            }
        };
        let until = now + wait.max(failure.asked.unwrap_or_default());
        self.held_until = Some(until);
        self.hastened = false;
        until
    }

    /// Brings the next call forward because a new caller waits: to now if the server is there again, and otherwise once, so
    /// that a crowd does not press it. Returns when it is; `None` if no failure holds it up.
    pub fn hasten(&mut self, now: SystemTime, random: &mut impl Rng) -> Option<SystemTime> {
        let until = self.held_until.filter(|until| *until > now)?;
        if !self.is_failing() {
            self.held_until = None;
            return Some(now);
        }
        if !std::mem::replace(&mut self.hastened, true) {
            self.held_until = Some(until.min(now + Need::Urgent.jittered(random)));
        }
        self.held_until
    }

    /// The wait, ± 30 %, before the server is asked again for an entry that it refused to sign, or that it signed with an
    /// authority that is not relied on.
    #[must_use]
    pub fn refused(random: &mut impl Rng) -> Duration {
        jitter(ENTRY_RETRY, 0.3, random)
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
    use crate::{IDLE, URGENT};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn fail(minting: &mut Minting, cause: Cause, pressing_in: Option<Duration>) -> Duration {
        minting.began();
        let until = minting.failed(cause.into(), pressing_in, NOW, &mut rand::rng());
        until.duration_since(NOW).unwrap()
    }

    #[test]
    fn a_batch_is_halved_by_a_failure_and_doubled_by_an_answer() {
        let mut minting = Minting::default();
        let mut sizes = Vec::new();
        for _ in 0..10 {
            fail(&mut minting, Cause::Other, None);
            sizes.push(minting.batch());
        }
        assert_eq!(sizes, [250, 125, 62, 31, 15, 7, 3, 1, 1, 1]);
        minting.began();
        assert!(minting.answered() && minting.batch() == 2);
        fail(&mut minting, Cause::Away, None);
        assert_eq!(minting.batch(), 2, "nobody has seen its size");
    }

    #[test]
    fn after_a_failure_there_is_one_call_and_it_waits() {
        let mut minting = Minting::default();
        minting.began();
        assert!(minting.is_free(NOW));
        let wait = fail(&mut minting, Cause::Away, None);
        assert!(!minting.is_free(NOW) && minting.next(NOW).is_none(), "the other one is under way");
        minting.failed(Cause::Away.into(), None, NOW, &mut rand::rng());
        let next = minting.next(NOW).unwrap();
        assert!(!minting.is_free(NOW) && minting.is_free(next), "{wait:?}");
    }

    #[test]
    fn waits_are_short_where_it_presses_and_the_server_is_there() {
        for (cause, pressing, most) in [
            (Cause::Other, Some(Duration::ZERO), URGENT),
            (Cause::Other, Some(Duration::from_secs(20)), Duration::from_secs(20)),
            (Cause::Other, None, IDLE),
            (Cause::Away, Some(Duration::ZERO), IDLE),
            (Cause::Busy, Some(Duration::ZERO), IDLE),
        ] {
            let mut minting = Minting::default();
            let longest = (0..20).map(|_| fail(&mut minting, cause, pressing)).max().unwrap();
            assert!(longest <= most && longest >= most / 2, "{cause:?}, {pressing:?}: {longest:?}");
        }
        let mut minting = Minting::default();
        minting.began();
        let asked = Duration::from_mins(5);
        let failure = Failure { cause: Cause::Busy, asked: Some(asked) };
        assert!(minting.failed(failure, None, NOW, &mut rand::rng()) >= NOW + asked);
    }

    #[test]
    fn what_presses_is_asked_for_when_the_server_is_back_and_the_rest_keeps_its_wait() {
        let mut minting = Minting::default();
        while fail(&mut minting, Cause::Away, None) < IDLE / 2 {}
        assert!(minting.reached(false) && !minting.is_free(NOW));
        assert!(!minting.reached(true) && minting.is_free(NOW));
    }

    #[test]
    fn a_crowd_of_new_callers_brings_a_call_forward_once() {
        let mut minting = Minting::default();
        assert_eq!(minting.hasten(NOW, &mut rand::rng()), None);
        while fail(&mut minting, Cause::Away, None) < IDLE / 2 {}
        let first = minting.hasten(NOW, &mut rand::rng());
        assert!(first.is_some_and(|at| at <= NOW + URGENT));
        assert!((0..100).all(|_| minting.hasten(NOW, &mut rand::rng()) == first));
        while fail(&mut minting, Cause::Away, None) < IDLE / 2 {}
        minting.reached(false);
        assert_eq!(minting.hasten(NOW, &mut rand::rng()), Some(NOW), "the server is there");
        assert!(minting.is_free(NOW));
    }
}
