//! How a list of the server changes the state.

use super::*;

fn wire(id: &str, revision: i64) -> types::Entry {
    types::Entry {
        id: id.into(),
        spiffe_id: Some(types::Spiffeid { trust_domain: "td".into(), path: "/a".into() }),
        selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
        federates_with: vec![format!("td{revision}")],
        revision_number: revision,
        created_at: 1,
        ..types::Entry::default()
    }
}

/// The server's answer with these entries, and the IDs that are asked for.
fn answer(known: &SyncState, entries: &[(&str, i64)]) -> (EntryList, Vec<String>) {
    let mut comparison = Comparison::new(&known.entries);
    let revision = |(id, revision): &(&str, i64)| EntryRevision {
        id: (*id).into(),
        revision_number: *revision,
        created_at: 1,
    };
    let listed: Vec<_> = entries.iter().map(|entry| comparison.listed(revision(entry))).collect();
    let asked = |(id, _): &&(&str, i64)| listed.contains(&Listed::Stale((*id).into()));
    let sent: Vec<_> = entries.iter().filter(asked).map(|(id, revision)| wire(id, *revision)).collect();
    let ids = sent.iter().map(|entry| entry.id.clone()).collect();
    (EntryList::Listed { listed, sent }, ids)
}

/// Syncs by revisions. Returns the IDs that were asked for, and whether the entries are handed on.
fn sync(known: &mut SyncState, entries: &[(&str, i64)]) -> (Vec<String>, bool) {
    let (answer, asked) = answer(known, entries);
    known.replace(answer);
    let held: Vec<_> = known.entries.iter().map(|entry| (&*entry.id, entry.revision)).collect();
    assert_eq!(held, entries);
    let domains: BTreeSet<_> = entries.iter().map(|(_, revision)| format!("td{revision}")).collect();
    assert!(known.federates_with.iter().map(TrustDomain::name).eq(domains.iter().map(String::as_str)));
    (asked, !std::mem::replace(&mut known.handed_on, true))
}

#[test]
fn only_what_changed_is_asked_for() {
    let mut known = SyncState::default();
    let of = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    assert_eq!(sync(&mut known, &[("a", 0), ("b", 0), ("c", 0)]), (of(&["a", "b", "c"]), true));
    assert_eq!(sync(&mut known, &[("a", 0), ("b", 0), ("c", 0)]), (vec![], false));
    assert_eq!(sync(&mut known, &[("a", 0), ("b", 1), ("c", 0)]), (of(&["b"]), true));
    assert_eq!(sync(&mut known, &[("b", 1), ("d", 0), ("c", 0)]), (of(&["d"]), true));
    assert_eq!(sync(&mut known, &[("c", 0), ("b", 1), ("d", 0)]), (vec![], true), "in another order");
    assert_eq!(sync(&mut known, &[("c", 0), ("d", 0)]), (vec![], true));
    assert_eq!(sync(&mut known, &[]), (vec![], true));
}

#[test]
fn a_change_is_told_even_if_the_sync_failed_after_it() {
    let mut known = SyncState::default();
    assert!(!known.handed_on, "the first is told, even if there is none");
    sync(&mut known, &[("a", 0)]);
    known.replace(EntryList::Whole(vec![wire("a", 1)]));
    known.replace(EntryList::Whole(vec![wire("a", 1)]));
    assert!(!known.handed_on);
}

#[test]
fn the_same_list_in_full_is_no_change() {
    let mut known = SyncState::default();
    sync(&mut known, &[("a", 0), ("b", 0)]);
    known.replace(EntryList::Whole(vec![wire("a", 0), wire("b", 0)]));
    assert!(known.handed_on);
    known.replace(EntryList::Whole(vec![wire("b", 0)]));
    assert!(!known.handed_on);
}

#[test]
fn malformed_entries_are_left_out_and_asked_for_again() {
    let mut known = SyncState::default();
    let bad = types::Entry { selectors: vec![], ..wire("b", 0) };
    known.replace(EntryList::Whole(vec![wire("a", 0), bad]));
    assert_eq!(known.entries.len(), 1);
    assert_eq!(known.refused, BTreeMap::from([("b".to_owned(), 0)]));
    let (_, asked) = answer(&known, &[("a", 0), ("b", 0)]);
    assert_eq!(asked, ["b"]);
}

#[test]
fn a_bundle_that_comes_again_is_not_read_again() {
    let mut known = SyncState::default();
    let wire = |sequence_number| types::Bundle {
        trust_domain: "td".into(),
        sequence_number,
        ..types::Bundle::default()
    };
    let first = known.bundle(wire(1)).unwrap();
    assert!(Arc::ptr_eq(&first, &known.bundle(wire(1)).unwrap()));
    assert_eq!(known.bundle(wire(2)).unwrap().sequence_number, 2);
    let nobodys = types::Bundle::default();
    assert!(matches!(known.bundle(nobodys), Err(ServerError::Malformed(_))));
}

#[test]
fn what_cannot_be_read_leaves_the_last_good_one() {
    let mut known = SyncState::default();
    let good = types::Bundle { trust_domain: "td".into(), sequence_number: 1, ..types::Bundle::default() };
    let first = known.bundle(good.clone()).unwrap();
    let rubbish = types::X509Certificate { asn1: bytes::Bytes::from_static(b"rubbish"), tainted: false };
    let bad = types::Bundle { x509_authorities: vec![rubbish], sequence_number: 2, ..good.clone() };
    assert!(Arc::ptr_eq(&first, &known.bundle(bad).unwrap()));
    assert_eq!(known.unreadable.len(), 1);
    let better = types::Bundle { sequence_number: 3, ..good };
    assert_eq!(known.bundle(better).unwrap().sequence_number, 3);
    assert!(known.unreadable.is_empty());

    known.replace(EntryList::Whole(vec![wire("a", 0), wire("b", 0)]));
    known.replace(EntryList::Whole(vec![wire("a", 1), types::Entry { selectors: vec![], ..wire("b", 1) }]));
    let held: Vec<_> = known.entries.iter().map(|entry| (&*entry.id, entry.revision)).collect();
    assert_eq!(held, [("a", 1), ("b", 0)]);
}

#[test]
fn what_an_answer_takes_back_counts_when_the_next_one_agrees() {
    let mut known = SyncState::new(Withdrawal::Confirmed, Duration::ZERO);
    let held = |known: &SyncState| -> Vec<_> {
        known.entries.iter().map(|entry| (entry.id.to_string(), entry.revision)).collect()
    };
    let both = [("a".to_owned(), 1), ("b".to_owned(), 1)];
    known.replace(EntryList::Whole(vec![wire("a", 1), wire("b", 1)]));
    for _ in 0..3 {
        let (lagging, _) = answer(&known, &[("a", 0)]);
        known.replace(lagging);
        assert!(held(&known) == both && known.is_doubtful());
        let (current, _) = answer(&known, &[("a", 1), ("b", 1)]);
        known.replace(current);
        assert!(held(&known) == both && !known.is_doubtful());
    }
    for _ in 0..2 {
        let (deleted, _) = answer(&known, &[("a", 1)]);
        known.replace(deleted);
    }
    assert_eq!(held(&known), [("a".to_owned(), 1)]);

    let bundle = |sequence_number| types::Bundle {
        trust_domain: "td".into(),
        sequence_number,
        ..types::Bundle::default()
    };
    let numbers = [3, 2, 3, 2, 2].map(|number| known.bundle(bundle(number)).unwrap().sequence_number);
    assert_eq!(numbers, [3, 3, 3, 3, 2]);
    let domain = TrustDomain::parse("td").unwrap();
    assert!(known.doubted_absence(&domain).is_some() && known.doubted_absence(&domain).is_none());
}
