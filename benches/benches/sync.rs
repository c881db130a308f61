//! Measures the cache's processing of a full answer of the server with 10,000 entries: the first one, one without
//! changes, and one with one change.

use std::hint::black_box;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cache::{Cache, Options};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hot::entry;
use identity::{Bundle, Bundles, Entry, TrustDomain};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn sync(criterion: &mut Criterion) {
    let domain = TrustDomain::parse("td").expect("well-formed");
    let bundle = Arc::new(Bundle::of_x509(domain.clone(), [Bytes::from_static(&[9; 600])]));
    let bundles = Bundles::from([(domain, Arc::clone(&bundle))]);
    let entries: Vec<Arc<Entry>> = (0..10_000).map(entry).map(Arc::new).collect();
    let empty = || Cache::new(Options::default(), Arc::clone(&bundle));
    let mut full = empty();
    full.sync(Some(entries.clone()), bundles.clone(), NOW);

    let mut group = criterion.benchmark_group("sync of 10,000");
    group.sample_size(10);
    group.bench_function("first", |bencher| {
        let prepare = || (empty(), entries.clone());
        let run = |(mut cache, entries): (Cache, _)| {
            black_box(cache.sync(Some(entries), bundles.clone(), NOW));
            cache
        };
        bencher.iter_batched(prepare, run, BatchSize::LargeInput);
    });
    group.bench_function("unchanged", |bencher| {
        let run = |entries| black_box(full.sync(Some(entries), bundles.clone(), NOW));
        bencher.iter_batched(|| entries.clone(), run, BatchSize::LargeInput);
    });
    group.bench_function("one changed", |bencher| {
        let mut revision = 1;
        let prepare = || {
            revision += 1;
            let mut entries = entries.clone();
            entries[5_000] = Arc::new(Entry { revision, ..(*entries[5_000]).clone() });
            entries
        };
        let run = |entries| black_box(full.sync(Some(entries), bundles.clone(), NOW));
        bencher.iter_batched(prepare, run, BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group!(all, sync);
criterion_main!(all);
