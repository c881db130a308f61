//! The part of pprof's `profile.proto` that matters here, written down once more for the tests.

use std::collections::BTreeMap;
use std::io::Read as _;

use flate2::read::GzDecoder;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
}

impl Profile {
    /// Reads what the agent has sent or written.
    pub(super) fn read(gzipped: &[u8]) -> Self {
        let mut bytes = Vec::new();
        GzDecoder::new(gzipped).read_to_end(&mut bytes).expect("gzip");
        Self::decode(&*bytes).expect("a profile")
    }

    fn text(&self, index: i64) -> &str {
        &self.string_table[usize::try_from(index).expect("an index")]
    }

    pub(super) fn measures(&self) -> Vec<(&str, &str)> {
        self.sample_type.iter().map(|kind| (self.text(kind.kind), self.text(kind.unit))).collect()
    }

    /// Checks that samples have places, and most places are in the program.
    pub(super) fn assert_sound(&self) {
        assert!(!self.sample.is_empty(), "no samples");
        assert_eq!(self.string_table[0], "");
        let mappings: BTreeMap<u64, &str> =
            self.mapping.iter().map(|one| (one.id, self.text(one.filename))).collect();
        let locations: BTreeMap<u64, &Location> = self.location.iter().map(|one| (one.id, one)).collect();
        for sample in &self.sample {
            assert_eq!(sample.value.len(), 1);
            assert!(sample.value[0] > 0);
            assert!(sample.location_id.iter().all(|id| locations.contains_key(id)));
        }
        let ours = |location: &&Location| {
            mappings.get(&location.mapping_id).is_some_and(|name| name.ends_with("/finial"))
        };
        let inside = self.location.iter().filter(ours).count();
        assert!(inside * 2 > self.location.len(), "{inside} of {}: {mappings:?}", self.location.len());
        assert!(self.location.iter().all(|location| location.address > 0));
    }

    pub(super) fn deepest(&self) -> usize {
        self.sample.iter().map(|sample| sample.location_id.len()).max().unwrap_or_default()
    }

    pub(super) fn sum(&self) -> i64 {
        self.sample.iter().flat_map(|sample| &sample.value).sum()
    }
}
