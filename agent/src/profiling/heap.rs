//! Profiles of the heap.

use jemalloc_pprof::PROF_CTL;

use super::Error;
use super::stacks::{self, Measure};

/// Whether jemalloc has sampled allocations since the start.
pub(super) fn is_on() -> bool {
    PROF_CTL.is_some()
}

/// A profile of the memory in use. It takes some milliseconds and a temporary file, so it is not called on the thread that
/// serves. Calls wait for each other.
///
/// # Errors
/// [`Error::HeapOff`] or [`Error::Heap`].
pub(super) fn profile() -> Result<Vec<u8>, Error> {
    let control = PROF_CTL.as_ref().ok_or(Error::HeapOff)?;
    let profile = control.blocking_lock().dump_profile().map_err(|reason| Error::Heap(reason.into()))?;
    Ok(stacks::encode(profile, Measure("inuse_space", "bytes"), "annotation"))
}
