//! Says what a sync changed: at debug level, in spire-agent's words (`lru_cache.go`), since scripts look for these lines,
//! and in metrics.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cache::{Cache, Snapshot};
use identity::{Bundles, Entry};
use tracing::{Level, debug, enabled, info};

use crate::telemetry::{Metric, Metrics, names};

/// The part of spire-agent that writes these lines.
pub(super) const CACHE: &str = "cache_manager";

/// What the entries of a sync changed.
pub(super) fn log_entries(before: &Snapshot, after: &Snapshot, metrics: &Metrics) {
    info!(count = after.entries().len(), "Authorized entries updated");
    let old: HashMap<&str, &Arc<Entry>> = before.entries().iter().map(|entry| (&*entry.id, entry)).collect();
    let new: HashSet<&str> = after.entries().iter().map(|entry| &*entry.id).collect();
    let (mut added, mut updated, mut removed, mut outdated) = (0, 0, 0, 0_usize);
    for entry in before.entries().iter().filter(|entry| !new.contains(&*entry.id)) {
        removed += 1;
        debug!(subsystem_name = CACHE, entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry removed");
    }
    for entry in after.entries() {
        let held = old.get(&*entry.id).copied();
        outdated += usize::from(held.is_some_and(|held| held.revision != entry.revision));
        match log_entry(held, entry) {
            Change::Created => added += 1,
            Change::Updated => updated += 1,
            Change::None => {}
        }
    }
    for (counter, count) in
        [(&names::ENTRY_ADD, added), (&names::ENTRY_UPDATE, updated), (&names::ENTRY_REMOVE, removed)]
    {
        metrics.add(counter, &[], count);
    }
    if outdated > 0 {
        sample(metrics, &names::OUTDATED, outdated);
        debug!(
            subsystem_name = CACHE,
            outdated_svids = outdated,
            "Updating SVIDs with outdated attributes in cache"
        );
    }
}

/// Adds a count to a sample.
pub(super) fn sample(metrics: &Metrics, sample: &'static Metric, count: usize) {
    #[expect(clippy::cast_precision_loss, reason = "what is counted fits into memory")]
    metrics.observe(sample, &[], count as f64);
}

/// What became of an entry that the server lists.
enum Change {
    None,
    Created,
    Updated,
}

/// Logs a new entry, and one whose selectors or trust domains have changed. As in spire-agent, other changes only make
/// its SVID outdated.
fn log_entry(held: Option<&Arc<Entry>>, entry: &Entry) -> Change {
    if held.is_some_and(|held| **held == *entry) {
        return Change::None;
    }
    let selectors = held.iter().flat_map(|held| held.selectors.iter()).collect::<Vec<_>>();
    let domains = held.iter().flat_map(|held| &held.federates_with).collect::<Vec<_>>();
    let (selectors_added, selectors_removed) =
        difference(&selectors, &entry.selectors.iter().collect::<Vec<_>>());
    let (federated_added, federated_removed) =
        difference(&domains, &entry.federates_with.iter().collect::<Vec<_>>());
    let (entry_id, spiffe_id) = (&entry.id, &entry.spiffe_id);
    macro_rules! log {
        ($message:literal) => {
            debug!(
                subsystem_name = CACHE, entry = %entry_id, %spiffe_id, selectors_added, selectors_removed,
                federated_added, federated_removed, $message
            )
        };
    }
    let changed = [selectors_added, selectors_removed, federated_added, federated_removed];
    match held {
        None => {
            log!("Entry created");
            Change::Created
        }
        Some(_) if changed.iter().any(Option::is_some) => {
            log!("Entry updated");
            Change::Updated
        }
        Some(_) => Change::None,
    }
}

/// How many are only in `after`, and how many only in `before`. `None` is no field in the line.
fn difference<T: PartialEq>(before: &[T], after: &[T]) -> (Option<usize>, Option<usize>) {
    let only = |these: &[T], those: &[T]| {
        Some(these.iter().filter(|one| !those.contains(one)).count()).filter(|count| *count > 0)
    };
    (only(after, before), only(before, after))
}

/// The bundles of all trust domains; nothing unless their changes are logged.
pub(super) fn bundles(cache: &Cache) -> Bundles {
    if !enabled!(Level::DEBUG) {
        return Bundles::new();
    }
    let mut bundles = cache.federated().clone();
    bundles.insert(cache.bundle().trust_domain.clone(), Arc::clone(cache.bundle()));
    bundles
}

/// What became of the bundles.
pub(super) fn log_bundles(before: &Bundles, after: &Bundles) {
    for trust_domain in before.keys().filter(|domain| !after.contains_key(*domain)) {
        debug!(subsystem_name = CACHE, trust_domain_id = trust_domain.name(), "Bundle removed");
    }
    for (trust_domain, bundle) in after {
        let trust_domain_id = trust_domain.name();
        match before.get(trust_domain) {
            None => debug!(subsystem_name = CACHE, trust_domain_id, "Bundle added"),
            Some(held) if held != bundle => debug!(subsystem_name = CACHE, trust_domain_id, "Bundle updated"),
            Some(_) => {}
        }
    }
}
