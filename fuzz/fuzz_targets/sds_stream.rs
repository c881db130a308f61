//! Any sequence of requests (including raw bytes), updates and waits. A stream never sends a secret that the caller may
//! not have, an empty version or nonce, or a nonce twice, and it has at most one unanswered response within five
//! seconds.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::{
    Bundle, Bundles, Entry, Identity, PrivateKey, Selectors, SpiffeId, TrustDomain, WorkloadUpdate, X509Svid,
};
use prost::Message as _;
use sds::machine::{ACK_PATIENCE, Machine, Next};
use sds::wire::{DiscoveryRequest, Protocol};

const NAMES: [&str; 8] =
    ["", "default", "ROOTCA", "ALL", "spiffe://td", "spiffe://td/0", "spiffe://td/1", "nonsense"];

libfuzzer_sys::fuzz_target!(|ops: Vec<(u8, u8, Vec<u8>)>| {
    let mut stream = Machine::new(Protocol::Sotw, Arc::default(), Arc::default(), 0);
    let (mut now, mut nonce, mut nonces) = (0, String::new(), BTreeSet::new());
    let mut last_push = None;
    let mut latest = None;
    for (op, parameter, bytes) in ops {
        match op % 5 {
            0 => {
                let names = (0..8).filter(|bit| parameter & (1 << bit) != 0).map(|bit| NAMES[bit]).collect();
                let request =
                    DiscoveryRequest { resource_names: names, response_nonce: &nonce, ..Default::default() };
                let _ = stream.request(request);
            }
            1 => {
                if let Ok(request) = DiscoveryRequest::decode(&bytes) {
                    let _ = stream.request(request);
                }
            }
            2 => {
                let update = update(parameter);
                latest = Some(Arc::clone(&update));
                stream.update(update);
            }
            3 => now += u64::from(parameter % 8),
            _ => {
                let update = update(0);
                latest = Some(Arc::clone(&update));
                stream.update(update);
            }
        }
        let unanswered = !stream.answered();
        match stream.next(Duration::from_secs(now), SystemTime::UNIX_EPOCH) {
            Ok(Next::Push(push)) => {
                assert!(
                    !push.resources.is_empty() && !push.version_info().is_empty() && !push.nonce().is_empty()
                );
                for encoded in &push.resources {
                    assert!(
                        is_authorized(&encoded.resource, &latest),
                        "a secret that the caller may not have"
                    );
                }
                assert!(nonces.insert(push.nonce().to_owned()), "a nonce is repeated");
                if let Some(last) = last_push.filter(|_| unanswered) {
                    assert!(now >= last + ACK_PATIENCE.as_secs(), "two unanswered responses");
                }
                (nonce, last_push) = (push.nonce().to_owned(), Some(now));
            }
            Ok(Next::Wait(_)) => {}
            Err(_) => return,
        }
    }
});

/// `google.protobuf.Any`.
#[derive(prost::Message)]
struct Any {
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(prost::Message)]
struct Secret {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    tls_certificate: Option<Vec<u8>>,
}

/// Whether the caller may have a secret. Everybody may have a bundle. A certificate must be that of an unexpired SVID
/// of the caller.
fn is_authorized(resource: &[u8], latest: &Option<Arc<WorkloadUpdate>>) -> bool {
    let any = Any::decode(resource).expect("an Any");
    let secret = Secret::decode(&*any.value).expect("a Secret");
    let Some(certificate) = secret.tls_certificate else { return true };
    let identities = latest.iter().flat_map(|update| &update.identities);
    let mut live = identities.filter_map(|identity| identity.live(SystemTime::UNIX_EPOCH));
    live.any(|svid| {
        let named = secret.name == "default" || secret.name == svid.id.as_str();
        let chain = svid.chain_pem();
        named && certificate.windows(chain.len()).any(|text| text == chain.as_bytes())
    })
}

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
    // Some SVIDs are expired, and some are not minted yet.
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
