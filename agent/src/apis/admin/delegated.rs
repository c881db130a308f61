//! The Delegated Identity API: identities of others, for a caller whose own SPIFFE ID is among `authorized_delegates`
//! (SPIRE, `pkg/agent/api/delegatedidentity/v1`).
//!
//! Whether the caller is still authorised is judged anew before each message, by the entries of that moment and the
//! selectors that it was attested with.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::stream::try_unfold;
use identity::{Bundles, Identity, Selector, Selectors, SpiffeId, WorkloadUpdate, X509Svid};
use latest::Updates;
use proto::delegated as wire;
use proto::delegated::delegated_identity_server::DelegatedIdentity;
use proto::types;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tracing::{debug, error};
use transport::Peer;

use crate::apis::workload::{denied, der};
use crate::door::{Admission, Caller, Denied, NoDelegate};

/// The service.
#[derive(Debug, Clone)]
pub(super) struct Delegated {
    admission: Arc<Admission>,
    delegates: Arc<[String]>,
}

type Reply<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

impl Delegated {
    pub(super) fn new(admission: Arc<Admission>, delegates: Arc<[String]>) -> Self {
        Self { admission, delegates }
    }

    /// The caller, attested and authorised.
    async fn caller<T>(&self, request: &Request<T>) -> Result<(Arc<Peer>, Caller), Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        let peer = Arc::clone(peer.ok_or_else(|| Status::internal("connection has no peer"))?);
        let caller = self.admission.caller(&peer).await.map_err(denied)?;
        self.authorize(&peer, &caller)?;
        Ok((peer, caller))
    }

    fn authorize(&self, peer: &Peer, caller: &Caller) -> Result<(), Status> {
        self.admission.authorize(caller, &self.delegates).map_err(|reason| refused(peer, reason))
    }

    /// Whose identities are asked for: selectors, or a process, but not both.
    async fn selectors(
        &self,
        peer: &Peer,
        pid: i32,
        selectors: &[types::Selector],
    ) -> Result<Selectors, Status> {
        if selectors.is_empty() == (pid == 0) {
            if peer.complain("argument") {
                error!(pid = peer.process.pid, "Invalid argument; {NEITHER_OR_BOTH}");
            }
            return Err(Status::invalid_argument(NEITHER_OR_BOTH));
        }
        if selectors.is_empty() {
            return self.admission.attest_pid(peer, pid).await.map_err(denied);
        }
        let parsed = selectors.iter().map(|one| Selector::new(&one.r#type, &one.value));
        parsed.collect::<Result<Selectors, _>>().map_err(|reason| {
            if peer.complain("argument") {
                error!(pid = peer.process.pid, error = %reason, "Invalid argument; could not parse provided selectors");
            }
            Status::invalid_argument("could not parse provided selectors")
        })
    }
}

#[tonic::async_trait]
impl DelegatedIdentity for Delegated {
    type SubscribeToX509SVIDsStream = Reply<wire::SubscribeToX509sviDsResponse>;
    type SubscribeToX509BundlesStream = Reply<wire::SubscribeToX509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Reply<wire::SubscribeToJwtBundlesResponse>;

    async fn subscribe_to_x509svi_ds(
        &self,
        request: Request<wire::SubscribeToX509sviDsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        let (peer, caller) = self.caller(&request).await?;
        let asked = request.into_inner();
        let selectors = self.selectors(&peer, asked.pid, &asked.selectors).await?;
        let proof = self.admission.delegate(&caller, &self.delegates, selectors);
        let proof = proof.map_err(|reason| refused(&peer, reason))?;
        debug!(pid = peer.process.pid, "Subscribing to cache changes");
        let updates = self.admission.subscribe(&peer, &proof).await.map_err(denied)?;
        let state = Svids { service: self.clone(), peer, caller, updates, first: true };
        Ok(Response::new(Box::pin(try_unfold(state, |mut state| async move {
            let response = state.next().await?;
            Ok(Some((response, state)))
        }))))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<wire::SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let (peer, caller) = self.caller(&request).await?;
        let manager = self.admission.manager().ok_or_else(|| denied(Denied::Starting))?;
        let state = (self.clone(), peer, caller, manager.bundles(), true);
        Ok(Response::new(Box::pin(try_unfold(state, |mut state| async move {
            let (service, peer, caller, bundles, first) = &mut state;
            if !std::mem::take(first) {
                changed(bundles).await?;
                service.authorize(peer, caller)?;
            }
            let response = all(&bundles.borrow_and_update());
            Ok(Some((response, state)))
        }))))
    }

    async fn fetch_jwtsvi_ds(
        &self,
        _: Request<wire::FetchJwtsviDsRequest>,
    ) -> Result<Response<wire::FetchJwtsviDsResponse>, Status> {
        Err(Status::unimplemented("fetching JWT-SVIDs is not implemented yet"))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        _: Request<wire::SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        Err(Status::unimplemented("fetching JWT bundles is not implemented yet"))
    }
}

/// One subscription.
struct Svids {
    service: Delegated,
    peer: Arc<Peer>,
    caller: Caller,
    updates: Updates<WorkloadUpdate>,
    first: bool,
}

impl Svids {
    /// The next list: at once, then after each change. It has only identities whose SVID exists, and waits for those that
    /// are being minted rather than send a list without them.
    async fn next(&mut self) -> Result<wire::SubscribeToX509sviDsResponse, Status> {
        loop {
            if !std::mem::take(&mut self.first) {
                self.updates.changed().await.map_err(|_| denied(Denied::Stopped))?;
            }
            self.service.authorize(&self.peer, &self.caller)?;
            let update = self.updates.latest();
            let now = SystemTime::now();
            let wanted: Vec<&Identity> = update.identities.iter().filter(|one| is_served(one)).collect();
            if wanted.iter().all(|identity| identity.live(now).is_some()) {
                return Ok(list(&wanted, &update, now));
            }
        }
    }
}

/// Identities of administrators and of downstream servers are not for delegates.
fn is_served(identity: &Identity) -> bool {
    !identity.entry.admin && !identity.entry.downstream
}

fn list(
    identities: &[&Identity],
    update: &WorkloadUpdate,
    now: SystemTime,
) -> wire::SubscribeToX509sviDsResponse {
    let with_svid = identities.iter().filter_map(|identity| Some((identity, identity.live(now)?)));
    wire::SubscribeToX509sviDsResponse {
        x509_svids: with_svid.map(|(identity, svid)| with_key(&identity.entry.hint, svid)).collect(),
        // Ascending, as the map is.
        federates_with: update.federated.keys().map(|domain| domain.id()).collect(),
    }
}

fn with_key(hint: &str, svid: &X509Svid) -> wire::X509svidWithKey {
    let expires = svid.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    wire::X509svidWithKey {
        x509_svid: Some(types::X509svid {
            cert_chain: svid.chain.clone(),
            id: Some(id(&svid.id)),
            expires_at: i64::try_from(expires).unwrap_or(i64::MAX),
            hint: hint.to_owned(),
        }),
        x509_svid_key: svid.key.shared(),
    }
}

fn id(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}

fn all(bundles: &Bundles) -> wire::SubscribeToX509BundlesResponse {
    let certificates = bundles.iter().map(|(domain, bundle)| (domain.id(), der(bundle))).collect();
    wire::SubscribeToX509BundlesResponse { ca_certificates: certificates }
}

async fn changed(bundles: &mut watch::Receiver<Bundles>) -> Result<(), Status> {
    bundles.changed().await.map_err(|_| denied(Denied::Stopped))
}

/// The log has spire-agent's words: alerts look for them.
fn refused(peer: &Peer, reason: NoDelegate) -> Status {
    let pid = peer.process.pid;
    match reason {
        NoDelegate::NoIdentity if peer.complain("no identity") => error!(pid, "No identity issued"),
        NoDelegate::NotListed if peer.complain("delegate") => {
            error!(pid, "Permission denied; caller not configured as an authorized delegate.");
        }
        NoDelegate::NoIdentity | NoDelegate::NotListed => {}
    }
    Status::permission_denied(reason.to_string())
}

const NEITHER_OR_BOTH: &str = "must provide either selectors or non-zero PID, but not both";
