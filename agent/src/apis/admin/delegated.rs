//! The Delegated Identity API: a caller whose own SPIFFE ID is among `authorized_delegates` gets the identities of
//! others (SPIRE, `pkg/agent/api/delegatedidentity/v1`).
//!
//! Before each message the caller is authorized again, by the present entries and the selectors that it was attested
//! with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::try_unfold;
use identity::{Bundle, Bundles, Entry, Identity, Selector, Selectors, SpiffeId, WorkloadUpdate, X509Svid};
use latest::Updates;
use proto::delegated as wire;
use proto::types;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;
use tracing::{debug, error};
use transport::Peer;

use crate::apis::workload::{denied, der, jwks, no_token};
use crate::door::{Admission, Caller, Denied, NoDelegate};
use crate::telemetry::names;

/// The service `spire.api.agent.delegatedidentity.v1.DelegatedIdentity`.
#[derive(Debug, Clone)]
pub(super) struct Delegated {
    admission: Arc<Admission>,
    delegates: Arc<[String]>,
}

impl Delegated {
    pub(super) fn new(admission: Arc<Admission>, delegates: Arc<[String]>) -> Self {
        Self { admission, delegates }
    }

    pub(super) async fn subscribe_to_svids(
        &self,
        caller: Caller,
        request: wire::SubscribeToX509sviDsRequest,
    ) -> Result<impl Stream<Item = Result<wire::SubscribeToX509sviDsResponse, Status>> + use<>, Status> {
        let began = Instant::now();
        self.authorize(&caller, SVIDS)?;
        let selectors = self.selectors(&caller, &request.selectors, request.pid).await?;
        let delegate = self.admission.delegate(&caller, &self.delegates, selectors);
        let delegate = delegate.map_err(|reason| refused(caller.peer(), SVIDS, reason))?;
        debug!(method = SVIDS, pid = caller.peer().process.pid, "Subscribing to cache changes");
        let updates = self.admission.subscribe_for(&caller, &delegate).await.map_err(denied)?;
        let state = Svids { service: self.clone(), caller, updates, first: true, began: Some(began) };
        Ok(try_unfold(state, |mut state| async move {
            let response = state.next().await?;
            Ok(Some((response, state)))
        }))
    }

    pub(super) fn subscribe_to_bundles(
        &self,
        caller: Caller,
        _: wire::SubscribeToX509BundlesRequest,
    ) -> Result<impl Stream<Item = Result<wire::SubscribeToX509BundlesResponse, Status>> + use<>, Status>
    {
        self.bundles(caller, "SubscribeToX509Bundles", |bundles| wire::SubscribeToX509BundlesResponse {
            ca_certificates: by(bundles, der),
        })
    }

    pub(super) fn subscribe_to_jwt_bundles(
        &self,
        caller: Caller,
        _: wire::SubscribeToJwtBundlesRequest,
    ) -> Result<impl Stream<Item = Result<wire::SubscribeToJwtBundlesResponse, Status>> + use<>, Status> {
        self.bundles(caller, "SubscribeToJWTBundles", |bundles| wire::SubscribeToJwtBundlesResponse {
            bundles: by(bundles, jwks),
        })
    }

    /// The bundles of all trust domains, now and after each change.
    fn bundles<R>(
        &self,
        caller: Caller,
        method: &'static str,
        compose: fn(&Bundles) -> R,
    ) -> Result<impl Stream<Item = Result<R, Status>> + use<R>, Status> {
        self.authorize(&caller, method)?;
        let manager = self.admission.manager().ok_or_else(|| denied(Denied::Starting))?;
        let state = (self.clone(), caller, manager.bundles(), true);
        Ok(try_unfold(state, move |mut state| async move {
            let (service, caller, bundles, first) = &mut state;
            if !std::mem::take(first) {
                changed(bundles).await?;
                service.authorize(caller, method)?;
            }
            let response = compose(&bundles.borrow_and_update());
            Ok(Some((response, state)))
        }))
    }

    /// One token for each identity of the selectors, all of them or none.
    pub(super) async fn fetch_jwt_svids(
        &self,
        caller: Caller,
        request: wire::FetchJwtsviDsRequest,
    ) -> Result<wire::FetchJwtsviDsResponse, Status> {
        const METHOD: &str = "FetchJWTSVIDs";
        let pid = caller.peer().process.pid;
        if request.audience.is_empty() {
            if caller.peer().complain("audience") {
                error!(pid, method = METHOD, "Missing required audience parameter");
            }
            return Err(Status::invalid_argument("audience must be specified"));
        }
        self.authorize(&caller, METHOD)?;
        let selectors = self.selectors(&caller, &request.selectors, request.pid).await?;
        let delegate = self.admission.delegate(&caller, &self.delegates, selectors);
        let delegate = delegate.map_err(|reason| refused(caller.peer(), METHOD, reason))?;
        let manager = self.admission.manager().ok_or_else(|| denied(Denied::Starting))?;
        let granted = manager.granted(&delegate);
        let signed = granted.iter().filter(|granted| is_served(granted.entry())).map(async |granted| {
            let svid = manager.jwt_svid(granted, &request.audience).await.map_err(|reason| {
                if caller.peer().complain("no JWT-SVID") {
                    let spiffe_id = &granted.entry().spiffe_id;
                    error!(pid, method = METHOD, %spiffe_id, error = %reason, "Could not fetch JWT-SVID");
                }
                no_token(&reason)
            })?;
            debug!(pid, method = METHOD, spiffe_id = %svid.id, "Fetched JWT SVID");
            let record = self.admission.record();
            record.jwt(caller.peer(), METHOD, granted.entry(), &svid, &request.audience);
            Ok::<_, Status>(types::Jwtsvid {
                token: svid.token().to_owned(),
                id: Some(id(&svid.id)),
                expires_at: unix(svid.expires_at),
                issued_at: unix(svid.issued_at),
                hint: granted.entry().hint.clone(),
            })
        });
        let svids = try_join_all(signed).await?;
        if svids.is_empty() {
            return Err(refused(caller.peer(), METHOD, NoDelegate::NoIdentity));
        }
        Ok(wire::FetchJwtsviDsResponse { svids })
    }

    fn authorize(&self, caller: &Caller, method: &str) -> Result<(), Status> {
        let authorized = self.admission.authorize(caller, &self.delegates);
        authorized.map_err(|reason| refused(caller.peer(), method, reason))
    }

    /// The selectors that a request gives, or those of the process that it names. It must have one of the two, but not
    /// both.
    async fn selectors(
        &self,
        caller: &Caller,
        selectors: &[types::Selector],
        of_pid: i32,
    ) -> Result<Selectors, Status> {
        let pid = caller.peer().process.pid;
        if selectors.is_empty() == (of_pid == 0) {
            if caller.peer().complain("argument") {
                error!(method = SVIDS, pid, "Invalid argument; {NEITHER_OR_BOTH}");
            }
            return Err(Status::invalid_argument(NEITHER_OR_BOTH));
        }
        if selectors.is_empty() {
            return self.admission.attest_pid(caller, of_pid).await.map_err(denied);
        }
        let parsed = selectors.iter().map(|one| Selector::new(&one.r#type, &one.value));
        parsed.collect::<Result<Selectors, _>>().map_err(|reason| {
            if caller.peer().complain("argument") {
                error!(method = SVIDS, pid, error = %reason, "Invalid argument; could not parse provided selectors");
            }
            Status::invalid_argument("could not parse provided selectors")
        })
    }
}

/// One subscription to X.509-SVIDs.
struct Svids {
    service: Delegated,
    caller: Caller,
    updates: Updates<WorkloadUpdate>,
    first: bool,
    /// When the call began; `None` once its first list is sent.
    began: Option<Instant>,
}

impl Svids {
    /// The next list of SVIDs: the first at once, then one after each change. A list is complete: it is sent only when
    /// no SVID is missing or expired.
    async fn next(&mut self) -> Result<wire::SubscribeToX509sviDsResponse, Status> {
        loop {
            if !std::mem::take(&mut self.first) {
                self.updates.changed().await.map_err(|_| denied(Denied::Stopped))?;
            }
            self.service.authorize(&self.caller, SVIDS)?;
            let update = self.updates.latest();
            let now = SystemTime::now();
            let wanted: Vec<&Identity> =
                update.identities.iter().filter(|one| is_served(&one.entry)).collect();
            if wanted.iter().all(|identity| identity.live(now).is_some()) {
                if let Some(began) = self.began.take() {
                    let metrics = self.service.admission.metrics();
                    metrics.elapsed(&names::FIRST_UPDATE, &[], began.elapsed());
                }
                let record = self.service.admission.record();
                for identity in &wanted {
                    if let Some(svid) = identity.live(now) {
                        record.x509(self.caller.peer(), SVIDS, &identity.entry, svid);
                    }
                }
                return Ok(list(&wanted, &update, now));
            }
        }
    }
}

/// Identities of administrators and of downstream servers are not for delegates.
fn is_served(entry: &Entry) -> bool {
    !entry.admin && !entry.downstream
}

fn list(
    identities: &[&Identity],
    update: &WorkloadUpdate,
    now: SystemTime,
) -> wire::SubscribeToX509sviDsResponse {
    let with_svid = identities.iter().filter_map(|identity| Some((identity, identity.live(now)?)));
    wire::SubscribeToX509sviDsResponse {
        x509_svids: with_svid.map(|(identity, svid)| with_key(&identity.entry.hint, svid)).collect(),
        // Ascending by trust domain, like the map.
        federates_with: update.federated.keys().map(|domain| domain.id()).collect(),
    }
}

fn with_key(hint: &str, svid: &X509Svid) -> wire::X509svidWithKey {
    wire::X509svidWithKey {
        x509_svid: Some(types::X509svid {
            cert_chain: svid.chain.clone(),
            id: Some(id(&svid.id)),
            expires_at: unix(svid.not_after),
            hint: hint.to_owned(),
        }),
        x509_svid_key: svid.key.shared(),
    }
}

fn unix(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn id(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

fn by(bundles: &Bundles, form: fn(&Bundle) -> Bytes) -> BTreeMap<String, Bytes> {
    bundles.iter().map(|(domain, bundle)| (domain.id(), form(bundle))).collect()
}

async fn changed(bundles: &mut watch::Receiver<Bundles>) -> Result<(), Status> {
    bundles.changed().await.map_err(|_| denied(Denied::Stopped))
}

/// Logs the refusal in spire-agent's words, which alerts look for, and returns its status.
fn refused(peer: &Peer, method: &str, reason: NoDelegate) -> Status {
    let pid = peer.process.pid;
    match reason {
        NoDelegate::NoIdentity if peer.complain("no identity") => error!(method, pid, "No identity issued"),
        NoDelegate::NotListed if peer.complain("delegate") => {
            error!(method, pid, "Permission denied; caller not configured as an authorized delegate.");
        }
        NoDelegate::NoIdentity | NoDelegate::NotListed => {}
    }
    Status::permission_denied(reason.to_string())
}

/// The methods' names in the log.
const SVIDS: &str = "SubscribeToX509SVIDs";
const NEITHER_OR_BOTH: &str = "must provide either selectors or non-zero PID, but not both";
