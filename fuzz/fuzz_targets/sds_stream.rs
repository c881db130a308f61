//! Any sequence of requests (raw bytes among them), updates and waiting: no panic; at most one unanswered response
//! unless patience has run out; a push only after something changed; nonces never repeat.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::{
    Bundle, Bundles, Entry, Identity, PrivateKey, Selectors, SpiffeId, TrustDomain, WorkloadUpdate, X509Svid,
};
use prost::Message as _;
use sds::stream::{ACK_PATIENCE, Next, Stream};
use sds::wire::DiscoveryRequest;

const NAMES: [&str; 8] =
    ["", "default", "ROOTCA", "ALL", "spiffe://td", "spiffe://td/0", "spiffe://td/1", "nonsense"];

libfuzzer_sys::fuzz_target!(|ops: Vec<(u8, u8, Vec<u8>)>| {
    let mut stream = Stream::new(Arc::default(), Arc::default(), 0);
    let (mut now, mut nonce, mut nonces) = (0, String::new(), BTreeSet::new());
    let mut last_push = None;
    for (op, parameter, bytes) in ops {
        match op % 5 {
            0 => {
                let names =
                    (0..8).filter(|bit| parameter & (1 << bit) != 0).map(|bit| NAMES[bit].into()).collect();
                let request = DiscoveryRequest {
                    resource_names: names,
                    response_nonce: nonce.clone(),
                    ..Default::default()
                };
                let _ = stream.request(request);
            }
            1 => {
                if let Ok(request) = DiscoveryRequest::decode(&*bytes) {
                    let _ = stream.request(request);
                }
            }
            2 => stream.update(update(parameter)),
            3 => now += u64::from(parameter % 8),
            _ => stream.update(update(0)),
        }
        let unanswered = !stream.answered();
        match stream.next(Duration::from_secs(now), SystemTime::UNIX_EPOCH) {
            Ok(Next::Push(push)) => {
                assert!(!push.resources.is_empty() && !push.version_info.is_empty());
                assert!(nonces.insert(push.nonce.clone()), "a nonce is repeated");
                if let Some(last) = last_push.filter(|_| unanswered) {
                    assert!(now >= last + ACK_PATIENCE.as_secs(), "two unanswered responses");
                }
                (nonce, last_push) = (push.nonce, Some(now));
            }
            Ok(Next::Wait(_)) => {}
            Err(_) => return,
        }
    }
});

fn update(parameter: u8) -> Arc<WorkloadUpdate> {
    let domain = TrustDomain::parse("td").expect("a name");
    let identities =
        (0..2).filter(|n| parameter & (1 << n) != 0).map(|n| identity(n, parameter >> 2)).collect();
    let bundle = Arc::new(Bundle::of_x509(domain, [Bytes::copy_from_slice(&[parameter >> 6])]));
    Arc::new(WorkloadUpdate::new(identities, bundle, Bundles::new()))
}

fn identity(n: u8, version: u8) -> Identity {
    let id = SpiffeId::parse(&format!("spiffe://td/{n}")).expect("an ID");
    let entry = Entry {
        id: n.to_string().into(),
        spiffe_id: id.clone(),
        selectors: Selectors::default(),
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        revision: 0,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    };
    // Some are expired, some not minted yet.
    let lifetime = Duration::from_secs(u64::from(version % 3));
    let svid = (!version.is_multiple_of(4)).then(|| {
        Arc::new(X509Svid {
            id,
            chain: vec![Bytes::copy_from_slice(&[version])],
            key: PrivateKey::from_pkcs8(vec![version]),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH + lifetime,
            serial: String::new(),
        })
    });
    Identity { entry: Arc::new(entry), svid }
}
