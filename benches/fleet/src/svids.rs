//! Certificates in virtual time.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;
use rand::rngs::StdRng;

/// A certificate's life.
pub(crate) type Valid = Range<SystemTime>;

/// The life of a certificate that is signed now.
pub(crate) fn signed(now: Duration, lifetime: Duration) -> Valid {
    let at = wall(now);
    at..at + lifetime
}

/// A certificate of an agent that has run for long, and when it is renewed.
pub(crate) fn of_any_age(lifetime: Duration, random: &mut StdRng) -> (Valid, SystemTime) {
    let age = lifetime.mul_f64(0.5 * random.random::<f64>());
    let valid = wall(Duration::ZERO) - age..wall(lifetime) - age;
    let renew_at = pace::renew_at(&valid, pace::Early::default(), random.random(), valid.start);
    // Those that would have been renewed before the start are renewed soon after it.
    (valid, renew_at.max(wall(Duration::from_secs(60).mul_f64(random.random()))))
}

/// The wall clock at this time of the simulation.
pub(crate) fn wall(now: Duration) -> SystemTime {
    UNIX_EPOCH + START + now
}

/// The time of the simulation; zero for one before it.
pub(crate) fn since(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH + START).unwrap_or_default()
}

/// Certificates of agents that run at the start are from before it.
const START: Duration = Duration::from_secs(1_000_000_000);
