//! The wait before another attempt. Every loop that calls the server again uses it.

use std::time::Duration;

use rand::Rng as _;

/// Exponential backoff with full jitter. Each wait is uniform between 50 ms and a ceiling, which doubles from two
/// seconds. Agents that lost their server at one moment return spread out in time.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

/// How high the ceiling of the waits may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A caller is there, or an SVID nears its end: at most [`URGENT`].
    Urgent,
    /// Nobody is worse off yet: at most [`IDLE`], so that a fleet does not press a server that returns.
    Idle,
}

impl Need {
    /// [`Need::Urgent`] if this is true.
    #[must_use]
    pub fn urgent_if(urgent: bool) -> Self {
        if urgent { Self::Urgent } else { Self::Idle }
    }

    /// A wait that is not one of a series.
    #[must_use]
    pub fn jittered(self) -> Duration {
        between(self.most())
    }

    fn most(self) -> Duration {
        match self {
            Self::Urgent => URGENT,
            Self::Idle => IDLE,
        }
    }
}

impl Backoff {
    /// Counts a failure and returns the wait before the next attempt.
    pub fn wait(&mut self, need: Need) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(need.most());
        self.failures = self.failures.saturating_add(1);
        between(ceiling)
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Notes a success: the next wait is short again. Returns whether the attempt before it failed.
    pub fn reset(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

/// A random duration, uniform within `base` ± `share` × `base`. `share` is at most 1.
pub(crate) fn jitter(base: Duration, share: f64) -> Duration {
    base.mul_f64(1.0 - share + 2.0 * share * rand::rng().random::<f64>())
}

fn between(ceiling: Duration) -> Duration {
    FLOOR + (ceiling - FLOOR).mul_f64(rand::rng().random())
}

/// The ceiling of the first wait.
pub(crate) const FIRST: Duration = Duration::from_secs(2);
/// The shortest wait, so that no loop spins.
const FLOOR: Duration = Duration::from_millis(50);
/// The longest wait while somebody is there. A server that is back is noticed within it.
pub const URGENT: Duration = Duration::from_secs(5);
/// The longest wait while nobody does (SPIRE: 48 sync intervals of 5 s).
pub const IDLE: Duration = Duration::from_mins(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_their_limits() {
        for (need, most) in [(Need::Urgent, URGENT), (Need::Idle, IDLE)] {
            let mut backoff = Backoff::default();
            let waits: Vec<_> = (0..200).map(|_| backoff.wait(need)).collect();
            assert!(waits.iter().all(|wait| *wait >= FLOOR && *wait <= most), "{waits:?}");
            assert!(waits[20..].iter().any(|wait| *wait > most / 2), "they grow: {waits:?}");
            assert!(backoff.is_failing() && backoff.reset() && !backoff.reset());
            assert!(backoff.wait(need) <= FIRST);
        }
    }

    #[test]
    fn a_long_wait_is_short_as_soon_as_somebody_waits() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.wait(Need::Idle);
        }
        assert!(backoff.wait(Need::Urgent) <= URGENT);
        assert!(Need::Urgent.jittered() <= URGENT);
    }
}
