//! How long to wait before an agent is started again.

use std::time::Duration;

use rustix::process::WaitStatus;

/// How an agent has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By a signal, or because somebody has stopped it alone: the next one may well live.
    Crashed,
    /// It says that it cannot go on: it is banned, or its configuration is wrong. The next one will mostly say the same.
    Refused,
}

/// The waits so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Ends in a row, each soon after the start.
    crashes: u32,
    refusals: u32,
}

impl End {
    pub(super) fn of(status: WaitStatus) -> Self {
        match status.exit_status() {
            // A panic of Rust ends with 101.
            None | Some(0 | 101) => Self::Crashed,
            Some(_) => Self::Refused,
        }
    }
}

impl Pace {
    /// The wait after an agent that lived for so long, and has served callers or not.
    pub(super) fn next(&mut self, end: End, lived: Duration, served: bool) -> Duration {
        if lived >= if served { SERVED } else { LONG } {
            self.crashes = 0;
        }
        // An agent serves before its server refuses it.
        if lived >= LONG_REFUSED {
            self.refusals = 0;
        }
        match end {
            End::Crashed => {
                let crashes = self.crashes;
                self.crashes += 1;
                // A crash now and then costs nothing.
                crashes.checked_sub(1).map_or(Duration::ZERO, |count| doubled(CRASH, count).min(CRASH_MOST))
            }
            End::Refused => {
                let refusals = self.refusals;
                self.refusals += 1;
                doubled(REFUSAL, refusals).min(REFUSAL_MOST)
            }
        }
    }
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times))
}

/// After so long a life an end has nothing to do with those before it.
const LONG: Duration = Duration::from_secs(10);
/// The same for an agent that has served callers: whatever ends it again and again, they are better off with another one.
const SERVED: Duration = Duration::from_millis(200);
/// The same for one that says that it cannot go on.
const LONG_REFUSED: Duration = Duration::from_mins(5);
const CRASH: Duration = Duration::from_millis(50);
const CRASH_MOST: Duration = Duration::from_secs(5);
const REFUSAL: Duration = Duration::from_secs(1);
const REFUSAL_MOST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn agents_that_serve_are_started_again_at_once() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            assert_eq!(pace.next(End::Crashed, Duration::from_secs(1), true), Duration::ZERO);
        }
        let least = (0..100).map(|_| pace.next(End::Crashed, SOON, true)).max();
        assert_eq!(least, Some(CRASH_MOST), "one that ends as soon as it serves is not");
    }

    #[test]
    fn a_crash_costs_nothing_and_a_series_more_and_more() {
        let mut pace = Pace::default();
        let waits: Vec<u128> = (0..10).map(|_| pace.next(End::Crashed, SOON, false).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pace.next(End::Crashed, LONG, false), Duration::ZERO);
        assert_eq!(pace.next(End::Crashed, SOON, false), CRASH);
    }

    #[test]
    fn a_refusal_is_not_repeated_at_once() {
        let mut pace = Pace::default();
        let waits: Vec<u64> = (0..8).map(|_| pace.next(End::Refused, SOON, false).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let of_some_seconds = || pace.next(End::Refused, Duration::from_secs(3), true);
        assert_eq!(std::iter::repeat_with(of_some_seconds).take(100).min(), Some(REFUSAL_MOST));
    }
}
