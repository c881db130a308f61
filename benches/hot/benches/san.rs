//! Measures the check of one peer: its names against a policy, the same with its chain, and one name among 1, 10 and
//! 1,000 identities.

use std::hint::black_box;
use std::time::SystemTime;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use hot::peer::{self, chain, policy};
use hot::update_of;
use san::Peer;
use sds::Options;
use sds::machine::fetch;
use sds::secret::Secrets;
use sds::wire::DiscoveryRequest;

fn peers(criterion: &mut Criterion) {
    let (policy, chain) = (policy(100), chain());
    let names = peer::names();
    assert!(policy.accepts_names(names));
    criterion.bench_function("names against 100 matchers", |bencher| {
        bencher.iter(|| black_box(policy.accepts_names(black_box(names))));
    });
    criterion.bench_function("peer with its chain", |bencher| {
        bencher.iter(|| {
            let verdict = policy.check(black_box(&chain), peer::at(), Peer::Client).expect("a verdict");
            assert!(verdict.refusal.is_none());
        });
    });
}

fn requested(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("requested name");
    for size in [1, 10, 1_000] {
        let update = update_of(size);
        let name = update.identities[size / 2].entry.spiffe_id.to_string();
        let (options, secrets) = (Options::default(), Secrets::default());
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, _| {
            bencher.iter(|| {
                let resource_names = vec![&*name];
                let request = DiscoveryRequest { resource_names, ..DiscoveryRequest::default() };
                black_box(fetch(&options, &secrets, request, &update, SystemTime::UNIX_EPOCH)).expect("found")
            });
        });
    }
    group.finish();
}

criterion_group!(all, peers, requested);
criterion_main!(all);
