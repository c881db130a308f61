//! Fetches the entries that the server authorizes for this node, and the bundles that they need.
//!
//! SyncAuthorizedEntries (SPIRE, `client.go` and the server's `entry/v1/service.go`) has two kinds of first answer: the
//! complete list of entries, or revisions in pages. After revisions the agent asks by ID for the entries that are new
//! or differ, at most one page's worth in one message.

mod doubts;
mod state;

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::try_join;
use identity::{Bundle, Bundles, Entry};
use proto::bundle::bundle_client::BundleClient;
use proto::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::entry::entry_client::EntryClient;
use proto::entry::{
    GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use proto::types::{self, EntryMask};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::warn;

use self::state::{Comparison, EntryList, Listed};
pub use self::state::{Counts, SyncState};
use super::link::Link;
use super::{CALL_LIMIT, ServerError};

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
    if let Some(doubts) = &mut known.doubts {
        doubts.retain_bundles(|domain| bundles.contains_key(domain));
    }
    let changed = !std::mem::replace(&mut known.handed_on, true);
    Ok(Synced { entries: changed.then(|| known.entries.clone()), bundles })
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
                if let Some(held) = known.doubted_absence(&domain) {
                    bundles.insert(domain, held);
                } else if known.absent.insert(domain.clone()) {
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
