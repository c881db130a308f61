//! The waits between attempts: `pace`'s policy, drawn with the thread's randomness.

use std::time::Duration;

pub use pace::Need;

/// The wait before another attempt ([`pace::Backoff`]).
#[derive(Debug, Default)]
pub struct Backoff(pace::Backoff);

impl Backoff {
    /// Counts a failure and returns the wait before the next attempt.
    pub fn wait(&mut self, need: Need) -> Duration {
        self.0.wait(need, &mut rand::rng())
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.0.is_failing()
    }

    /// Notes a success: the next wait is short again. Returns whether the attempt before it failed.
    pub fn reset(&mut self) -> bool {
        self.0.reset()
    }
}

/// A random duration, uniform within `base` ± `share` × `base`. `share` is at most 1.
pub(crate) fn jitter(base: Duration, share: f64) -> Duration {
    pace::jitter(base, share, &mut rand::rng())
}
