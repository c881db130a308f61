//! Fetches the entries that the server authorizes for this node, and the bundles that they need.
//!
//! SyncAuthorizedEntries (SPIRE, `client.go` and the server's `entry/v1/service.go`) has two kinds of first answer: the
//! complete list of entries, or revisions in pages. After revisions the agent asks by ID for the entries that are new
//! or differ, at most one page's worth in one message.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::try_join;
use identity::{Bundle, Bundles, Entry, TrustDomain};
use proto::bundle::bundle_client::BundleClient;
use proto::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::entry::entry_client::EntryClient;
use proto::entry::{
    EntryRevision, GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use proto::types::{self, EntryMask};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::warn;

use super::link::Link;
use super::{CALL_LIMIT, ServerError, convert};

/// The results of earlier syncs. The next sync compares the server's list with them, asks only for changes, and falls
/// back on them if an answer is malformed.
#[derive(Debug, Default)]
pub struct SyncState {
    /// The entries in the server's order. The order rarely changes, so a sync compares them one by one and needs no
    /// lookup.
    entries: Vec<Arc<Entry>>,
    /// The foreign trust domains that the entries federate with.
    federates_with: BTreeSet<TrustDomain>,
    /// Whether a [`Synced`] has handed these entries to the caller. It has not before the first sync, nor after a sync
    /// that failed half-way.
    handed_on: bool,
    /// Malformed entries by ID, with their revision. Each revision is logged once, not at each sync.
    refused: BTreeMap<String, i64>,
    /// Malformed bundles by trust domain, with the reason. Each reason is logged once.
    unreadable: BTreeMap<TrustDomain, String>,
    /// Trust domains whose bundle the server does not have. Each is logged once.
    absent: BTreeSet<TrustDomain>,
    /// Each bundle as received and as parsed. The next sync nearly always brings the same one, and parsing its
    /// certificates would be a quarter of a sync's work.
    bundles: BTreeMap<TrustDomain, (types::Bundle, Arc<Bundle>)>,
}

/// The outcome of one sync.
#[derive(Debug)]
pub struct Synced {
    /// All authorized entries; `None` if they have not changed since the last sync.
    pub entries: Option<Vec<Arc<Entry>>>,
    /// The bundles of the agent's own trust domain and of the trust domains that the entries federate with.
    pub bundles: Bundles,
}

/// Fetches the changes since the last sync. With `revisions` it uses SyncAuthorizedEntries, otherwise
/// GetAuthorizedEntries. After an error `known` is still good.
///
/// # Errors
/// [`ServerError`].
pub async fn sync(link: &Link, known: &mut SyncState, revisions: bool) -> Result<Synced, ServerError> {
    let entries =
        async { if revisions { sync_entries(link, &known.entries).await } else { all_entries(link).await } };
    // Both calls at once: fewer packets, and the agent wakes up fewer times.
    let (answer, own) = try_join(entries, own_bundle(link)).await?;
    known.replace(answer);
    let own = known.bundle(own)?;
    let bundles = bundles(link, known, own).await?;
    known.bundles.retain(|domain, _| bundles.contains_key(domain));
    let changed = !std::mem::replace(&mut known.handed_on, true);
    Ok(Synced { entries: changed.then(|| known.entries.clone()), bundles })
}

/// The server's answer to one sync of entries.
#[derive(Debug)]
enum EntryList {
    /// All entries in full.
    Whole(Vec<types::Entry>),
    /// All entries in the server's order, and the full text of the stale ones.
    Listed { listed: Vec<Listed>, sent: Vec<types::Entry> },
}

/// An entry in the server's list of revisions.
#[derive(Debug, PartialEq, Eq)]
enum Listed {
    /// The entry at this place of [`SyncState::entries`] is current.
    Held(usize),
    /// The entry with this ID is new or has changed, so the agent asks for it.
    Stale(String),
}

impl SyncState {
    fn replace(&mut self, answer: EntryList) {
        let entries = match answer {
            EntryList::Whole(sent) => self.accept(sent),
            EntryList::Listed { listed, sent } => {
                let in_place = |(place, listed): (usize, &Listed)| *listed == Listed::Held(place);
                if listed.len() == self.entries.len() && listed.iter().enumerate().all(in_place) {
                    self.refused.clear();
                    return;
                }
                let mut sent: HashMap<Arc<str>, Arc<Entry>> =
                    self.accept(sent).into_iter().map(|entry| (Arc::clone(&entry.id), entry)).collect();
                let entry = |listed| match listed {
                    Listed::Held(place) => Some(Arc::clone(&self.entries[place])),
                    Listed::Stale(id) => sent.remove(&*id),
                };
                listed.into_iter().filter_map(entry).collect()
            }
        };
        if entries != self.entries {
            self.federates_with = entries.iter().flat_map(|entry| entry.federates_with.clone()).collect();
            self.entries = entries;
            self.handed_on = false;
        }
    }

    /// Converts received entries. A malformed entry is replaced by the last good one with its ID, if there is one, and
    /// logged once.
    fn accept(&mut self, sent: Vec<types::Entry>) -> Vec<Arc<Entry>> {
        let mut accepted = Vec::with_capacity(sent.len());
        let mut refused = BTreeMap::new();
        for wire in sent {
            let (id, revision) = (wire.id.clone(), wire.revision_number);
            match convert::entry(wire) {
                Ok(entry) => accepted.push(Arc::new(entry)),
                Err(reason) => {
                    if self.refused.get(&id) != Some(&revision) {
                        warn!(entry_id = %id, error = %reason, kept = "the last good one",
                            "Received malformed entry from SPIRE server; are the server and agent versions compatible?");
                    }
                    accepted.extend(self.entries.iter().find(|held| *held.id == *id).cloned());
                    refused.insert(id, revision);
                }
            }
        }
        self.refused = refused;
        accepted
    }

    /// Converts a bundle. A malformed bundle is replaced by the last good one, if there is one, and each new reason is
    /// logged.
    fn bundle(&mut self, wire: types::Bundle) -> Result<Arc<Bundle>, ServerError> {
        if let Some((_, bundle)) = self.bundles.get(&*wire.trust_domain).filter(|(same, _)| *same == wire) {
            return Ok(Arc::clone(bundle));
        }
        match convert::bundle(&wire) {
            Ok(bundle) => {
                let bundle = Arc::new(bundle);
                self.unreadable.remove(&bundle.trust_domain);
                self.bundles.insert(bundle.trust_domain.clone(), (wire, Arc::clone(&bundle)));
                Ok(bundle)
            }
            Err(reason) => {
                let (domain, last) = match self.bundles.get_key_value(&*wire.trust_domain) {
                    Some((domain, (_, last))) => (domain.clone(), Arc::clone(last)),
                    None => return Err(reason),
                };
                self.name_unreadable(&domain, &reason);
                Ok(last)
            }
        }
    }

    fn last_good(&self, domain: &TrustDomain) -> Option<(TrustDomain, Arc<Bundle>)> {
        self.bundles.get(domain).map(|(_, bundle)| (domain.clone(), Arc::clone(bundle)))
    }

    fn name_unreadable(&mut self, domain: &TrustDomain, reason: &ServerError) {
        let reason = reason.to_string();
        if self.unreadable.get(domain) != Some(&reason) {
            warn!(trust_domain = %domain, error = %reason, kept = "the last good one",
                "Received malformed bundle from SPIRE server; are the server and agent versions compatible?");
            self.unreadable.insert(domain.clone(), reason);
        }
    }
}

/// Compares the server's list with the entries that are held, in one pass while their order is the same.
struct Comparison<'a> {
    held: &'a [Arc<Entry>],
    /// The place of the entry that should come next.
    next: usize,
    /// The place of each entry by ID. Filled when the first entry is not at its expected place.
    places: HashMap<&'a str, usize>,
}

impl<'a> Comparison<'a> {
    fn new(held: &'a [Arc<Entry>]) -> Self {
        Self { held, next: 0, places: HashMap::new() }
    }

    fn listed(&mut self, revision: EntryRevision) -> Listed {
        let Some(place) = self.place(&revision.id) else { return Listed::Stale(revision.id) };
        self.next = place + 1;
        if is_stale(&self.held[place], &revision) { Listed::Stale(revision.id) } else { Listed::Held(place) }
    }

    fn place(&mut self, id: &str) -> Option<usize> {
        if self.held.get(self.next).is_some_and(|held| *held.id == *id) {
            return Some(self.next);
        }
        if self.places.is_empty() {
            self.places = self.held.iter().enumerate().map(|(place, held)| (&*held.id, place)).collect();
        }
        self.places.get(id).copied()
    }
}

/// Whether the entry that is held is outdated. A creation time of 0 means that the server did not send one.
fn is_stale(held: &Entry, revision: &EntryRevision) -> bool {
    held.revision != revision.revision_number
        || (revision.created_at != 0 && held.created_at != revision.created_at)
}

async fn all_entries(link: &Link) -> Result<EntryList, ServerError> {
    let request = GetAuthorizedEntriesRequest { output_mask: Some(mask()) };
    let call = |channel| {
        let client = EntryClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        async move { { client }.get_authorized_entries(request).await }
    };
    let entries = link.read(CALL_LIMIT, call).await.map_err(ServerError::in_entries)?.into_inner().entries;
    Ok(EntryList::Whole(entries))
}

async fn sync_entries(link: &Link, held: &[Arc<Entry>]) -> Result<EntryList, ServerError> {
    link.read(CALL_LIMIT, |channel| async move {
        let (send, outbound) = mpsc::unbounded_channel();
        let first = SyncAuthorizedEntriesRequest { output_mask: Some(mask()), ids: Vec::new() };
        send.send(first).map_err(|_| protocol("the stream is closed"))?;
        let mut client = EntryClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        let stream =
            client.sync_authorized_entries(UnboundedReceiverStream::new(outbound)).await?.into_inner();
        Conversation { send, stream }.run(Comparison::new(held)).await
    })
    .await
    .map_err(ServerError::in_entries)
}

struct Conversation {
    send: mpsc::UnboundedSender<SyncAuthorizedEntriesRequest>,
    stream: Streaming<SyncAuthorizedEntriesResponse>,
}

impl Conversation {
    async fn run(mut self, mut comparison: Comparison<'_>) -> Result<EntryList, Status> {
        let mut response = self.next().await?;
        if response.entry_revisions.is_empty() {
            return Ok(EntryList::Whole(response.entries));
        }
        let page = response.entry_revisions.len();
        let mut listed = Vec::with_capacity(comparison.held.len());
        loop {
            if !response.entries.is_empty() {
                return Err(protocol("entries among the revisions"));
            }
            for revision in response.entry_revisions {
                if revision.id.is_empty() || revision.revision_number < 0 {
                    warn!(entry_id = %revision.id, revision_number = revision.revision_number,
                        "Received malformed entry revision from SPIRE server; are the server and agent versions compatible?");
                } else {
                    listed.push(comparison.listed(revision));
                }
            }
            if !response.more {
                break;
            }
            response = self.next().await?;
        }
        let stale = |listed: &Listed| match listed {
            Listed::Stale(id) => Some(id.clone()),
            Listed::Held(_) => None,
        };
        let mut stale: Vec<String> = listed.iter().filter_map(stale).collect();
        stale.sort_unstable();
        stale.dedup();
        let sent = self.fetch(&stale, page).await?;
        Ok(EntryList::Listed { listed, sent })
    }

    /// Sends the requests for all pages at once. The server answers in order, and prepares the next answer while one is
    /// under way.
    async fn fetch(&mut self, stale: &[String], page: usize) -> Result<Vec<types::Entry>, Status> {
        let pages = stale.chunks(page);
        for ids in pages.clone() {
            let request = SyncAuthorizedEntriesRequest { output_mask: None, ids: ids.to_vec() };
            self.send.send(request).map_err(|_| protocol("the stream is closed"))?;
        }
        let mut sent = Vec::with_capacity(stale.len());
        for _ in pages {
            loop {
                let response = self.next().await?;
                if !response.entry_revisions.is_empty() {
                    return Err(protocol("revisions among the entries"));
                }
                sent.extend(response.entries);
                if !response.more {
                    break;
                }
            }
        }
        Ok(sent)
    }

    async fn next(&mut self) -> Result<SyncAuthorizedEntriesResponse, Status> {
        self.stream.message().await?.ok_or_else(|| protocol("the stream ended early"))
    }
}

async fn own_bundle(link: &Link) -> Result<types::Bundle, ServerError> {
    let call = |channel| async {
        let mut client = BundleClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        client.get_bundle(GetBundleRequest::default()).await
    };
    Ok(link.read(CALL_LIMIT, call).await?.into_inner())
}

async fn bundles(link: &Link, known: &mut SyncState, own: Arc<Bundle>) -> Result<Bundles, ServerError> {
    let mut bundles = Bundles::from([(own.trust_domain.clone(), own)]);
    let domains = known.federates_with.clone();
    let foreign = futures_util::stream::iter(domains)
        .map(|domain| async move {
            let request = GetFederatedBundleRequest { trust_domain: domain.name().into(), output_mask: None };
            let call = |channel| {
                let client = BundleClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
                let request = request.clone();
                async { { client }.get_federated_bundle(request).await }
            };
            (domain, link.read(CALL_LIMIT, call).await)
        })
        .buffer_unordered(PARALLEL)
        .collect::<Vec<_>>();
    for (domain, answer) in foreign.await {
        match answer.and_then(|answer| known.bundle(answer.into_inner())) {
            Ok(bundle) if bundle.trust_domain == domain => {
                known.absent.remove(&domain);
                bundles.insert(domain, bundle);
            }
            Ok(bundle) => {
                warn!(federated_bundle = %domain.id(), found = %bundle.trust_domain, "Federated bundle is another's");
                bundles.extend(known.last_good(&domain));
            }
            Err(reason) if reason.code() == Some(Code::NotFound) => {
                if known.absent.insert(domain.clone()) {
                    warn!(federated_bundle = %domain.id(), error = %reason, status_code = "NotFound", status_message = %reason, "Federated bundle not found");
                }
            }
            // One bad bundle must not block the others.
            Err(reason @ ServerError::Malformed(_)) => known.name_unreadable(&domain, &reason),
            Err(reason) => return Err(reason),
        }
    }
    Ok(bundles)
}

fn protocol(reason: &'static str) -> Status {
    Status::internal(format!("SyncAuthorizedEntries: {reason}"))
}

/// The fields of an entry that the agent reads (SPIRE, `client.go`).
fn mask() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        selectors: true,
        federates_with: true,
        admin: true,
        downstream: true,
        revision_number: true,
        store_svid: true,
        hint: true,
        additional_attributes: true,
        created_at: true,
        ..EntryMask::default()
    }
}

/// The largest answer in bytes. The server is authenticated, and a node may have a hundred thousand entries.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;
/// The most federated bundles that are fetched at one time.
const PARALLEL: usize = 10;

#[cfg(test)]
mod tests;
