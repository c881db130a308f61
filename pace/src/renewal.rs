//! When X.509-SVIDs are renewed in time, and how replacements of many are spread.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng;

/// What makes renewals earlier than at half of the lifetime.
#[derive(Debug, Clone, Copy, Default)]
pub struct Early {
    /// SPIRE: `availability_target`.
    pub target: Option<Duration>,
    /// How much of the lifetime is left at the latest, or four fifths of it if that is less.
    pub budget: Option<Duration>,
}

/// When an SVID that has just come must be renewed. `draw` (uniform in 0..1) is drawn once for each SVID, so that the
/// time is stable, and spread over the SVIDs. It is when half the lifetime ± 10 % of that half is left, or the
/// availability target + up to 10 min, whichever comes first. The target counts only if more than 12 h remain before it
/// (SPIRE, `rotationutil`).
///
/// That time can be over on arrival: the agent's clock is ahead, the authority is about to expire, or the lifetime is a
/// few seconds and begins ten seconds ago. Then it is half of what is left, and never at once, because otherwise the
/// server would be asked without a pause.
#[must_use]
pub fn renew_at(valid: &Range<SystemTime>, early: Early, draw: f64, now: SystemTime) -> SystemTime {
    let lifetime = lifetime(valid);
    let spread = 0.9 + 0.2 * draw;
    let mut left = (lifetime / 2).mul_f64(spread);
    if let Some(target) = early.target.filter(|target| lifetime.saturating_sub(*target) > GUARD) {
        left = left.max(target + SPREAD.mul_f64(draw));
    }
    if let Some(budget) = early.budget {
        // A retry or two must fit in before the budget is touched.
        left = left.max(budget.mul_f64(1.05 + 0.1 * draw).min(lifetime.mul_f64(0.75 + 0.05 * draw)));
    }
    let planned = valid.end.checked_sub(left).unwrap_or(UNIX_EPOCH);
    let remaining = valid.end.duration_since(now).unwrap_or_default();
    if planned >= now + (remaining / 4).clamp(PAUSE, SOON) {
        return planned;
    }
    now + (remaining / 2).mul_f64(spread).max(PAUSE)
}

/// When an SVID is old, so that a renewal that fails presses: at three quarters of its life.
#[must_use]
pub fn old_at(valid: &Range<SystemTime>) -> SystemTime {
    valid.start + lifetime(valid).mul_f64(0.75)
}

/// The delays after which `count` SVIDs are replaced, in ascending order. Each hundred of them share a delay, and so a call to
/// the server. It is drawn from `within`, or from a longer time if more than a hundred would fall on a second of it (a fifth
/// of what a SPIRE server signs for one address).
///
/// All agents of a server learn within one sync interval that its authority is tainted. If each of them replaced its
/// SVIDs at once, the server would be asked for all SVIDs of the fleet within that interval. A call for one SVID costs the
/// server two and a half times as much as one of many in a call.
#[must_use]
pub fn replacements(count: usize, within: Duration, random: &mut impl Rng) -> Vec<Duration> {
    let least = Duration::from_secs((count / PER_SECOND) as u64);
    let within = within.max(least);
    let groups = count.div_ceil(PER_SECOND);
    let mut delays: Vec<Duration> = (0..groups).map(|_| within.mul_f64(random.random())).collect();
    delays.sort_unstable();
    (0..count).map(|place| delays[place / PER_SECOND]).collect()
}

/// The time over which SVIDs of a tainted authority are replaced. It is six sync intervals: the sum over the fleet rises for
/// one interval, while agents learn of it, and is level for five. At the default interval all is replaced after 35 s.
#[must_use]
pub fn spread_of_replacements(sync_interval: Duration) -> Duration {
    sync_interval.saturating_mul(6)
}

fn lifetime(valid: &Range<SystemTime>) -> Duration {
    valid.end.duration_since(valid.start).unwrap_or_default()
}

/// The most replacements in a second.
const PER_SECOND: usize = 100;
const PAUSE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(30);
const GUARD: Duration = Duration::from_hours(12);
const SPREAD: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_spread_and_never_faster_than_the_limit() {
        let random = &mut rand::rng();
        let half_a_minute = Duration::from_secs(30);
        let agents: Vec<_> = (0..1000).map(|_| replacements(10, half_a_minute, random)).collect();
        assert!(agents.iter().all(|delays| delays.iter().all(|delay| *delay == delays[0])), "one call each");
        let early = agents.iter().filter(|delays| delays[0] <= half_a_minute / 2).count();
        assert!((400..600).contains(&early), "{early} of 1000 in the first half");
        let few = replacements(1000, half_a_minute, random);
        assert!(few.is_sorted() && few.iter().all(|delay| *delay <= half_a_minute) && few[0] < few[999]);
        let many = replacements(10_000, half_a_minute, random);
        assert!(many.last().is_some_and(|last| *last > Duration::from_secs(90)), "{:?}", many.last());
        assert_eq!(replacements(3, Duration::ZERO, random), [Duration::ZERO; 3]);
    }

    #[test]
    fn an_svid_is_old_at_three_quarters_of_its_life() {
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(old_at(&(start..start + Duration::from_secs(100))), start + Duration::from_secs(75));
    }
}
