//! Measures one push, from the update to the bytes that are sent, and its ACK.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use hot::{Rotating, update};

fn push(criterion: &mut Criterion) {
    let updates = [update(1), update(2)];
    let mut stream = Rotating::new(&Arc::default(), &updates[0]);
    let mut turn = 0;
    criterion.bench_function("push", |bencher| {
        bencher.iter(|| {
            turn += 1;
            for bytes in stream.push(&updates[turn % 2]) {
                black_box(bytes);
            }
        });
    });
}

criterion_group!(all, push);
criterion_main!(all);
