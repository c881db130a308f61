//! The form of a profile: gzipped protobuf, as `go tool pprof` reads it.

use jemalloc_pprof::{Mapping, StackProfile};
use mappings::MAPPINGS;

/// What a profile counts: its name and unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure(pub(super) &'static str, pub(super) &'static str);

/// Writes a profile.
///
/// The program has no symbols, so there are addresses in it and no names. Names come from a copy of the program that was
/// built with symbols. The build ID of such a copy is another one, so that of this program is left out: pprof would
/// refuse the copy.
pub(super) fn encode(mut profile: StackProfile, measure: Measure) -> Vec<u8> {
    let mapped = MAPPINGS.as_deref().unwrap_or_default();
    profile.mappings = mapped.iter().map(|one| Mapping { build_id: None, ..one.clone() }).collect();
    let Measure(name, unit) = measure;
    profile.to_pprof((name, unit), (name, unit), None)
}
