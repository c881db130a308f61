//! What the server authorises for this node: entries, and the bundles that they need.
//!
//! SyncAuthorizedEntries (SPIRE, `client.go` and the server's `entry/v1/service.go`): the first answer either is the
//! complete list, or holds revisions in pages; then the entries that are new or differ are asked for by ID, at most a
//! page's worth in one message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt as _;
use identity::{Bundles, Entry, TrustDomain};
use proto::bundle::bundle_client::BundleClient;
use proto::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use proto::entry::entry_client::EntryClient;
use proto::entry::{
    EntryRevision, GetAuthorizedEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
};
use proto::types::{self, EntryMask};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::warn;

use super::link::Link;
use super::{CALL_LIMIT, ServerError, convert};

/// The entries that the server has told so far; lets the next sync ask for changes only.
#[derive(Debug, Default)]
pub struct Known {
    entries: BTreeMap<Arc<str>, Entry>,
    /// Entries that were refused, by ID and revision: named once, not at each sync.
    refused: BTreeMap<String, i64>,
    /// Trust domains whose bundle the server does not have: named once.
    absent: BTreeSet<TrustDomain>,
}

/// One sync's outcome.
#[derive(Debug)]
pub struct Synced {
    /// All authorised entries.
    pub entries: Vec<Entry>,
    /// The own bundle and those of the trust domains that the entries federate with.
    pub bundles: Bundles,
}

/// Asks what changed. On an error nothing known is dropped.
///
/// # Errors
/// [`ServerError`].
pub async fn sync(link: &Link, known: &mut Known, revisions: bool) -> Result<Synced, ServerError> {
    let fresh = if revisions { sync_entries(link, known).await? } else { all_entries(link).await? };
    known.replace(fresh);
    let domains: BTreeSet<TrustDomain> =
        known.entries.values().flat_map(|e| e.federates_with.clone()).collect();
    let bundles = bundles(link, known, domains).await?;
    Ok(Synced { entries: known.entries.values().cloned().collect(), bundles })
}

/// What the server said: entries in full, and IDs of entries that are as known.
#[derive(Debug, Default)]
struct Answer {
    entries: Vec<types::Entry>,
    unchanged: BTreeSet<String>,
}

impl Known {
    fn replace(&mut self, answer: Answer) {
        self.entries.retain(|id, _| answer.unchanged.contains(&**id));
        let mut refused = BTreeMap::new();
        for wire in answer.entries {
            let (id, revision) = (wire.id.clone(), wire.revision_number);
            match convert::entry(wire) {
                Ok(entry) => drop(self.entries.insert(Arc::clone(&entry.id), entry)),
                Err(reason) => {
                    if self.refused.get(&id) != Some(&revision) {
                        warn!(entry_id = %id, error = %reason, "Received malformed entry from SPIRE server; the others go on");
                    }
                    refused.insert(id, revision);
                }
            }
        }
        self.refused = refused;
    }

    /// Whether an entry has to be asked for; a creation time of 0 says nothing.
    fn is_stale(&self, revision: &EntryRevision) -> bool {
        self.entries.get(&*revision.id).is_none_or(|known| {
            known.revision != revision.revision_number
                || (revision.created_at != 0 && known.created_at != revision.created_at)
        })
    }
}

async fn all_entries(link: &Link) -> Result<Answer, ServerError> {
    let request = GetAuthorizedEntriesRequest { output_mask: Some(mask()) };
    let call = async |channel| {
        let mut client = EntryClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        client.get_authorized_entries(request).await
    };
    let entries = link.call(CALL_LIMIT, call).await.map_err(ServerError::in_entries)?.into_inner().entries;
    Ok(Answer { entries, unchanged: BTreeSet::new() })
}

async fn sync_entries(link: &Link, known: &Known) -> Result<Answer, ServerError> {
    link.call(CALL_LIMIT, async |channel| {
        let (send, outbound) = mpsc::channel(1);
        let first = SyncAuthorizedEntriesRequest { output_mask: Some(mask()), ids: Vec::new() };
        send.send(first).await.map_err(|_| protocol("the stream is closed"))?;
        let mut client = EntryClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
        let stream = client.sync_authorized_entries(ReceiverStream::new(outbound)).await?.into_inner();
        Conversation { send, stream, known }.run().await
    })
    .await
    .map_err(ServerError::in_entries)
}

struct Conversation<'a> {
    send: mpsc::Sender<SyncAuthorizedEntriesRequest>,
    stream: Streaming<SyncAuthorizedEntriesResponse>,
    known: &'a Known,
}

impl Conversation<'_> {
    async fn run(mut self) -> Result<Answer, Status> {
        let first = self.next().await?;
        if first.entry_revisions.is_empty() {
            return Ok(Answer { entries: first.entries, unchanged: BTreeSet::new() });
        }
        let page = first.entry_revisions.len();
        let mut answer = Answer::default();
        let mut stale = BTreeSet::new();
        let mut response = first;
        loop {
            if !response.entries.is_empty() {
                return Err(protocol("entries among the revisions"));
            }
            for revision in response.entry_revisions {
                if revision.id.is_empty() || revision.revision_number < 0 {
                    warn!(entry_id = %revision.id, "Received malformed entry revision from SPIRE server");
                } else if self.known.is_stale(&revision) {
                    stale.insert(revision.id);
                } else {
                    answer.unchanged.insert(revision.id);
                }
            }
            if !response.more {
                break;
            }
            response = self.next().await?;
        }
        self.fetch(stale.into_iter().collect(), page, &mut answer).await?;
        Ok(answer)
    }

    async fn fetch(&mut self, stale: Vec<String>, page: usize, answer: &mut Answer) -> Result<(), Status> {
        for ids in stale.chunks(page) {
            let request = SyncAuthorizedEntriesRequest { output_mask: None, ids: ids.to_vec() };
            self.send.send(request).await.map_err(|_| protocol("the stream is closed"))?;
            loop {
                let response = self.next().await?;
                if !response.entry_revisions.is_empty() {
                    return Err(protocol("revisions among the entries"));
                }
                answer.entries.extend(response.entries);
                if !response.more {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<SyncAuthorizedEntriesResponse, Status> {
        self.stream.message().await?.ok_or_else(|| protocol("the stream ended early"))
    }
}

async fn bundles(
    link: &Link,
    known: &mut Known,
    domains: BTreeSet<TrustDomain>,
) -> Result<Bundles, ServerError> {
    let own = link.call(CALL_LIMIT, async |channel| {
        BundleClient::new(channel)
            .max_decoding_message_size(ANSWER_LIMIT)
            .get_bundle(GetBundleRequest::default())
            .await
    });
    let own = Arc::new(convert::bundle(own.await?.into_inner())?);
    let mut bundles = Bundles::from([(own.trust_domain.clone(), own)]);
    let foreign = futures_util::stream::iter(domains)
        .map(|domain| async move {
            let request = GetFederatedBundleRequest { trust_domain: domain.name().into(), output_mask: None };
            let call = async |channel| {
                let mut client = BundleClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
                client.get_federated_bundle(request).await
            };
            (domain, link.call(CALL_LIMIT, call).await)
        })
        .buffer_unordered(PARALLEL)
        .collect::<Vec<_>>();
    for (domain, answer) in foreign.await {
        match answer.and_then(|answer| convert::bundle(answer.into_inner())) {
            Ok(bundle) if bundle.trust_domain == domain => {
                known.absent.remove(&domain);
                bundles.insert(domain, Arc::new(bundle));
            }
            Ok(bundle) => {
                warn!(trust_domain = %domain, found = %bundle.trust_domain, "Federated bundle is another's")
            }
            Err(reason) if reason.code() == Some(Code::NotFound) => {
                if known.absent.insert(domain.clone()) {
                    warn!(trust_domain = %domain, error = %reason, "Federated bundle not found");
                }
            }
            // One bad bundle must not block the others.
            Err(reason @ ServerError::Malformed(_)) => {
                warn!(trust_domain = %domain, error = %reason, "Received malformed bundle from SPIRE server");
            }
            Err(reason) => return Err(reason),
        }
    }
    Ok(bundles)
}

fn protocol(reason: &'static str) -> Status {
    Status::internal(format!("SyncAuthorizedEntries: {reason}"))
}

/// What the agent reads of an entry (SPIRE, `client.go`).
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

/// The server is trusted once TLS stands, and a node with a hundred thousand entries is possible.
const ANSWER_LIMIT: usize = 256 * 1024 * 1024;
const PARALLEL: usize = 10;
