//! The one way of waiting before trying again.

use std::time::Duration;

use rand::Rng as _;

/// Full jitter: each wait is uniform in 0..ceiling, and the ceiling doubles up to [`MOST`]. A fleet that lost its
/// server at one moment comes back spread out.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub fn wait(&mut self) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(16)).min(MOST);
        self.failures = self.failures.saturating_add(1);
        FLOOR + (ceiling - FLOOR).mul_f64(rand::rng().random())
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Uniform in `base` ± `share` of it.
pub(crate) fn jitter(base: Duration, share: f64) -> Duration {
    base.mul_f64(1.0 - share + 2.0 * share * rand::rng().random::<f64>())
}

const FIRST: Duration = Duration::from_millis(500);
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
