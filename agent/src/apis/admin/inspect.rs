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
        document(&self.0.explain(asker, request.pid, &request.selectors).await?)
    }

    pub(super) fn records(&self, asker: &Peer, request: &ListRecordsRequest) -> Result<Document, Status> {
        document(&self.0.records(asker, request.pid))
    }

    pub(super) async fn overview(&self, _: OverviewRequest) -> Result<Document, Status> {
        document(&self.0.overview().await)
    }
}

fn document(answer: &impl Serialize) -> Result<Document, Status> {
    let json = serde_json::to_string(answer).map_err(|reason| Status::internal(reason.to_string()))?;
    Ok(Document { json })
}

/// The name of the service.
pub(super) const NAME: &str = "finial.agent.inspect.v1.Inspect";

/// The asker of a call, who is not attested: the socket's mode decides who may ask.
pub(super) fn asker(caller: &super::super::table::Unattested) -> Arc<Peer> {
    Arc::clone(&caller.peer)
}
