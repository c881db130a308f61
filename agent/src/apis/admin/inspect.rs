//! The Inspect API, by which an operator asks the agent about itself and about its callers. It is Finial's own.

use std::sync::Arc;

use proto::inspect::{Document, ExplainRequest, ListRecordsRequest, OverviewRequest};
use serde::Serialize;
use tonic::Status;
use transport::Peer;

use crate::explain::Inspector;

/// The service `finial.agent.inspect.v1.Inspect`.
#[derive(Debug)]
pub(super) struct Inspect(Inspector);

impl Inspect {
    pub(super) fn new(inspector: Inspector) -> Self {
        Self(inspector)
    }

    pub(super) async fn explain(&self, asker: &Peer, request: ExplainRequest) -> Result<Document, Status> {
        let answer = self.0.explain(asker, request.pid, &request.selectors).await?;
        Self::document(asker, self.0.entries(), &answer)
    }

    pub(super) fn records(&self, asker: &Peer, request: &ListRecordsRequest) -> Result<Document, Status> {
        Self::document(asker, 0, &self.0.records(asker, request.pid))
    }

    pub(super) async fn overview(&self, asker: &Peer, _: OverviewRequest) -> Result<Document, Status> {
        Self::document(asker, self.0.entries(), &self.0.overview().await)
    }

    /// An answer as JSON. The asker has caused the work of looking at so many entries, and of writing it.
    fn document(asker: &Peer, entries: usize, answer: &impl Serialize) -> Result<Document, Status> {
        let json = serde_json::to_string(answer).map_err(|reason| Status::internal(reason.to_string()))?;
        asker.account().work(work(entries, json.len()));
        Ok(Document { json })
    }
}

/// Nanoseconds of work for an answer of so many bytes, for which so many entries were looked at.
fn work(entries: usize, bytes: usize) -> u64 {
    entries as u64 * ENTRY + bytes as u64 * BYTE
}

/// Nanoseconds for an entry: it is copied, matched and put in order.
const ENTRY: u64 = 1_500;
/// Nanoseconds for a byte of JSON.
const BYTE: u64 = 5;

/// The name of the service.
pub(super) const NAME: &str = "finial.agent.inspect.v1.Inspect";

/// The asker of a call, who is not attested: the socket's mode decides who may ask.
pub(super) fn asker(caller: &super::super::table::Unattested) -> Arc<Peer> {
    Arc::clone(&caller.peer)
}
