//! One rotation seen by one stream: take the update, build the push, put it on the wire, take the ACK. And the request
//! of a real Envoy: 61 KB, nearly all of it skipped.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use benches::update;
use criterion::{Criterion, criterion_group, criterion_main};
use prost::Message as _;
use sds::secret::Secrets;
use sds::stream::{Next, Stream};
use sds::wire::DiscoveryRequest;

fn rotation(criterion: &mut Criterion) {
    let name = update(0).identities[0].entry.spiffe_id.to_string();
    let request = |version: String, nonce: String| DiscoveryRequest {
        version_info: version,
        response_nonce: nonce,
        resource_names: vec![name.clone()],
        ..DiscoveryRequest::default()
    };
    let versions = [update(1), update(2)];
    let mut stream = Stream::new(Arc::default(), Arc::new(Secrets::default()), 1);
    stream.request(request(String::new(), String::new())).expect("one name");
    let mut turn = 0;
    criterion.bench_function("rotation of one stream", |bencher| {
        bencher.iter(|| {
            turn += 1;
            stream.update(Arc::clone(&versions[turn % 2]));
            let Ok(Next::Push(push)) = stream.next(Duration::ZERO, SystemTime::UNIX_EPOCH) else {
                unreachable!("the SVID has changed")
            };
            let mut wire = Vec::with_capacity(4096);
            push.encode(&mut wire);
            black_box(&wire);
            stream.request(request(push.version_info, push.nonce)).expect("an ACK");
        });
    });
}

fn request(criterion: &mut Criterion) {
    let bytes = include_bytes!("../../sds/testdata/envoy-1.40.0.first-request.bin");
    criterion.bench_function("request of a real Envoy", |bencher| {
        bencher.iter(|| black_box(DiscoveryRequest::decode(&bytes[..])).expect("recorded"));
    });
}

criterion_group!(all, rotation, request);
criterion_main!(all);
