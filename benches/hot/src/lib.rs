//! The hot paths, small enough to be counted in CI: entries as in a cluster, streams that rotate, and the counted
//! scenarios. The crate has few dependencies, because it is built with optimization.

pub mod connection;
pub mod peer;
pub mod scenarios;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::{
    Bundle, Bundles, Entry, Identity, PrivateKey, Selector, Selectors, SpiffeId, TrustDomain, WorkloadUpdate,
    X509Svid,
};
use sds::Frames;
use sds::machine::{Machine, Next, Push};
use sds::secret::Secrets;
use sds::wire::{DiscoveryRequest, Protocol};

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

/// The selectors of an Envoy in the pod `app-n`, as the k8s attestor makes them.
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
        "pod-image:app:1.2.3",
        "pod-label:version:v1",
        "pod-label:pod-template-hash:abcde",
        "pod-label:team:yelb",
        "pod-label:tier:web",
        "pod-owner-uid:ReplicaSet:00000000-0000-0000-0000-000000000001",
        "container-image:envoy@sha256:0123456789abcdef",
        "node-name:node-1.example.org",
    ])
}

fn selectors(values: &[&str]) -> Selectors {
    values.iter().map(|value| Selector::new("k8s", value).expect("well-formed")).collect()
}

/// The update of a caller with one identity. Each `version` has another SVID.
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
    let identities = vec![Identity { entry: Arc::new(entry), svid: Some(Arc::new(svid)) }];
    let bundle = Arc::new(Bundle::of_x509(domain, [Bytes::from(vec![9; 600])]));
    Arc::new(WorkloadUpdate::new(identities, bundle, Bundles::new()))
}

/// A stream that asks for the identity of [`update`] and acknowledges every push.
#[derive(Debug)]
pub struct Rotating {
    stream: Machine,
    name: String,
}

impl Rotating {
    /// Makes a stream that has had its first answer.
    ///
    /// # Panics
    /// Never: the update has an SVID.
    #[must_use]
    pub fn new(secrets: &Arc<Secrets>, first: &Arc<WorkloadUpdate>) -> Self {
        let name = first.identities[0].entry.spiffe_id.to_string();
        let stream = Machine::new(Protocol::Sotw, Arc::default(), Arc::clone(secrets), 1);
        let mut rotating = Self { stream, name };
        rotating.ask(None);
        drop(rotating.push(first));
        rotating
    }

    /// Gives the stream a new SVID and acknowledges the push. Returns the frames that it sends.
    ///
    /// # Panics
    /// If the update is the same as the last one.
    pub fn push(&mut self, update: &Arc<WorkloadUpdate>) -> Frames {
        self.stream.update(Arc::clone(update));
        let Ok(Next::Push(push)) = self.stream.next(Duration::ZERO, SystemTime::UNIX_EPOCH) else {
            panic!("the SVID is the one before")
        };
        let frames = push.frames();
        self.ask(Some(&push));
        frames
    }

    fn ask(&mut self, answered: Option<&Push>) {
        let request = DiscoveryRequest {
            version_info: answered.map_or("", Push::version_info),
            response_nonce: answered.map_or("", Push::nonce),
            resource_names: vec![&self.name],
            ..DiscoveryRequest::default()
        };
        self.stream.request(request).expect("one name");
    }
}

/// The update of a caller with this many identities.
///
/// # Panics
/// Never: the parts are well-formed.
#[must_use]
pub fn update_of(identities: usize) -> Arc<WorkloadUpdate> {
    let one = update(1);
    let svid = one.identities[0].svid.as_ref().expect("there is one");
    let identity = |n| {
        let entry = Arc::new(entry(n));
        let svid = X509Svid {
            id: entry.spiffe_id.clone(),
            chain: svid.chain.clone(),
            key: PrivateKey::from_pkcs8(svid.key.pkcs8().to_vec()),
            not_before: svid.not_before,
            not_after: svid.not_after,
            serial: n.to_string(),
        };
        Identity { entry, svid: Some(Arc::new(svid)) }
    };
    let identities = (0..identities).map(identity).collect();
    Arc::new(WorkloadUpdate::new(identities, Arc::clone(&one.bundle), Bundles::new()))
}

/// A message with gRPC's prefix.
///
/// # Panics
/// If the message is longer than 4 GiB.
#[must_use]
pub fn framed(message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).expect("short");
    [&[0], &len.to_be_bytes()[..], message].concat().into()
}
