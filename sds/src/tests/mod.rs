//! Tests against Envoy's own definitions and recordings.

mod calls;
mod delta;
mod dialects;
mod histories;
mod requests;
mod sotw;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use identity::{
    Bundle, Bundles, Entry, Identity, PrivateKey, Selector, SpiffeId, TrustDomain, WorkloadUpdate, X509Svid,
};

use crate::machine::Push;
use crate::wire::DiscoveryRequest;

const WEB: &str = "spiffe://td/web";
const DB: &str = "spiffe://td/db";

fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn svid(id: &str, serial: u8, ttl: u64) -> Option<Arc<X509Svid>> {
    Some(Arc::new(X509Svid {
        id: SpiffeId::parse(id).unwrap(),
        chain: vec![Bytes::copy_from_slice(&[serial; 8])],
        key: PrivateKey::from_pkcs8(vec![serial; 40]),
        not_before: wall() - Duration::from_secs(10),
        not_after: wall() + Duration::from_secs(ttl),
        serial: serial.to_string(),
    }))
}

fn identity(place: u8, id: &str, svid: Option<Arc<X509Svid>>) -> Identity {
    let entry = Entry {
        id: format!("{place}").into(),
        spiffe_id: SpiffeId::parse(id).unwrap(),
        selectors: [Selector::new("unix", "uid:0").unwrap()].into_iter().collect(),
        federates_with: vec![],
        admin: false,
        downstream: false,
        revision: 0,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    };
    Identity { entry: Arc::new(entry), svid }
}

fn bundle(name: &str, authority: u8) -> Arc<Bundle> {
    Arc::new(Bundle::of_x509(TrustDomain::parse(name).unwrap(), [Bytes::copy_from_slice(&[authority; 4])]))
}

fn update(identities: Vec<Identity>, authority: u8) -> Arc<WorkloadUpdate> {
    Arc::new(WorkloadUpdate::new(identities, bundle("td", authority), Bundles::new()))
}

fn with_foreign(update: &WorkloadUpdate) -> Arc<WorkloadUpdate> {
    let federated = ["other", "another"].map(|name| (TrustDomain::parse(name).unwrap(), bundle(name, 9)));
    let mut update = update.clone();
    update.federated = federated.into();
    Arc::new(update)
}

fn names<'a>(list: &[&'a str]) -> DiscoveryRequest<'a> {
    DiscoveryRequest { resource_names: list.to_vec(), ..DiscoveryRequest::default() }
}

fn answer<'a>(push: &'a Push, list: &[&'a str]) -> DiscoveryRequest<'a> {
    DiscoveryRequest { version_info: push.version_info(), response_nonce: push.nonce(), ..names(list) }
}
