//! The SPIFFE Workload API (WA) as spire-agent serves it (`endpoints/workload/handler.go`).
//!
//! Codes are chosen here: no identity → PermissionDenied, not attested or not minted yet → Unavailable, the security
//! header missing → InvalidArgument (WE §3).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use identity::{Bundle, Identity, WorkloadUpdate};
use proto::workload as wire;
use proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};
use tracing::{debug, error};
use transport::Peer;

use crate::door::{Admission, Admitted, Denied, Patience};

/// The service.
#[derive(Debug, Clone)]
pub struct Workload {
    admission: Arc<Admission>,
    /// `allow_unauthenticated_verifiers`.
    anyone_gets_bundles: bool,
    log_selectors: Arc<[String]>,
}

type Reply<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

impl Workload {
    /// A service behind a door.
    #[must_use]
    pub fn new(admission: Arc<Admission>, anyone_gets_bundles: bool, log_selectors: Vec<String>) -> Self {
        Self { admission, anyone_gets_bundles, log_selectors: log_selectors.into() }
    }

    async fn admit<T>(&self, request: &Request<T>, method: &'static str) -> Result<Caller, Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        let peer = Arc::clone(peer.ok_or_else(|| Status::internal("connection has no peer"))?);
        let admitted =
            self.admission.admit(&peer, Patience::Limited(START_PATIENCE)).await.map_err(denied)?;
        Ok(Caller {
            admitted,
            pid: peer.process.pid,
            peer,
            method,
            log_selectors: Arc::clone(&self.log_selectors),
        })
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Reply<wire::X509svidResponse>;
    type FetchX509BundlesStream = Reply<wire::X509BundlesResponse>;
    type FetchJWTBundlesStream = Reply<wire::JwtBundlesResponse>;
    type FetchWITSVIDStream = Reply<wire::WitsvidResponse>;
    type FetchWITBundlesStream = Reply<wire::WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<wire::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let mut caller = self.admit(&request, "FetchX509SVID").await?;
        // The first answer decides the status of the call as a whole.
        let first = caller.svids().await?;
        Ok(Response::new(replies(Svids(caller), first)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<wire::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let mut caller = self.admit(&request, "FetchX509Bundles").await?;
        let anyone = self.anyone_gets_bundles;
        let first = caller.bundles(anyone)?;
        let last = first.clone();
        Ok(Response::new(replies(Bundles { caller, anyone, last }, first)))
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<wire::JwtsvidRequest>,
    ) -> Result<Response<wire::JwtsvidResponse>, Status> {
        Err(Status::unimplemented("fetching JWT-SVIDs is not implemented yet"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<wire::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("fetching JWT bundles is not implemented yet"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<wire::ValidateJwtsvidRequest>,
    ) -> Result<Response<wire::ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("validating JWT-SVIDs is not implemented yet"))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<wire::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("fetching WIT-SVIDs is not implemented"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<wire::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("fetching WIT bundles is not implemented"))
    }
}

/// One caller of one method.
struct Caller {
    admitted: Admitted,
    pid: i32,
    peer: Arc<Peer>,
    method: &'static str,
    log_selectors: Arc<[String]>,
}

impl Caller {
    async fn changed(&mut self) -> Result<(), Status> {
        self.admitted.updates.changed().await.map_err(|_| denied(Denied::Stopped))
    }

    /// The next list of SVIDs: complete, or after [`MINT_PATIENCE`] what there is, but never without the first: it is
    /// the default identity. An expired one counts as not there.
    async fn svids(&mut self) -> Result<wire::X509svidResponse, Status> {
        let until = Instant::now() + MINT_PATIENCE;
        loop {
            let update = self.admitted.updates.latest();
            if update.identities.is_empty() {
                return Err(self.no_identity());
            }
            let now = SystemTime::now();
            let missing = update.identities.iter().find(|identity| identity.live(now).is_none());
            let Some(missing) = missing else { return Ok(self.send(&update, now)) };
            match timeout_at(until, self.admitted.updates.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(denied(Denied::Stopped)),
                Err(_) if update.identities[0].live(now).is_some() => return Ok(self.send(&update, now)),
                Err(_) => return Err(self.not_minted(missing)),
            }
        }
    }

    fn send(&self, update: &WorkloadUpdate, now: SystemTime) -> wire::X509svidResponse {
        let response = svids_response(update, now);
        debug!(pid = self.pid, method = self.method, count = response.svids.len(), "Fetched X.509 SVID");
        response
    }

    fn bundles(&mut self, anyone: bool) -> Result<wire::X509BundlesResponse, Status> {
        let update = self.admitted.updates.latest();
        let registered = !update.identities.is_empty();
        if !registered && !anyone {
            return Err(self.no_identity());
        }
        let foreign = update.federated.values().filter(|_| registered);
        let all = std::iter::once(&update.bundle).chain(foreign);
        let bundles = all.map(|bundle| (bundle.trust_domain.id(), der(bundle))).collect();
        Ok(wire::X509BundlesResponse { crl: Vec::new(), bundles })
    }

    fn no_identity(&self) -> Status {
        if self.peer.complain("no identity") {
            let shown = selectors_to_log(&self.admitted.caller, &self.log_selectors);
            error!(pid = self.pid, method = self.method, registered = false, selectors = %shown, "No identity issued");
        }
        Status::permission_denied("no identity issued")
    }

    fn not_minted(&self, identity: &Identity) -> Status {
        let id = &identity.entry.spiffe_id;
        let reason = match &identity.svid {
            Some(_) => format!("X.509-SVID of {id} has expired and the server has not renewed it yet"),
            None => format!("X.509-SVID of {id} is not available yet"),
        };
        if self.peer.complain("no SVID") {
            error!(pid = self.pid, method = self.method, error = %reason, "Cannot serve X.509-SVIDs");
        }
        Status::unavailable(reason)
    }
}

/// What makes the replies after the first.
trait Replies: Send + 'static {
    type Reply: Send + 'static;

    fn next(&mut self) -> impl Future<Output = Result<Self::Reply, Status>> + Send;
}

struct Svids(Caller);

impl Replies for Svids {
    type Reply = wire::X509svidResponse;

    /// A stream that has had its first answer is not ended because an SVID is late: it has what it has.
    async fn next(&mut self) -> Result<Self::Reply, Status> {
        loop {
            self.0.changed().await?;
            match self.0.svids().await {
                Err(late) if late.code() == Code::Unavailable => debug!(error = %late, "A held stream waits"),
                other => return other,
            }
        }
    }
}

/// A bundle list that equals the last one is not sent (SPIRE does so for bundles, not for SVIDs).
struct Bundles {
    caller: Caller,
    anyone: bool,
    last: wire::X509BundlesResponse,
}

impl Replies for Bundles {
    type Reply = wire::X509BundlesResponse;

    async fn next(&mut self) -> Result<Self::Reply, Status> {
        loop {
            self.caller.changed().await?;
            let next = self.caller.bundles(self.anyone)?;
            if next != self.last {
                self.last = next.clone();
                return Ok(next);
            }
        }
    }
}

/// A stream of a first reply and those that follow, until one is an error.
fn replies<R: Replies>(replies: R, first: R::Reply) -> Reply<R::Reply> {
    let rest = unfold(Some(replies), |replies| async move {
        let mut replies = replies?;
        match replies.next().await {
            Ok(reply) => Some((Ok(reply), Some(replies))),
            Err(status) => Some((Err(status), None)),
        }
    });
    Box::pin(futures_util::stream::once(std::future::ready(Ok(first))).chain(rest))
}

/// WA §5.2.1: in entry order; of the entries that share a hint the oldest alone.
fn svids_response(update: &WorkloadUpdate, now: SystemTime) -> wire::X509svidResponse {
    let bundle = der(&update.bundle);
    let live: Vec<&Identity> =
        update.identities.iter().filter(|identity| identity.live(now).is_some()).collect();
    let svids = unique_hints(&live)
        .into_iter()
        .filter_map(|identity| Some((identity, identity.live(now)?)))
        .map(|(identity, svid)| wire::X509svid {
            spiffe_id: svid.id.to_string(),
            x509_svid: svid.chain_der(),
            x509_svid_key: svid.key.shared(),
            bundle: bundle.clone(),
            hint: identity.entry.hint.clone(),
        })
        .collect();
    let federated_bundles = update.federated.values().map(|b| (b.trust_domain.id(), der(b))).collect();
    wire::X509svidResponse { svids, crl: Vec::new(), federated_bundles }
}

/// SPIRE, `hintsfilter`: per hint the smallest creation time, then the smallest entry ID.
fn unique_hints<'a>(identities: &[&'a Identity]) -> Vec<&'a Identity> {
    let mut oldest: BTreeMap<&str, &Identity> = BTreeMap::new();
    for &identity in identities.iter().filter(|identity| !identity.entry.hint.is_empty()) {
        let held = oldest.entry(&identity.entry.hint).or_insert(identity);
        // Ascending by ID already, so only a smaller time replaces.
        if identity.entry.created_at < held.entry.created_at {
            *held = identity;
        }
    }
    let kept = |identity: &&&Identity| {
        oldest.get(&*identity.entry.hint).is_none_or(|kept| kept.entry.id == identity.entry.id)
    };
    identities.iter().filter(kept).copied().collect()
}

/// The status of a caller that is turned away.
pub(crate) fn denied(reason: Denied) -> Status {
    match reason {
        Denied::NoRoom(_) => Status::resource_exhausted(reason.to_string()),
        Denied::Starting | Denied::Attestation | Denied::Stopped => Status::unavailable(reason.to_string()),
    }
}

/// `log_selectors`: those that equal a configured prefix, or begin with it and a colon.
fn selectors_to_log(caller: &crate::door::Caller, prefixes: &[String]) -> String {
    let wanted = |text: &String| {
        prefixes.iter().any(|prefix| {
            text.strip_prefix(prefix.as_str()).is_some_and(|r| r.is_empty() || r.starts_with(':'))
        })
    };
    let texts: Vec<String> = caller.selectors().iter().map(ToString::to_string).filter(wanted).collect();
    texts.join(",")
}

pub(crate) fn der(bundle: &Bundle) -> Bytes {
    bundle.x509_der().into()
}

const START_PATIENCE: Duration = Duration::from_secs(5);
const MINT_PATIENCE: Duration = Duration::from_secs(5);
