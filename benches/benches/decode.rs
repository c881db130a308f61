//! Measures the decoding of a real Envoy's request, with its node of 60 KB and without: all of it, and only the parts
//! that the agent reads.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest as Whole;
use hot::framed;
use prost::Message as _;
use sds::framing::Intake;

const RECORDED: &[u8] = include_bytes!("../../sds/testdata/envoy-1.40.0.first-request.bin");

fn decode(criterion: &mut Criterion) {
    let whole = Whole::decode(RECORDED).expect("recorded");
    let without = Whole { node: None, ..whole }.encode_to_vec();
    let mut group = criterion.benchmark_group("decode");
    for (name, bytes) in [("with Node", RECORDED), ("without Node", &without)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_with_input(BenchmarkId::new("everything", name), bytes, |bencher, bytes| {
            bencher.iter(|| black_box(Whole::decode(black_box(bytes))).expect("recorded"));
        });
        let framed = framed(bytes);
        for (reader, known) in [("ours", false), ("ours, client known", true)] {
            group.bench_with_input(BenchmarkId::new(reader, name), &framed, |bencher, framed| {
                bencher.iter(|| {
                    let message =
                        Intake::default().feed(black_box(&mut framed.clone()), known).expect("recorded");
                    drop(black_box(message.expect("whole").request()));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(all, decode);
criterion_main!(all);
