//! Shapes that the benchmarks share: entries as a cluster has them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::{
    Bundle, Bundles, Entry, Identity, PrivateKey, Selector, Selectors, SpiffeId, TrustDomain, WorkloadUpdate,
    X509Svid,
};

/// Entry number `n` of a namespace where all share `k8s:ns`.
///
/// # Panics
/// Never: the parts are well-formed.
#[must_use]
pub fn entry(n: usize) -> Entry {
    Entry {
        id: format!("{n:08}").into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://td/ns/yelb/sa/app-{n}")).expect("well-formed"),
        selectors: selectors(&["ns:yelb", &format!("sa:app-{n}"), "container-name:envoy"]),
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        revision: 1,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

/// What the k8s attestor finds out about a pod's Envoy that runs as `app-n`.
#[must_use]
pub fn caller(n: usize) -> Selectors {
    let uid = format!("pod-uid:00000000-0000-0000-0000-{n:012}");
    selectors(&[
        "ns:yelb",
        &format!("sa:app-{n}"),
        "container-name:envoy",
        "container-image:envoy:v1.40.0",
        "node-name:node-1",
        &uid,
        &format!("pod-name:app-{n}-abcde"),
        "pod-image-count:2",
        "pod-init-image-count:1",
        "pod-label:app:yelb",
        "pod-owner:ReplicaSet:yelb-abcde",
        "pod-image:envoy:v1.40.0",
    ])
}

fn selectors(values: &[&str]) -> Selectors {
    values.iter().map(|value| Selector::new("k8s", value).expect("well-formed")).collect()
}

/// What a caller with one identity hears; `version` makes another SVID.
///
/// # Panics
/// Never: the parts are well-formed.
#[must_use]
pub fn update(version: u8) -> Arc<WorkloadUpdate> {
    let entry = entry(0);
    let svid = X509Svid {
        id: entry.spiffe_id.clone(),
        chain: vec![Bytes::from(vec![version; 700])],
        key: PrivateKey::from_pkcs8(vec![version; 138]),
        not_before: SystemTime::UNIX_EPOCH,
        not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(3600),
        serial: version.to_string(),
    };
    let domain = TrustDomain::parse("td").expect("well-formed");
    Arc::new(WorkloadUpdate {
        identities: vec![Identity { entry: Arc::new(entry), svid: Some(Arc::new(svid)) }],
        bundle: Arc::new(Bundle::of_x509(domain, [Bytes::from(vec![9; 600])])),
        federated: Bundles::new(),
    })
}
