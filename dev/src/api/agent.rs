//! The Agent service: AttestAgent, RenewAgent, PostStatus.

use proto::agent::agent_server::Agent;
use proto::agent::{
    AttestAgentRequest, AttestAgentResponse, PostStatusRequest, PostStatusResponse, RenewAgentRequest,
    RenewAgentResponse, attest_agent_request, attest_agent_response,
};
use proto::types::permission_denied_details::Reason;
use proto::types::{self, AttestationData};
use tonic::{Request, Response, Status, Streaming};

use super::attest::{self, Attested};
use super::{Api, denied, internal, wire_svid};
use crate::ca::{self, CsrError, Issued, Leaf};
use crate::ids;

#[tonic::async_trait]
impl Agent for Api {
    type AttestAgentStream = tokio_stream::Once<Result<AttestAgentResponse, Status>>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        self.0.count(|counters| counters.attest_calls += 1);
        let message = request.into_inner().message().await?;
        let message =
            message.ok_or_else(|| Status::invalid_argument("failed to receive request from stream: EOF"))?;
        let (data, csr) = attest_params(message)
            .map_err(|what| Status::invalid_argument(format!("malformed param: {what}")))?;
        let attested = attest::attest(&self.0, &data.r#type, &data.payload)?;
        if self.0.lock().nodes.get(&attested.agent_id).is_some_and(|node| node.banned) {
            return Err(Status::permission_denied("failed to attest: agent is banned"));
        }
        let (svid, issued) = self.sign_agent(&attested.agent_id, &csr)?;
        let result = attest_agent_response::Result { svid: Some(svid), reattestable: attested.can_reattest };
        self.remember(data.r#type, attested, issued);
        self.0.count(|counters| counters.attested += 1);
        let step = Some(attest_agent_response::Step::Result(result));
        Ok(Response::new(tokio_stream::once(Ok(AttestAgentResponse { step }))))
    }

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        let caller = self.agent(&request)?;
        let can_reattest = self.0.lock().nodes.get(&caller.id).map(|node| node.can_reattest);
        if can_reattest.ok_or_else(|| Status::not_found("agent not found"))? {
            let message = "agent must reattest instead of renew".to_owned();
            return Err(denied::with_details(Reason::AgentMustReattest, message));
        }
        let params = request.into_inner().params;
        let csr = params.ok_or_else(|| Status::invalid_argument("params cannot be nil"))?.csr;
        if csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let (svid, issued) = self.sign_agent(&caller.id, &csr)?;
        match self.0.lock().nodes.get_mut(&caller.id) {
            Some(node) => node.new_serial = Some(issued.serial),
            None => return Err(Status::not_found("agent not found")),
        }
        self.0.count(|counters| counters.renewed += 1);
        Ok(Response::new(RenewAgentResponse { svid: Some(svid) }))
    }

    async fn post_status(
        &self,
        request: Request<PostStatusRequest>,
    ) -> Result<Response<PostStatusResponse>, Status> {
        let caller = self.agent(&request)?;
        let version = request.into_inner().agent_version;
        if version.len() > 255 {
            return Err(Status::invalid_argument("agent version is too long (max 255 characters)"));
        }
        if let Some(node) = self.0.lock().nodes.get_mut(&caller.id)
            && !version.is_empty()
        {
            node.agent_version = version;
        }
        self.0.count(|counters| counters.post_status += 1);
        Ok(Response::new(PostStatusResponse {}))
    }
}

impl Api {
    fn sign_agent(&self, agent_id: &str, csr: &[u8]) -> Result<(types::X509svid, Issued), Status> {
        let key = ca::public_key(csr).map_err(|error| match error {
            CsrError::Malformed(why) | CsrError::Signature(why) => {
                Status::invalid_argument(format!("failed to parse CSR: {why}"))
            }
        })?;
        let failed = |error| internal("failed to sign X509 SVID", error);
        let signer = self.0.lock().ca.signer().map_err(failed)?;
        let ttl = ids::seconds(self.0.options.agent_ttl);
        let leaf = Leaf { spiffe_id: agent_id, dns_names: &[], ttl };
        let (chain, issued) = signer.issue(&leaf, &key).map_err(failed)?;
        Ok((wire_svid(agent_id, &chain, &issued), issued))
    }

    fn remember(&self, attestation_type: String, attested: Attested, issued: Issued) {
        let mut state = self.0.lock();
        let node = state.nodes.entry(attested.agent_id).or_default();
        node.attestation_type = attestation_type;
        node.serial = issued.serial;
        node.new_serial = None;
        node.expired = false;
        node.can_reattest = attested.can_reattest;
        node.selectors = attested.selectors;
    }
}

fn attest_params(request: AttestAgentRequest) -> Result<(AttestationData, bytes::Bytes), &'static str> {
    let Some(attest_agent_request::Step::Params(params)) = request.step else {
        return Err("missing params");
    };
    let data = params.data.ok_or("missing attestation data")?;
    let csr = params.params.ok_or("missing X509-SVID parameters")?.csr;
    if csr.is_empty() {
        return Err("missing CSR");
    }
    if data.r#type.is_empty() {
        return Err("missing attestation data type");
    }
    if data.payload.is_empty() {
        return Err("missing attestation data payload");
    }
    Ok((data, csr))
}
