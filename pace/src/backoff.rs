//! The wait before another attempt. Every loop that calls the server again uses it.

use std::time::Duration;

use rand::Rng;

/// Exponential backoff. Each wait is uniform between 50 ms and a ceiling, which doubles from two seconds, so agents that
/// lost their server at one moment return spread out in time. Once the ceiling is as high as it may be, a wait is from its
/// upper half: those agents are spread by then, and of a shorter wait only the server would notice, when it is back.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    /// The sum of the waits since the last success: about as long as the server has been away.
    waited: Duration,
}

/// How high the ceiling of the waits may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A caller is there, or an SVID nears its end: at most [`URGENT`], and one second for each minute of a longer outage,
    /// so that a fleet whose certificates have all expired does not come back within five seconds.
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
    pub fn jittered(self, random: &mut impl Rng) -> Duration {
        between(FLOOR, self.most(Duration::ZERO), random)
    }

    fn most(self, waited: Duration) -> Duration {
        match self {
            Self::Urgent => (waited / 60).clamp(URGENT, IDLE),
            Self::Idle => IDLE,
        }
    }
}

impl Backoff {
    /// Counts a failure and returns the wait before the next attempt.
    pub fn wait(&mut self, need: Need, random: &mut impl Rng) -> Duration {
        let (ceiling, most) = (FIRST.saturating_mul(1 << self.failures.min(16)), need.most(self.waited));
        self.failures = self.failures.saturating_add(1);
        let wait =
            if ceiling < most { between(FLOOR, ceiling, random) } else { between(most / 2, most, random) };
        self.waited = self.waited.saturating_add(wait);
        wait
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Notes a success: the next wait is short again. Returns whether the attempt before it failed.
    pub fn reset(&mut self) -> bool {
        std::mem::take(self).failures > 0
    }
}

/// A random duration, uniform within `base` ± `share` × `base`. `share` is at most 1.
#[must_use]
pub fn jitter(base: Duration, share: f64, random: &mut impl Rng) -> Duration {
    base.mul_f64(1.0 - share + 2.0 * share * random.random::<f64>())
}

/// How long a connection to one server is used before another address is picked: 30 to 60 minutes.
#[must_use]
pub fn sticky(random: &mut impl Rng) -> Duration {
    jitter(STICKY, 1.0 / 3.0, random)
}

fn between(least: Duration, most: Duration, random: &mut impl Rng) -> Duration {
    least + (most - least).mul_f64(random.random())
}

/// The ceiling of the first wait.
pub const FIRST: Duration = Duration::from_secs(2);
/// The shortest wait, so that no loop spins.
const FLOOR: Duration = Duration::from_millis(50);
/// The longest wait while somebody is there, in the first minutes of an outage. A server that is back is noticed within it.
pub const URGENT: Duration = Duration::from_secs(5);
/// The longest wait of all. A server that is back has its whole fleet within it. (SPIRE waits for up to 48 sync intervals,
/// four minutes.)
pub const IDLE: Duration = Duration::from_mins(1);
/// The middle of [`sticky`].
const STICKY: Duration = Duration::from_mins(45);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_their_limits() {
        let random = &mut rand::rng();
        for (need, most) in [(Need::Urgent, URGENT), (Need::Idle, IDLE)] {
            let mut backoff = Backoff::default();
            let waits: Vec<_> = (0..30).map(|_| backoff.wait(need, random)).collect();
            assert!(waits.iter().all(|wait| *wait >= FLOOR && *wait <= most), "{waits:?}");
            assert!(waits[6..30].iter().all(|wait| *wait >= most / 2), "they grow: {waits:?}");
            assert!(backoff.is_failing() && backoff.reset() && !backoff.reset());
            assert!(backoff.wait(need, random) <= FIRST);
        }
    }

    #[test]
    fn a_long_outage_costs_callers_a_sixtieth_more() {
        let random = &mut rand::rng();
        let mut backoff = Backoff::default();
        let mut elapsed = Duration::ZERO;
        while elapsed < Duration::from_mins(5) {
            let wait = backoff.wait(Need::Urgent, random);
            assert!(wait <= URGENT, "{wait:?}");
            elapsed += wait;
        }
        while elapsed < Duration::from_hours(3) {
            let wait = backoff.wait(Need::Urgent, random);
            assert!(wait <= (elapsed / 60).max(URGENT) && wait <= IDLE, "{wait:?} after {elapsed:?}");
            elapsed += wait;
        }
        assert!(backoff.wait(Need::Urgent, random) >= IDLE / 2);
    }

    #[test]
    fn a_long_wait_is_short_as_soon_as_somebody_waits() {
        let random = &mut rand::rng();
        let mut backoff = Backoff::default();
        for _ in 0..8 {
            backoff.wait(Need::Idle, random);
        }
        assert!(backoff.wait(Need::Urgent, random) <= URGENT);
        assert!(Need::Urgent.jittered(random) <= URGENT);
    }
}
