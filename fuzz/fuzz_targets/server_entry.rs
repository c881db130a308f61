//! Any bytes that decode as the server's entry or bundle become a valid domain value or an error, and never a panic.
#![no_main]

use agent::upstream::convert;
use prost::Message as _;
use proto::types;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = types::Entry::decode(bytes)
        && let Ok(entry) = convert::entry(entry)
    {
        assert!(!entry.id.is_empty() && !entry.selectors.is_empty());
        assert!(
            entry
                .selectors
                .iter()
                .all(|s| !s.kind.is_empty() && !s.kind.contains(':') && !s.value.is_empty())
        );
        assert_eq!(identity::SpiffeId::parse(entry.spiffe_id.as_str()).as_ref(), Ok(&entry.spiffe_id));
    }
    if let Ok(bundle) = types::Bundle::decode(bytes) {
        let _ = convert::bundle(&bundle);
    }
});
