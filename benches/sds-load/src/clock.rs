//! One clock for all processes of a run, so that arrivals in several can be compared: nanoseconds of CLOCK_MONOTONIC.

use nix::time::{ClockId, clock_gettime};

/// Now.
pub(crate) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, nanoseconds)
}

/// The CPU time of this process so far.
pub(crate) fn own_cpu() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, nanoseconds)
}

/// A time as one number.
pub(crate) fn nanoseconds(time: nix::sys::time::TimeSpec) -> u64 {
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}
