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
    profile.mappings = objects(MAPPINGS.as_deref().unwrap_or_default());
    let Measure(name, unit) = measure;
    profile.to_pprof((name, unit), (name, unit), None)
}

/// The program and its libraries, each with all of its segments as one, because pprof takes the copy with symbols for the
/// first mapping only.
fn objects(segments: &[Mapping]) -> Vec<Mapping> {
    let mut objects: Vec<Mapping> = Vec::new();
    for segment in segments {
        match objects.last_mut() {
            Some(object) if object.pathname == segment.pathname => {
                object.memory_end = object.memory_end.max(segment.memory_end);
            }
            _ => objects.push(Mapping { build_id: None, ..segment.clone() }),
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use jemalloc_pprof::BuildId;

    use super::*;

    #[test]
    fn the_segments_of_a_file_are_one_mapping() {
        let segment = |path: &str, start, end, offset| Mapping {
            memory_start: start,
            memory_end: end,
            memory_offset: offset,
            file_offset: offset as u64,
            pathname: path.into(),
            build_id: Some(BuildId(vec![1])),
        };
        let found = objects(&[
            segment("finial", 0x1000, 0x2000, 0),
            segment("finial", 0x3000, 0x5000, 0x2000),
            segment("libc", 0x9000, 0xa000, 0),
        ]);
        let found: Vec<_> =
            found.iter().map(|one| (one.memory_start, one.memory_end, one.memory_offset)).collect();
        assert_eq!(found, [(0x1000, 0x5000, 0), (0x9000, 0xa000, 0)]);
    }
}
