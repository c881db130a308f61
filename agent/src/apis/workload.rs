//! The SPIFFE Workload API (WA), as spire-agent serves it (`endpoints/workload/handler.go`).
//!
//! This module chooses the gRPC codes: PermissionDenied if the caller has no identity, and Unavailable if it is not
//! attested or its SVID is not minted yet. `call` answers a missing security header with InvalidArgument (Workload
//! Endpoint §3).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use identity::{Bundle, Entry, Identity, Selectors, WorkloadUpdate, X509Svid};
use latest::Updates;
use proto::workload as wire;
use tokio::time::{Instant, timeout_at};
use tokio_stream::Stream;
use tonic::{Code, Status};
use tracing::{Level, debug, enabled, error, info};
use transport::Peer;

use crate::door::{Admission, Caller, Denied};
use crate::manager::Proof as _;
use crate::record::Record;

mod jwt;
pub(crate) use self::jwt::{jwks, no_token};

/// The service `SpiffeWorkloadAPI`.
#[derive(Debug)]
pub(crate) struct Workload {
    admission: Arc<Admission>,
    /// `allow_unauthenticated_verifiers`: callers without an identity may fetch the bundle of the agent's trust domain.
    anyone_gets_bundles: bool,
    log_selectors: Arc<[String]>,
}

impl Workload {
    /// The service behind this door. `log_selectors` are the prefixes of the selectors that may be logged.
    pub(crate) fn new(
        admission: Arc<Admission>,
        anyone_gets_bundles: bool,
        log_selectors: Vec<String>,
    ) -> Self {
        Self { admission, anyone_gets_bundles, log_selectors: log_selectors.into() }
    }

    pub(super) async fn fetch_x509_svid(
        &self,
        caller: Caller,
        _: wire::X509svidRequest,
    ) -> Result<impl Stream<Item = Result<wire::X509svidResponse, Status>> + use<>, Status> {
        let mut subscriber = self.subscribe(caller, "FetchX509SVID").await?;
        // The first answer decides the status of the call as a whole.
        let first = subscriber.svids().await?;
        Ok(replies(Svids(subscriber), first))
    }

    pub(super) async fn fetch_x509_bundles(
        &self,
        caller: Caller,
        _: wire::X509BundlesRequest,
    ) -> Result<impl Stream<Item = Result<wire::X509BundlesResponse, Status>> + use<>, Status> {
        let subscriber = self.subscribe(caller, "FetchX509Bundles").await?;
        let wrap = |bundles| wire::X509BundlesResponse { crl: Vec::new(), bundles };
        self.bundles(subscriber, der, wrap)
    }

    /// The bundles in a form, now and after each change.
    fn bundles<R: Send + 'static>(
        &self,
        subscriber: Subscriber,
        form: fn(&Bundle) -> Bytes,
        wrap: fn(Map) -> R,
    ) -> Result<impl Stream<Item = Result<R, Status>> + use<R>, Status> {
        let anyone = self.anyone_gets_bundles;
        let subscriber = subscriber.without_silent_selectors();
        let mut bundles = Bundles { subscriber, anyone, form, wrap, last: Box::default() };
        bundles.last = bundles.latest()?;
        let first = bundles.reply();
        Ok(replies(bundles, first))
    }

    async fn subscribe(&self, caller: Caller, method: &'static str) -> Result<Subscriber, Status> {
        let updates = self.admission.subscribe(&caller).await.map_err(denied)?;
        let (peer, selectors) = (Arc::clone(caller.peer()), caller.selectors().clone());
        let log_selectors = Arc::clone(&self.log_selectors);
        let record = self.admission.record().clone();
        Ok(Subscriber { updates, peer, selectors, method, log_selectors, record })
    }
}

/// A caller of one method, subscribed to its identities.
struct Subscriber {
    updates: Updates<WorkloadUpdate>,
    peer: Arc<Peer>,
    /// Its selectors, for the log alone.
    selectors: Selectors,
    method: &'static str,
    log_selectors: Arc<[String]>,
    record: Record,
}

impl Subscriber {
    /// Keeps only the selectors that may be logged (`log_selectors`): usually none, of a dozen.
    fn without_silent_selectors(self) -> Self {
        let logged = self.selectors.iter().filter(|one| is_logged(&one.to_string(), &self.log_selectors));
        Self { selectors: logged.cloned().collect(), ..self }
    }

    /// Waits for the next update.
    async fn changed(&mut self) -> Result<(), Status> {
        self.updates.changed().await.map_err(|_| denied(Denied::Stopped))
    }

    /// The next list of SVIDs. It waits up to [`MINT_PATIENCE`] until the list is complete, then takes those that
    /// exist. The first SVID must exist, because it is the default identity. An expired SVID counts as missing.
    async fn svids(&mut self) -> Result<wire::X509svidResponse, Status> {
        let until = Instant::now() + MINT_PATIENCE;
        loop {
            let update = self.updates.latest();
            if update.identities.is_empty() {
                return Err(self.no_identity());
            }
            let now = SystemTime::now();
            let missing = update.identities.iter().find(|identity| identity.live(now).is_none());
            let Some(missing) = missing else { return Ok(self.send(&update, now)) };
            self.log_waiting();
            match timeout_at(until, self.updates.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(denied(Denied::Stopped)),
                Err(_) if update.identities[0].live(now).is_some() => return Ok(self.send(&update, now)),
                Err(_) => return Err(self.not_minted(missing)),
            }
        }
    }

    fn send(&self, update: &WorkloadUpdate, now: SystemTime) -> wire::X509svidResponse {
        let response = svids_response(update, now, |identity, svid| {
            self.record.x509(&self.peer, self.method, &identity.entry, svid);
        });
        if enabled!(Level::DEBUG) {
            self.log_fetched(update, &response, now);
        }
        response
    }

    /// Logs that an SVID is still being minted.
    fn log_waiting(&self) {
        if enabled!(Level::INFO) && self.peer.complain("waiting") {
            let selectors = &self.selectors;
            info!(
                subsystem_name = "cache_manager",
                service = "",
                pid = self.pid(),
                ?selectors,
                "Waiting for SVID to get cached"
            );
        }
    }

    /// Logs each SVID of a response.
    fn log_fetched(&self, update: &WorkloadUpdate, response: &wire::X509svidResponse, now: SystemTime) {
        let (pid, method, count) = (self.pid(), self.method, response.svids.len());
        for svid in &response.svids {
            let spiffe_id = svid.spiffe_id.as_str();
            let live = update.identities.iter().filter_map(|identity| identity.live(now));
            let ends = live.filter(|one| one.id.to_string() == spiffe_id).map(|one| one.not_after).next();
            let ttl = ends.and_then(|ends| ends.duration_since(now).ok()).unwrap_or_default().as_secs_f64();
            debug!(pid, method, count, registered = true, spiffe_id, ttl, "Fetched X.509 SVID");
        }
    }

    fn pid(&self) -> i32 {
        self.peer.process.pid
    }

    fn no_identity(&self) -> Status {
        no_identity(&self.peer, &self.selectors, self.method, &self.log_selectors)
    }

    fn not_minted(&self, identity: &Identity) -> Status {
        let id = &identity.entry.spiffe_id;
        let reason = match &identity.svid {
            Some(_) => format!("X.509-SVID of {id} has expired and the server has not renewed it yet"),
            None => format!("X.509-SVID of {id} is not available yet"),
        };
        if self.peer.complain("no SVID") {
            error!(pid = self.pid(), method = self.method, error = %reason, "Cannot serve X.509-SVIDs");
        }
        Status::unavailable(reason)
    }
}

/// Makes the replies of a stream after the first one.
trait Replies: Send + 'static {
    type Reply: Send + 'static;

    fn next(&mut self) -> impl Future<Output = Result<Self::Reply, Status>> + Send;
}

struct Svids(Subscriber);

impl Replies for Svids {
    type Reply = wire::X509svidResponse;

    /// Waits for a list that is complete enough. A stream that has had its first answer is not ended because an SVID is
    /// late: the caller keeps the SVIDs that it has.
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

/// Bundles by trust domain ID, in a form of the Workload API.
type Map = BTreeMap<String, Bytes>;

/// Sends a list of bundles only if it differs from the last one (SPIRE does so for bundles, but not for SVIDs).
struct Bundles<R> {
    subscriber: Subscriber,
    anyone: bool,
    form: fn(&Bundle) -> Bytes,
    wrap: fn(Map) -> R,
    /// What was sent last: shared, not copied, because most streams wait for months.
    last: Box<[Arc<Bundle>]>,
}

impl<R> Bundles<R> {
    /// The own bundle, and those that the caller's identities federate with.
    fn latest(&mut self) -> Result<Box<[Arc<Bundle>]>, Status> {
        let update = self.subscriber.updates.latest();
        let registered = !update.identities.is_empty();
        if !registered && !self.anyone {
            return Err(self.subscriber.no_identity());
        }
        let foreign = update.federated.values().filter(|_| registered);
        Ok(std::iter::once(&update.bundle).chain(foreign).cloned().collect())
    }

    /// Whether a caller would be sent the same as last.
    fn is_last(&self, next: &[Arc<Bundle>]) -> bool {
        let is_same = |(old, new): (&Arc<Bundle>, &Arc<Bundle>)| {
            let is_same_form = || (self.form)(old) == (self.form)(new);
            Arc::ptr_eq(old, new) || (old.trust_domain == new.trust_domain && is_same_form())
        };
        self.last.len() == next.len() && self.last.iter().zip(next).all(is_same)
    }

    fn reply(&self) -> R {
        let bundles = self.last.iter().map(|bundle| (bundle.trust_domain.id(), (self.form)(bundle)));
        (self.wrap)(bundles.collect())
    }
}

impl<R: Send + 'static> Replies for Bundles<R> {
    type Reply = R;

    async fn next(&mut self) -> Result<Self::Reply, Status> {
        loop {
            self.subscriber.changed().await?;
            let next = self.latest()?;
            let is_last = self.is_last(&next);
            self.last = next;
            if !is_last {
                return Ok(self.reply());
            }
        }
    }
}

/// A stream of the first reply and of the next ones. It ends with the first error.
fn replies<R: Replies>(
    replies: R,
    first: R::Reply,
) -> impl Stream<Item = Result<R::Reply, Status>> + Send + 'static {
    let rest = unfold(Some(replies), |replies| async move {
        let mut replies = replies?;
        match replies.next().await {
            Ok(reply) => Some((Ok(reply), Some(replies))),
            Err(status) => Some((Err(status), None)),
        }
    });
    futures_util::stream::once(std::future::ready(Ok(first))).chain(rest)
}

/// The SVIDs in the order of the entries. Of the entries that share a hint only the oldest is listed (WA §5.2.1).
///
/// `sent` hears of each.
fn svids_response(
    update: &WorkloadUpdate,
    now: SystemTime,
    mut sent: impl FnMut(&Identity, &X509Svid),
) -> wire::X509svidResponse {
    let bundle = der(&update.bundle);
    let live: Vec<&Identity> =
        update.identities.iter().filter(|identity| identity.live(now).is_some()).collect();
    let svids = unique_hints(&live, |identity| &identity.entry)
        .into_iter()
        .filter_map(|identity| Some((identity, identity.live(now)?)))
        .inspect(|(identity, svid)| sent(identity, svid))
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

/// Keeps one entry for each hint: the one with the smallest creation time, then the smallest ID (SPIRE, `hintsfilter`).
/// Those without a hint are all kept. `items` are by ascending entry ID.
fn unique_hints<T: Copy>(items: &[T], entry: impl Fn(&T) -> &Entry) -> Vec<T> {
    let mut oldest: BTreeMap<&str, &Entry> = BTreeMap::new();
    for entry in items.iter().map(&entry).filter(|entry| !entry.hint.is_empty()) {
        let held = oldest.entry(&entry.hint).or_insert(entry);
        // Only a smaller time replaces one, because the items are sorted by entry ID.
        if entry.created_at < held.created_at {
            *held = entry;
        }
    }
    let kept = |item: &&T| oldest.get(&*entry(item).hint).is_none_or(|kept| kept.id == entry(item).id);
    items.iter().filter(kept).copied().collect()
}

/// Logs that a caller has no identity, and returns the status of its call.
fn no_identity(peer: &Peer, selectors: &Selectors, method: &'static str, log_selectors: &[String]) -> Status {
    if peer.complain("no identity") {
        let shown = selectors_to_log(selectors, log_selectors);
        let selectors = Some(&*shown).filter(|shown| !shown.is_empty());
        let pid = peer.process.pid;
        error!(pid, method, registered = false, selectors, "No identity issued");
    }
    Status::permission_denied("no identity issued")
}

/// The status of a caller that is not admitted.
pub(crate) fn denied(reason: Denied) -> Status {
    match reason {
        Denied::NoRoom(_) => Status::resource_exhausted(reason.to_string()),
        Denied::Starting | Denied::Attestation | Denied::Stopped | Denied::TooOften(_) => {
            Status::unavailable(reason.to_string())
        }
    }
}

/// The selectors that may be logged: those that equal a prefix of `log_selectors`, or begin with one and a colon.
fn selectors_to_log(selectors: &Selectors, prefixes: &[String]) -> String {
    let texts = selectors.iter().map(ToString::to_string).filter(|text| is_logged(text, prefixes));
    texts.collect::<Vec<_>>().join(",")
}

fn is_logged(selector: &str, prefixes: &[String]) -> bool {
    let mut rests = prefixes.iter().filter_map(|prefix| selector.strip_prefix(prefix.as_str()));
    rests.any(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// The X.509 authorities of a bundle as concatenated DER, the form of the Workload API.
pub(crate) fn der(bundle: &Bundle) -> Bytes {
    bundle.x509_der().into()
}

/// How long a list waits for SVIDs that are being minted.
const MINT_PATIENCE: Duration = Duration::from_secs(5);
