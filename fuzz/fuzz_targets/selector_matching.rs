//! The index finds the entries that the definition finds: those whose selectors the caller all has.
#![no_main]

use std::sync::Arc;

use cache::Snapshot;
use identity::{Entry, Selector, Selectors, SpiffeId};

libfuzzer_sys::fuzz_target!(|input: (u16, Vec<(u16, bool)>)| {
    let (caller, entries) = input;
    let spiffe_id = SpiffeId::parse("spiffe://td/x").expect("an ID");
    let entries: Vec<_> = (0..)
        .zip(&entries)
        .filter(|(_, (selectors, _))| *selectors != 0)
        .map(|(n, (selectors, store_svid))| Arc::new(entry(n, &spiffe_id, *selectors, *store_svid)))
        .collect();
    let wanted: Vec<_> = entries
        .iter()
        .filter(|entry| !entry.store_svid)
        .filter(|entry| entry.selectors.iter().all(|one| set(caller).iter().any(|other| one == other)))
        .map(|entry| Arc::clone(&entry.id))
        .collect();
    // Added in another order than that of the IDs.
    let snapshot = Snapshot::new(1, entries.into_iter().rev());
    let selectors = set(caller);
    let found: Vec<_> =
        snapshot.entries_of(&selectors).into_iter().map(|entry| Arc::clone(&entry.id)).collect();
    assert_eq!(found, wanted);
    assert_eq!(snapshot.matching(&selectors).is_empty(), wanted.is_empty());
});

fn entry(n: u32, spiffe_id: &SpiffeId, selectors: u16, store_svid: bool) -> Entry {
    Entry {
        id: format!("{n:010}").into(),
        spiffe_id: spiffe_id.clone(),
        selectors: set(selectors),
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        revision: 0,
        store_svid,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

/// A set of selectors, one for each bit.
fn set(bits: u16) -> Selectors {
    (0..u16::BITS)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| Selector::new("unix", &format!("uid:{bit}")).expect("a selector"))
        .collect()
}
