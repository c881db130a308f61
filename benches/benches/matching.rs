//! A caller against the index: 10 to 100,000 entries that share `k8s:ns`.

use std::hint::black_box;
use std::sync::Arc;

use benches::{caller, entry};
use cache::Snapshot;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn matching(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matching");
    for size in [10, 1_000, 10_000, 100_000] {
        let snapshot = Snapshot::new(1, (0..size).map(|n| Arc::new(entry(n))));
        let caller = caller(size / 2);
        assert_eq!(snapshot.entries_of(&caller).len(), 1);
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, _| {
            bencher.iter(|| black_box(snapshot.matching(black_box(&caller))));
        });
    }
    group.finish();
}

criterion_group!(all, matching);
criterion_main!(all);
