//! The clock of all processes of a run: nanoseconds of CLOCK_MONOTONIC. So times of several processes can be compared.

use nix::time::{ClockId, clock_gettime};

/// The present time in nanoseconds.
pub(crate) fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, nanoseconds)
}

/// The CPU time of this process so far, in nanoseconds.
pub(crate) fn own_cpu() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, nanoseconds)
}

/// A time in nanoseconds.
pub(crate) fn nanoseconds(time: nix::sys::time::TimeSpec) -> u64 {
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}
