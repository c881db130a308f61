//! Measures the reading of agent.conf at start: the official chart's file, as HCL and as settings.

use std::hint::black_box;

use config::{Overrides, Settings, hcl};
use criterion::{Criterion, criterion_group, criterion_main};

const CHART: &str = include_str!("../../config/testdata/official-chart-default.agent.conf");

fn read(criterion: &mut Criterion) {
    let file = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    criterion.bench_function("agent.conf parsed", |bencher| {
        bencher.iter(|| black_box(hcl::parse(black_box(CHART))).expect("it is HCL"));
    });
    criterion.bench_function("agent.conf loaded", |bencher| {
        bencher.iter(|| black_box(Settings::load(black_box(CHART), &Overrides::default(), &file)).is_ok());
    });
}

criterion_group!(all, read);
criterion_main!(all);
