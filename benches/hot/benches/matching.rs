//! Measures the matching of one caller, by the index of rarest selectors and by an index of every selector, as
//! spire-agent has it.
//!
//! 10 to 100,000 entries share `k8s:ns`; the caller is a pod with twenty selectors.

use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::sync::Arc;

use cache::Snapshot;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hot::{caller, entry};
use identity::{Entry, Selector, Selectors};

/// An index that holds each entry under each of its selectors.
struct EverySelector {
    entries: Vec<Arc<Entry>>,
    by_selector: HashMap<Selector, Vec<u32>>,
}

impl EverySelector {
    fn new(entries: Vec<Arc<Entry>>) -> Self {
        let mut by_selector: HashMap<Selector, Vec<u32>> = HashMap::new();
        for (place, entry) in (0..).zip(&entries) {
            for selector in &entry.selectors {
                by_selector.entry(selector.clone()).or_default().push(place);
            }
        }
        Self { entries, by_selector }
    }

    fn matching(&self, selectors: &Selectors) -> Vec<Arc<str>> {
        let candidates: HashSet<u32> =
            selectors.iter().filter_map(|one| self.by_selector.get(one)).flatten().copied().collect();
        let entries = candidates.into_iter().map(|place| &self.entries[place as usize]);
        let matching = entries.filter(|entry| entry.selectors.is_subset_of(selectors));
        let mut ids: Vec<_> = matching.map(|entry| Arc::clone(&entry.id)).collect();
        ids.sort_unstable();
        ids
    }
}

fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matching");
    for size in [10, 1_000, 10_000, 100_000] {
        let entries: Vec<_> = (0..size).map(|n| Arc::new(entry(n))).collect();
        let snapshot = Snapshot::new(1, entries.iter().cloned());
        let every = EverySelector::new(entries);
        let caller = caller(size / 2);
        assert_eq!(snapshot.entries_of(&caller).len(), 1);
        assert_eq!(every.matching(&caller).len(), 1);
        group.bench_with_input(BenchmarkId::new("rarest selector", size), &size, |bencher, _| {
            bencher.iter(|| black_box(snapshot.matching(black_box(&caller))));
        });
        group.bench_with_input(BenchmarkId::new("every selector", size), &size, |bencher, _| {
            bencher.iter(|| black_box(every.matching(black_box(&caller))));
        });
    }
    group.finish();
}

fn indexing(criterion: &mut Criterion) {
    let entries: Vec<_> = (0..10_000).map(|n| Arc::new(entry(n))).collect();
    let mut group = criterion.benchmark_group("index of 10,000");
    group.sample_size(10);
    group.bench_function("rarest selector", |bencher| {
        bencher.iter(|| Snapshot::new(1, entries.iter().cloned()));
    });
    group.bench_function("every selector", |bencher| bencher.iter(|| EverySelector::new(entries.clone())));
    group.finish();
}

criterion_group!(all, matching, indexing);
criterion_main!(all);
