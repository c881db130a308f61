//! Envoy's backoff before it opens a stream again: full jitter, from 500 ms doubling to 30 s. Only a response resets
//! it, not an open stream.

use std::time::Duration;

/// The backoff of one stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and returns the wait. `random` is in `0.0..1.0`.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let limit = BASE.saturating_mul(1 << self.failures.min(DOUBLINGS)).min(MOST);
        self.failures += 1;
        limit.mul_f64(random)
    }

    /// Notes that a response has arrived.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

const BASE: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);
const DOUBLINGS: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_thirty_seconds() {
        let mut backoff = Backoff::default();
        let limits: Vec<_> = (0..9).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(limits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn it_is_anything_down_to_nothing() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.25).as_millis(), 250);
    }

    #[test]
    fn a_response_makes_it_start_over() {
        let mut backoff = Backoff::default();
        backoff.next(0.5);
        backoff.next(0.5);
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_millis(), 500);
    }
}
