//! Any sequence of requests (including raw bytes), updates, waits and reconnections, of both protocols. A stream never
//! sends a secret that the caller may not have, an empty version or nonce, or a nonce twice, and it has at most one
//! unanswered response within five seconds. Clients of both protocols that ask for the same end with the same secrets,
//! and a client of the differences with nothing that it may not have any more.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::{
    Bundle, Bundles, Entry, Identity, PrivateKey, Selectors, SpiffeId, TrustDomain, WorkloadUpdate, X509Svid,
};
use prost::Message as _;
use sds::Options;
use sds::machine::{ACK_PATIENCE, Machine, Next, Push, fetch};
use sds::secret::Secrets;
use sds::wire::{DeltaDiscoveryRequest, DiscoveryRequest, Protocol};

const NAMES: [&str; 7] =
    ["default", "ROOTCA", "ALL", "spiffe://td", "spiffe://td/0", "spiffe://td/1", "nonsense"];

libfuzzer_sys::fuzz_target!(|ops: Vec<(u8, u8, Vec<u8>)>| {
    let mut sotw = Client::new(Protocol::Sotw);
    let mut delta = Client::new(Protocol::Delta);
    let (mut now, mut asked, mut latest, mut is_raw) = (0, BTreeSet::new(), None, false);
    for (op, parameter, bytes) in ops {
        match op % 7 {
            0 => {
                let names = NAMES.iter().enumerate().filter(|(bit, _)| parameter & (1 << bit) != 0);
                let names = names.map(|(_, name)| *name).collect();
                is_raw |= !sotw.ask(&names, &asked) || !delta.ask(&names, &asked);
                asked = names;
            }
            1 => {
                is_raw = true;
                let request = DiscoveryRequest::decode(&bytes).ok();
                let taken = request.is_some_and(|request| sotw.machine.request(request).is_ok());
                let request = DeltaDiscoveryRequest::decode(&bytes).ok();
                let also = request.is_some_and(|request| delta.machine.delta_request(request).is_ok());
                if !taken && !also {
                    return;
                }
            }
            2 | 3 => {
                let update = update(if op % 7 == 2 { parameter } else { 0 });
                latest = Some(Arc::clone(&update));
                sotw.machine.update(Arc::clone(&update));
                delta.machine.update(update);
            }
            4 => now += u64::from(parameter % 8),
            5 => {
                sotw.answer(&asked);
                delta.answer(&asked);
            }
            _ => {
                is_raw |= !sotw.reconnect(&asked, &latest) || !delta.reconnect(&asked, &latest);
            }
        }
        if !sotw.take(now, &latest) || !delta.take(now, &latest) {
            return;
        }
    }
    for _ in 0..3 {
        sotw.answer(&asked);
        delta.answer(&asked);
        if !sotw.take(now, &latest) || !delta.take(now, &latest) {
            return;
        }
    }
    if let Some(latest) = latest.filter(|_| !is_raw && !asked.is_empty()) {
        for name in NAMES.into_iter().filter(|name| asked.contains(name)) {
            let is_gone = match name {
                "default" => latest.identities.is_empty(),
                "nonsense" => true,
                name => name.len() > 11 && latest.granting(name).next().is_none(),
            };
            let request = DiscoveryRequest { resource_names: vec![name], ..Default::default() };
            let fetched =
                fetch(&Options::default(), &Secrets::default(), request, &latest, SystemTime::UNIX_EPOCH);
            match fetched {
                Ok(push) => {
                    let resource = &push.resources[0].resource;
                    assert_eq!(sotw.held.get(name).map(|held| &held.1), Some(resource), "{name}");
                    assert_eq!(delta.held.get(name).map(|held| &held.1), Some(resource), "{name}");
                }
                Err(_) => assert!(!is_gone || !delta.held.contains_key(name), "{name} was not removed"),
            }
        }
    }
});

/// A client and its stream.
struct Client {
    machine: Machine,
    nonce: String,
    nonces: BTreeSet<String>,
    last_push: Option<u64>,
    /// By name: version and content.
    held: BTreeMap<String, (String, Bytes)>,
}

impl Client {
    fn new(protocol: Protocol) -> Self {
        Self {
            machine: Machine::new(protocol, Arc::default(), Arc::default(), 0),
            nonce: String::new(),
            nonces: BTreeSet::new(),
            last_push: None,
            held: BTreeMap::new(),
        }
    }

    /// Asks for these names after others. Returns whether the stream goes on.
    fn ask(&mut self, names: &BTreeSet<&'static str>, before: &BTreeSet<&'static str>) -> bool {
        if names.is_empty() {
            // Nothing means everything to one protocol, and no change to the other.
            return false;
        }
        self.held.retain(|name, _| names.contains(&**name));
        let is_first = !self.machine.was_asked();
        match self.machine.protocol() {
            Protocol::Sotw => {
                let resource_names = names.iter().copied().collect();
                let request =
                    DiscoveryRequest { resource_names, response_nonce: &self.nonce, ..Default::default() };
                self.machine.request(request).is_ok()
            }
            Protocol::Delta => {
                let versions = self.held.iter().map(|(name, held)| (&**name, &*held.0)).collect();
                let request = DeltaDiscoveryRequest {
                    subscribe: names
                        .iter()
                        .filter(|name| is_first || !before.contains(*name))
                        .copied()
                        .collect(),
                    unsubscribe: before.difference(names).copied().collect(),
                    initial_resource_versions: if is_first { versions } else { Vec::new() },
                    ..Default::default()
                };
                self.machine.delta_request(request).is_ok()
            }
        }
    }

    fn answer(&mut self, asked: &BTreeSet<&'static str>) {
        if self.nonce.is_empty() {
            return;
        }
        let taken = match self.machine.protocol() {
            Protocol::Sotw => {
                let resource_names = asked.iter().copied().collect();
                let request =
                    DiscoveryRequest { resource_names, response_nonce: &self.nonce, ..Default::default() };
                self.machine.request(request)
            }
            Protocol::Delta => {
                let request = DeltaDiscoveryRequest { response_nonce: &self.nonce, ..Default::default() };
                self.machine.delta_request(request)
            }
        };
        taken.expect("an answer");
    }

    fn reconnect(&mut self, asked: &BTreeSet<&'static str>, latest: &Option<Arc<WorkloadUpdate>>) -> bool {
        self.machine = Machine::new(self.machine.protocol(), Arc::default(), Arc::default(), 0);
        (self.nonce, self.nonces, self.last_push) = Default::default();
        if let Some(latest) = latest {
            self.machine.update(Arc::clone(latest));
        }
        self.ask(asked, asked)
    }

    /// Takes what the stream sends now. Returns whether it goes on.
    fn take(&mut self, now: u64, latest: &Option<Arc<WorkloadUpdate>>) -> bool {
        let unanswered = !self.machine.answered();
        let push = match self.machine.next(Duration::from_secs(now), SystemTime::UNIX_EPOCH) {
            Ok(Next::Push(push)) => push,
            Ok(Next::Wait(_)) => return true,
            Err(_) => return false,
        };
        self.check(&push, latest);
        assert!(self.nonces.insert(push.nonce().to_owned()), "a nonce is repeated");
        if let Some(last) = self.last_push.filter(|_| unanswered) {
            assert!(now >= last + ACK_PATIENCE.as_secs(), "two unanswered responses");
        }
        (self.nonce, self.last_push) = (push.nonce().to_owned(), Some(now));
        for encoded in &push.resources {
            let version = encoded.digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            self.held.insert(encoded.name.to_string(), (version, encoded.resource.clone()));
        }
        for name in &push.removed {
            self.held.remove(&**name);
        }
        true
    }

    fn check(&self, push: &Push, latest: &Option<Arc<WorkloadUpdate>>) {
        assert!(!push.resources.is_empty() || !push.removed.is_empty());
        assert!(push.removed.is_empty() || self.machine.protocol() == Protocol::Delta);
        assert!(!push.version_info().is_empty() && !push.nonce().is_empty());
        for encoded in &push.resources {
            assert!(is_authorized(&encoded.resource, latest), "a secret that the caller may not have");
        }
    }
}

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
