//! The Entry service: the entries that an agent is authorized for, in full or by revisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::entry::entry_server::Entry as EntryService;
use proto::entry::{
    EntryRevision, GetAuthorizedEntriesRequest, GetAuthorizedEntriesResponse, SyncAuthorizedEntriesRequest,
    SyncAuthorizedEntriesResponse,
};
use proto::types::{self, EntryMask};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, wire_id};
use crate::entries::Entry;
use crate::state::Shared;

#[tonic::async_trait]
impl EntryService for Api {
    type SyncAuthorizedEntriesStream = ReceiverStream<Result<SyncAuthorizedEntriesResponse, Status>>;

    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        let caller = self.agent(&request)?;
        let mask = request.into_inner().output_mask;
        let authorized = self.0.authorized(&caller.id);
        let entries: Vec<_> = authorized.values().map(|entry| wire(entry, mask.as_ref())).collect();
        self.0.count(|counters| {
            counters.syncs += 1;
            counters.entries_sent += entries.len() as u64;
        });
        Ok(Response::new(GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let caller = self.agent(&request)?;
        let entries = self.0.authorized(&caller.id);
        let mut requests = request.into_inner();
        let first = requests.message().await?.ok_or_else(|| Status::unknown("EOF"))?;
        if !first.ids.is_empty() {
            return Err(Status::invalid_argument("specifying IDs on initial request is not supported"));
        }
        if first.output_mask.is_some_and(|mask| !mask.revision_number) {
            return Err(Status::invalid_argument("revision number cannot be masked"));
        }
        let (responses, stream) = mpsc::channel(2);
        let sync = Sync { shared: Arc::clone(&self.0), entries, mask: first.output_mask, responses };
        tokio::spawn(sync.run(requests));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// One SyncAuthorizedEntries stream. Its entries are those at its beginning.
struct Sync {
    shared: Arc<Shared>,
    entries: BTreeMap<String, Arc<Entry>>,
    mask: Option<EntryMask>,
    responses: mpsc::Sender<Result<SyncAuthorizedEntriesResponse, Status>>,
}

/// The client has closed the stream.
struct Gone;

impl Sync {
    async fn run(self, mut requests: Streaming<SyncAuthorizedEntriesRequest>) {
        let page = self.shared.options.entry_page_size.max(1);
        let whole = self.entries.len() <= self.shared.options.full_sync_limit.unwrap_or(page);
        let answered = match whole {
            true => self.entries(&self.entries.values().collect::<Vec<_>>(), false).await,
            false => self.revisions(page).await,
        };
        if answered.is_err() {
            return;
        }
        self.shared.count(|counters| {
            counters.syncs += 1;
            counters.paged_syncs += u64::from(!whole);
        });
        if whole {
            return;
        }
        while let Ok(Some(request)) = requests.message().await {
            if self.requested(&request.ids, page).await.is_err() {
                return;
            }
        }
    }

    async fn revisions(&self, page: usize) -> Result<(), Gone> {
        let revisions: Vec<_> = self.entries.values().map(|entry| revision(entry)).collect();
        let pages = revisions.chunks(page);
        let last = pages.len() - 1;
        for (index, page) in pages.enumerate() {
            self.send(SyncAuthorizedEntriesResponse {
                entry_revisions: page.to_vec(),
                entries: Vec::new(),
                more: index < last,
            })
            .await?;
        }
        Ok(())
    }

    /// Answers a request for entries by ID: full pages with `more`, then the rest, which may be empty.
    async fn requested(&self, ids: &[String], page: usize) -> Result<(), Gone> {
        let found: Vec<_> = ids.iter().filter_map(|id| self.entries.get(id)).collect();
        let mut rest = found.as_slice();
        while rest.len() > page {
            let (full, after) = rest.split_at(page);
            self.entries(full, true).await?;
            rest = after;
        }
        self.entries(rest, false).await
    }

    async fn entries(&self, entries: &[&Arc<Entry>], more: bool) -> Result<(), Gone> {
        let entries: Vec<_> = entries.iter().map(|entry| wire(entry, self.mask.as_ref())).collect();
        self.shared.count(|counters| counters.entries_sent += entries.len() as u64);
        self.send(SyncAuthorizedEntriesResponse { entry_revisions: Vec::new(), entries, more }).await
    }

    async fn send(&self, response: SyncAuthorizedEntriesResponse) -> Result<(), Gone> {
        self.responses.send(Ok(response)).await.map_err(|_| Gone)
    }
}

fn revision(entry: &Entry) -> EntryRevision {
    EntryRevision {
        id: entry.id.clone(),
        revision_number: entry.revision_number,
        created_at: entry.created_at,
    }
}

/// The entry's ID and the fields that the mask asks for.
fn wire(entry: &Entry, mask: Option<&EntryMask>) -> types::Entry {
    let mask = mask.copied().unwrap_or(EVERYTHING);
    let federated = |name: &String| name.strip_prefix("spiffe://").unwrap_or(name).to_owned();
    let selector = |selector: &crate::Selector| types::Selector {
        r#type: selector.kind.clone(),
        value: selector.value.clone(),
    };
    types::Entry {
        id: entry.id.clone(),
        spiffe_id: mask.spiffe_id.then(|| wire_id(&entry.spiffe_id)),
        parent_id: mask.parent_id.then(|| wire_id(&entry.parent_id)),
        selectors: list(mask.selectors, &entry.selectors, selector),
        x509_svid_ttl: pick(mask.x509_svid_ttl, entry.x509_svid_ttl),
        federates_with: list(mask.federates_with, &entry.federates_with, federated),
        admin: mask.admin && entry.admin,
        downstream: mask.downstream && entry.downstream,
        expires_at: pick(mask.expires_at, entry.expires_at),
        dns_names: list(mask.dns_names, &entry.dns_names, String::clone),
        revision_number: pick(mask.revision_number, entry.revision_number),
        store_svid: mask.store_svid && entry.store_svid,
        jwt_svid_ttl: pick(mask.jwt_svid_ttl, entry.jwt_svid_ttl),
        hint: pick(mask.hint, entry.hint.clone()),
        created_at: pick(mask.created_at, entry.created_at),
        additional_attributes: pick(mask.additional_attributes, entry.additional_attributes).map(
            |attributes| types::entry::AdditionalAttributes {
                disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
                jwt_svid_include_jti: attributes.jwt_svid_include_jti,
            },
        ),
    }
}

fn pick<T: Default>(wanted: bool, value: T) -> T {
    if wanted { value } else { T::default() }
}

fn list<T, U>(wanted: bool, values: &[T], convert: impl Fn(&T) -> U) -> Vec<U> {
    if wanted { values.iter().map(convert).collect() } else { Vec::new() }
}

const EVERYTHING: EntryMask = EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};
