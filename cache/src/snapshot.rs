//! The immutable index that callers are matched against.

use std::collections::HashMap;
use std::sync::Arc;

use identity::{Entry, Selector, Selectors};

/// The entries of one moment, indexed for matching.
///
/// Each entry stands under its *rarest* selector only: an entry can match only a caller that has all its selectors,
/// so one of them is enough to find it, and the rarest gives the fewest false candidates (a thousand entries that share
/// `k8s:ns:x` are still found by their own label).
#[derive(Debug, Default)]
pub struct Snapshot {
    generation: u64,
    /// By ascending entry ID.
    entries: Vec<Arc<Entry>>,
    by_rarest: HashMap<Selector, Vec<u32>>,
}

/// The outcome of matching one selector set against one snapshot.
#[derive(Debug, Clone)]
pub struct Matched {
    pub(crate) generation: u64,
    /// Entry IDs, ascending.
    pub(crate) ids: Arc<[Arc<str>]>,
}

impl Matched {
    /// Whether no entry matched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

impl Snapshot {
    /// Indexes entries (any order). Entries whose SVID goes to a store match no caller.
    pub fn new(generation: u64, entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().filter(|entry| !entry.store_svid).collect();
        entries.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let mut frequency: HashMap<&Selector, u32> = HashMap::new();
        for selector in entries.iter().flat_map(|entry| &entry.selectors) {
            *frequency.entry(selector).or_default() += 1;
        }
        let mut by_rarest: HashMap<Selector, Vec<u32>> = HashMap::new();
        for (place, entry) in (0u32..).zip(&entries) {
            if let Some(rarest) = entry.selectors.iter().min_by_key(|selector| frequency[selector]) {
                by_rarest.entry(rarest.clone()).or_default().push(place);
            }
        }
        Self { generation, by_rarest, entries }
    }

    /// The entries that a caller with these selectors may have, by ascending ID: all of an entry's selectors must be
    /// among the caller's.
    #[must_use]
    pub fn entries_of(&self, selectors: &Selectors) -> Vec<&Arc<Entry>> {
        let mut places: Vec<u32> = selectors
            .iter()
            .filter_map(|selector| self.by_rarest.get(selector))
            .flatten()
            .copied()
            .filter(|place| self.entries[*place as usize].selectors.is_subset_of(selectors))
            .collect();
        places.sort_unstable();
        places.into_iter().map(|place| &self.entries[place as usize]).collect()
    }

    /// The same as IDs, for [`crate::Cache::subscribe`].
    #[must_use]
    pub fn matching(&self, selectors: &Selectors) -> Matched {
        let ids = self.entries_of(selectors).into_iter().map(|entry| Arc::clone(&entry.id)).collect();
        Matched { generation: self.generation, ids }
    }

    /// All entries, by ascending ID.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}
