//! Profiles of the heap.

use jemalloc_pprof::{PROF_CTL, StackProfile};

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
    let mut profile = control.blocking_lock().dump_profile().map_err(|reason| Error::Heap(reason.into()))?;
    leave_out_the_sampler(&mut profile);
    Ok(stacks::encode(profile, Measure("inuse_space", "bytes")))
}

/// Takes away the innermost frames that all stacks share: those of the function that follows the stack. With them, all
/// memory would be that function's.
fn leave_out_the_sampler(profile: &mut StackProfile) {
    let stacks = &mut profile.stacks;
    while let [(first, _), rest @ ..] = &stacks[..] {
        let innermost = first.addrs.last();
        let shared = rest.iter().all(|(stack, _)| stack.addrs.last() == innermost);
        if rest.is_empty() || innermost.is_none() || !shared {
            return;
        }
        for (stack, _) in &mut *stacks {
            stack.addrs.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use jemalloc_pprof::WeightedStack;

    use super::*;

    fn left(stacks: &[&[usize]]) -> Vec<Vec<usize>> {
        let mut profile = StackProfile::default();
        for stack in stacks {
            profile.push_stack(WeightedStack { addrs: stack.to_vec(), weight: 1.0 }, None);
        }
        leave_out_the_sampler(&mut profile);
        profile.stacks.into_iter().map(|(stack, _)| stack.addrs).collect()
    }

    #[test]
    fn frames_of_the_sampler_are_left_out() {
        assert_eq!(left(&[&[1, 2, 8, 9], &[1, 3, 8, 9]]), [[1, 2], [1, 3]]);
        assert_eq!(left(&[&[1, 2], &[1, 3]]), [[1, 2], [1, 3]]);
        assert_eq!(left(&[&[1, 8, 9]]), [[1, 8, 9]]);
        assert_eq!(left(&[&[8], &[8]]), [[0; 0], [0; 0]]);
        assert_eq!(left(&[]), [[0; 0]; 0]);
    }
}
