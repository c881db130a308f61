//! The wait before another attempt. Every retry loop of the agent uses it.

use std::time::Duration;

use rand::Rng as _;

/// Exponential backoff with full jitter. Each wait is uniform between 50 ms and a ceiling, which doubles from half a
/// second up to [`MOST`]. Agents that lost their server at one moment return spread out in time.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and returns the wait before the next attempt.
    pub fn wait(&mut self) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        FLOOR + (ceiling - FLOOR).mul_f64(rand::rng().random())
    }

    /// Notes a success: the next wait is short again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random duration, uniform within `base` ± `share` × `base`. `share` is at most 1.
pub(crate) fn jitter(base: Duration, share: f64) -> Duration {
    base.mul_f64(1.0 - share + 2.0 * share * rand::rng().random::<f64>())
}

/// The ceiling of the first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The shortest wait, so that no loop spins.
const FLOOR: Duration = Duration::from_millis(50);
/// The longest wait.
pub const MOST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_most_and_never_nothing() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            let wait = backoff.wait();
            assert!(wait >= FLOOR && wait <= MOST, "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}
