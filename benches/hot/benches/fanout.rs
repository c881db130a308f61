//! Measures a rotation for 1 to 10,000 streams, to check that the secret is encoded only once.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hot::{Rotating, update};

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fanout");
    group.sample_size(20);
    for size in [1, 100, 1_000, 10_000] {
        let secrets = Arc::default();
        let updates = [update(1), update(2)];
        let mut streams: Vec<Rotating> = (0..size).map(|_| Rotating::new(&secrets, &updates[0])).collect();
        let mut turn = 0;
        group.throughput(Throughput::Elements(size));
        group.bench_with_input(BenchmarkId::from_parameter(size), &size, |bencher, _| {
            bencher.iter(|| {
                turn += 1;
                for stream in &mut streams {
                    for bytes in stream.push(&updates[turn % 2]) {
                        black_box(bytes);
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group!(all, fanout);
criterion_main!(all);
