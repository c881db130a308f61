//! What an agent gives this process on streams that stay open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::data_source;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret;
use harness::{Agent, Sds, jwt_bundles, sds_request, x509_bundles, x509_svid};
use proto::workload::{JwtBundlesResponse, X509BundlesResponse, X509svidResponse};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use spiffe::{TrustDomain, X509Bundle};
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// What one agent gives this process.
pub(super) struct Followed {
    socket: PathBuf,
    id: String,
    streams: Streams,
    seen: Seen,
    /// How often the agent has ended a stream, or has left the identity out.
    pub(super) ended: u32,
}

struct Streams {
    x509: Streaming<X509BundlesResponse>,
    jwt: Streaming<JwtBundlesResponse>,
    svids: Streaming<X509svidResponse>,
}

/// The latest message of each stream.
#[derive(Default)]
pub(super) struct Seen {
    /// FetchX509Bundles: the authorities of each trust domain, in the order of the message.
    pub(super) x509: BTreeMap<String, Vec<Der>>,
    /// FetchJWTBundles: the IDs of the keys of each trust domain, in the order of the message.
    pub(super) jwt: BTreeMap<String, Vec<String>>,
    /// FetchX509SVID: the trust domains of `federated_bundles`.
    pub(super) federated: BTreeSet<String>,
    /// FetchX509SVID: the chain of the identity, leaf first.
    pub(super) chain: Vec<Der>,
}

/// A certificate.
type Der = Vec<u8>;

impl Followed {
    /// Opens the streams for this process, which is registered with this SPIFFE ID.
    pub(super) async fn open(agent: &Agent, id: &str) -> Self {
        let (socket, id) = (agent.socket(), id.to_owned());
        let streams = Streams::open(&socket).await.expect("served");
        let mut this = Self { socket, id, streams, seen: Seen::default(), ended: 0 };
        this.until("gives bundles and an identity", |seen| {
            !seen.x509.is_empty() && !seen.jwt.is_empty() && !seen.chain.is_empty()
        })
        .await;
        this
    }

    /// The latest message of each stream that has been read.
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Reads the streams until `enough` is true.
    pub(super) async fn until(&mut self, what: &str, enough: impl Fn(&Seen) -> bool) {
        let reading = async {
            while !enough(&self.seen) {
                if self.streams.next(&self.id, &mut self.seen).await.is_ok() {
                    continue;
                }
                // While the real agent has no SVID that is not tainted, it ends streams with "no identity issued" when
                // it tells of a bundle. Clients open them again.
                self.ended += 1;
                self.streams = loop {
                    match Streams::open(&self.socket).await {
                        Ok(streams) => break streams,
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                };
            }
        };
        let read = timeout(PATIENCE, reading).await;
        read.unwrap_or_else(|_| panic!("{}, no: {what}; {}", self.id, self.seen.summary()));
    }
}

impl Streams {
    async fn open(socket: &Path) -> Result<Self, Status> {
        let (x509, jwt) = (x509_bundles(socket).await?, jwt_bundles(socket).await?);
        Ok(Self { x509, jwt, svids: x509_svid(socket).await? })
    }

    /// Reads the next message of any of them.
    async fn next(&mut self, id: &str, seen: &mut Seen) -> Result<(), Status> {
        let end = || Status::unavailable("the stream ended, or lacks the identity");
        tokio::select! {
            message = self.x509.message() => {
                let bundles = message?.ok_or_else(end)?.bundles;
                seen.x509 = bundles.into_iter().map(|(id, ders)| (id, split(&ders))).collect();
            }
            message = self.jwt.message() => {
                let bundles = message?.ok_or_else(end)?.bundles;
                seen.jwt = bundles.into_iter().map(|(id, jwks)| (id, key_ids(&jwks))).collect();
            }
            message = self.svids.message() => {
                let message = message?.ok_or_else(end)?;
                seen.federated = message.federated_bundles.into_keys().collect();
                let own = message.svids.iter().find(|svid| svid.spiffe_id == id);
                seen.chain = split(&own.ok_or_else(end)?.x509_svid);
            }
        }
        Ok(())
    }
}

impl Seen {
    /// The number of authorities of a trust domain.
    pub(super) fn authorities(&self, domain: &str) -> usize {
        self.x509.get(domain).map_or(0, Vec::len)
    }

    /// Whether a trust domain has this JWT authority.
    pub(super) fn has_key(&self, domain: &str, id: &str) -> bool {
        self.jwt.get(domain).is_some_and(|ids| ids.iter().any(|one| one == id))
    }

    /// Whether each message has something of this trust domain, which is not the agent's own.
    pub(super) fn has_all_of(&self, domain: &str) -> bool {
        self.x509.contains_key(domain) && self.jwt.contains_key(domain) && self.federated.contains(domain)
    }

    /// Whether no message has anything of this trust domain.
    pub(super) fn has_none_of(&self, domain: &str) -> bool {
        !self.x509.contains_key(domain) && !self.jwt.contains_key(domain) && !self.federated.contains(domain)
    }

    fn summary(&self) -> String {
        let authorities = self.x509.iter().map(|(id, ders)| (id, ders.len())).collect::<Vec<_>>();
        let (keys, federated, chain) = (&self.jwt, &self.federated, self.chain.len());
        format!("authorities {authorities:?}, keys {keys:?}, federated {federated:?}, a chain of {chain}")
    }
}

/// The intermediates in the chain of an identity of this process. FetchX509SVID and SDS must give the same ones, and none
/// of the certificates twice.
pub(super) async fn intermediates(agent: &Agent, id: &str) -> Vec<Der> {
    let mut svids = x509_svid(&agent.socket()).await.expect("served");
    let message = svids.message().await.expect("served").expect("it goes on");
    let svid = message.svids.iter().find(|svid| svid.spiffe_id == id).expect("it is there");
    let chain = split(&svid.x509_svid);
    assert_eq!(chain.iter().collect::<BTreeSet<_>>().len(), chain.len(), "one of them is there twice");
    let mut sds = Sds::open(&agent.socket(), sds_request(&[id])).await.expect("served");
    let secret = sds.secrets(&[id]).await.expect("served").remove(0);
    let pem = match secret.r#type {
        Some(secret::Type::TlsCertificate(one)) => one.certificate_chain.and_then(|source| source.specifier),
        _ => None,
    };
    let Some(data_source::Specifier::InlineBytes(pem)) = pem else { panic!("no chain in {:?}", secret.name) };
    let by_sds: Vec<Der> =
        CertificateDer::pem_slice_iter(&pem).map(|one| one.expect("PEM").to_vec()).collect();
    assert_eq!(by_sds[1..], chain[1..], "SDS and the Workload API differ");
    chain[1..].to_vec()
}

fn split(ders: &[u8]) -> Vec<Der> {
    let any = TrustDomain::new("example.org").expect("valid");
    let bundle = X509Bundle::parse_from_der(any, ders).expect("certificates");
    bundle.authorities().iter().map(|one| one.as_bytes().to_owned()).collect()
}

fn key_ids(jwks: &[u8]) -> Vec<String> {
    let jwks: serde_json::Value = serde_json::from_slice(jwks).expect("JSON");
    let keys = jwks["keys"].as_array().into_iter().flatten();
    keys.map(|key| key["kid"].as_str().expect("an ID").to_owned()).collect()
}

const PAUSE: Duration = Duration::from_millis(100);
/// Much longer than a server takes to hear of another one's authorities.
const PATIENCE: Duration = Duration::from_secs(100);
