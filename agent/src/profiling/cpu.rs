//! Profiles of the CPU. There is one at a time, because a process has one timer of this kind.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use jemalloc_pprof::{StackProfile, WeightedStack};
use pprof::{ProfilerGuard, ProfilerGuardBuilder};
use tracing::debug;

use super::Error;
use super::stacks::{self, Measure};

/// Samples the CPU for as long as it lives. Starting and ending one takes some milliseconds and 20 MiB of memory, so
/// neither happens on the thread that serves.
pub(super) struct Recording(ProfilerGuard<'static>);

impl Recording {
    /// Starts to sample.
    ///
    /// # Errors
    /// [`Error::Busy`] while another one lives, [`Error::Cpu`] if there is no folder for temporary files.
    pub(super) fn start() -> Result<Self, Error> {
        match ProfilerGuardBuilder::default().frequency(FREQUENCY).build() {
            Ok(guard) => Ok(Self(guard)),
            Err(pprof::Error::Running) => Err(Error::Busy),
            Err(reason) => Err(Error::Cpu(reason)),
        }
    }

    /// The samples so far, as a profile.
    ///
    /// # Errors
    /// [`Error::Cpu`].
    pub(super) fn profile(&self) -> Result<Vec<u8>, Error> {
        let samples = self.0.report().build_unresolved().map_err(Error::Cpu)?;
        let mut profile = StackProfile::default();
        for (sample, count) in &samples.data {
            let addresses = sample.frames.iter().map(|frame| frame.ip).collect();
            profile.push_stack(weighted(addresses, *count), None);
        }
        Ok(stacks::encode(profile, Measure("cpu", "nanoseconds")))
    }
}

/// Samples for this time, and blocks. Ends at once, with no bytes, when the sender of `gone` is dropped.
///
/// # Errors
/// As [`Recording::start`].
pub(super) fn record(time: Duration, gone: &Receiver<()>) -> Result<Vec<u8>, Error> {
    let recording = Recording::start()?;
    debug!(seconds = time.as_secs(), "Sampling the CPU");
    let profile = match gone.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => recording.profile(),
        _ => Ok(Vec::new()),
    };
    drop(recording);
    debug!("Sampled the CPU");
    profile
}

/// A stack, innermost address first, that was seen so many times.
fn weighted(mut addresses: Vec<usize>, count: isize) -> WeightedStack {
    // The encoder takes all for return addresses, and subtracts one. The innermost is of the very instruction.
    if let Some(innermost) = addresses.first_mut() {
        *innermost = innermost.saturating_add(1);
    }
    addresses.retain(|address| *address > 1);
    addresses.reverse();
    #[expect(clippy::cast_precision_loss, reason = "a hundred a second")]
    let weight = count as f64 * PERIOD.as_nanos() as f64;
    WeightedStack { addrs: addresses, weight }
}

/// Samples for each second on the CPU, as in Go.
const FREQUENCY: i32 = 100;
const PERIOD: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_turned_around_and_weighed_by_time() {
        let stack = weighted(vec![0x10, 0x21, 0], 3);
        assert_eq!((stack.addrs, stack.weight), (vec![0x21, 0x11], 30e6));
    }

    #[test]
    fn there_is_one_recording_at_a_time_until_its_reader_goes() {
        let first = Recording::start().unwrap();
        assert!(matches!(Recording::start(), Err(Error::Busy)));
        assert!(!first.profile().unwrap().is_empty());
        drop(first);
        let (reader, gone) = std::sync::mpsc::channel();
        drop(reader);
        assert!(record(Duration::from_secs(300), &gone).unwrap().is_empty());
        Recording::start().unwrap();
    }
}
