//! The immutable index of entries that callers are matched against.

mod few;

use std::collections::HashMap;
use std::sync::Arc;

use identity::{Entry, Selector, Selectors};

use few::Few;

/// The entries of one moment, indexed for matching.
///
/// Each entry is listed under its *rarest* selector only. An entry matches only callers that have all its selectors,
/// so one of them is enough to find it, and the rarest gives the fewest false candidates: a thousand entries that
/// share `k8s:ns:x` are still found by their own label.
///
/// Selectors are numbered in ascending order: a caller's selectors are looked up once, and then sorted numbers are
/// compared. Matching allocates nothing but its outcome.
#[derive(Debug, Default)]
pub struct Snapshot {
    generation: u64,
    /// By ascending entry ID.
    entries: Vec<Arc<Entry>>,
    /// The number of each selector that an entry has.
    numbers: HashMap<Selector, u32>,
    /// For each selector, by number: the places in `entries` of those that are listed under it.
    by_rarest: Lists,
    /// For each entry, by place: the numbers of its other selectors, ascending.
    others: Lists,
}

/// Lists of numbers in one allocation, end to end.
#[derive(Debug, Default)]
struct Lists {
    /// Where each list begins in `all`, and the end of the last.
    starts: Vec<u32>,
    all: Vec<u32>,
}

/// The outcome of matching one selector set against one snapshot.
#[derive(Debug, Clone)]
pub struct Matched {
    pub(crate) generation: u64,
    /// The IDs of the matched entries, ascending.
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
    /// The entries of a match as they are in this snapshot. Entries that are gone are left out.
    pub fn of<'a>(&'a self, matched: &'a Matched) -> impl Iterator<Item = &'a Arc<Entry>> {
        matched.ids.iter().filter_map(|id| {
            let place = self.entries().binary_search_by(|entry| (*entry.id).cmp(id)).ok()?;
            Some(&self.entries()[place])
        })
    }

    /// Indexes entries, which may come in any order. Entries whose SVID goes to a store (`store_svid`) match no
    /// caller.
    pub fn new(generation: u64, entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().filter(|entry| !entry.store_svid).collect();
        entries.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let numbers = numbers(&entries);
        let needs = Lists::of(entries.iter().map(|entry| entry.selectors.iter().map(|one| numbers[one])));
        let mut frequency = vec![0u32; numbers.len()];
        for number in &needs.all {
            frequency[*number as usize] += 1;
        }
        let places = || 0..to_u32(entries.len());
        let rarest =
            |place| needs.list(place).iter().copied().min_by_key(|number| frequency[*number as usize]);
        let mut under: Vec<(u32, u32)> = Vec::with_capacity(entries.len());
        under.extend(places().filter_map(|place| Some((rarest(place)?, place))));
        let others = Lists::of(places().map(|place| {
            let rarest = rarest(place);
            needs.list(place).iter().copied().filter(move |number| Some(*number) != rarest)
        }));
        // Sorted by selector, then by place.
        under.sort_unstable();
        let mut under = under.into_iter().peekable();
        let by_rarest = Lists::of((0..to_u32(numbers.len())).map(|number| {
            std::iter::from_fn(|| under.next_if(|(rarest, _)| *rarest == number).map(|(_, place)| place))
                .collect::<Vec<_>>()
        }));
        Self { generation, entries, numbers, by_rarest, others }
    }

    /// The entries that a caller with these selectors may have, by ascending ID. A caller must have all selectors of
    /// an entry.
    #[must_use]
    pub fn entries_of(&self, selectors: &Selectors) -> Vec<&Arc<Entry>> {
        self.places(selectors).as_slice().iter().map(|place| &self.entries[*place as usize]).collect()
    }

    /// As [`Self::entries_of`], but returns IDs for [`crate::Cache::subscribe`].
    #[must_use]
    pub fn matching(&self, selectors: &Selectors) -> Matched {
        let places = self.places(selectors);
        let ids = match places.as_slice() {
            [] => Arc::default(),
            places => places.iter().map(|place| Arc::clone(&self.entries[*place as usize].id)).collect(),
        };
        Matched { generation: self.generation, ids }
    }

    /// The places in `entries` of those that match, ascending.
    fn places(&self, selectors: &Selectors) -> Few {
        // Ascending, because the selectors are. A selector that no entry has does not matter.
        let mut have = Few::default();
        for selector in selectors {
            if let Some(number) = self.numbers.get(selector) {
                have.push(*number);
            }
        }
        let have = have.as_slice();
        let mut places = Few::default();
        for number in have {
            for place in self.by_rarest.list(*number) {
                if is_subset(self.others.list(*place), have) {
                    places.push(*place);
                }
            }
        }
        places.sort();
        places
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

impl Lists {
    fn of<L: IntoIterator<Item = u32>>(lists: impl Iterator<Item = L>) -> Self {
        let (mut starts, mut all) = (vec![0], Vec::new());
        for list in lists {
            all.extend(list);
            starts.push(to_u32(all.len()));
        }
        all.shrink_to_fit();
        Self { starts, all }
    }

    fn list(&self, number: u32) -> &[u32] {
        let at = number as usize;
        &self.all[self.starts[at] as usize..self.starts[at + 1] as usize]
    }
}

/// Numbers the selectors of these entries, ascending.
fn numbers(entries: &[Arc<Entry>]) -> HashMap<Selector, u32> {
    let mut distinct: Vec<&Selector> = entries.iter().flat_map(|entry| &entry.selectors).collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.into_iter().cloned().zip(0..).collect()
}

/// Whether all of `wanted` are in `have`. Both are ascending.
fn is_subset(wanted: &[u32], have: &[u32]) -> bool {
    let mut rest = have.iter();
    wanted.iter().all(|wanted| rest.by_ref().find(|have| *have >= wanted) == Some(wanted))
}

/// The server's responses are limited to far fewer.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than four thousand million selectors")
}
