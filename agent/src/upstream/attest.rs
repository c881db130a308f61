//! The Agent service of the server: AttestAgent, RenewAgent and PostStatus; and the bundle that the agent fetches when
//! it attests.

use std::sync::Arc;

use attestors::node::Attestor;
use bytes::Bytes;
use identity::Bundle;
use proto::agent::agent_client::AgentClient;
use proto::agent::attest_agent_request::{Params, Step};
use proto::agent::attest_agent_response::Step as Answer;
use proto::agent::{AgentX509svidParams, AttestAgentRequest, PostStatusRequest, RenewAgentRequest};
use proto::bundle::GetBundleRequest;
use proto::bundle::bundle_client::BundleClient;
use proto::types::AttestationData;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::channel::Channel;
use super::link::Link;
use super::tls::Roots;
use super::{CALL_LIMIT, ServerError, convert};
use crate::keys::{AgentKey, AgentSvid, Request};

#[cfg(test)]
mod tests;

/// The result of an attestation.
#[derive(Debug)]
pub struct NewIdentity {
    /// The agent's SVID.
    pub svid: Arc<AgentSvid>,
    /// Whether the agent gets its next SVID by another attestation instead of RenewAgent.
    pub reattestable: bool,
    /// The present bundle of the agent's own trust domain.
    pub bundle: Arc<Bundle>,
}

/// Attests the node over a connection of its own, without a client certificate. `roots` authenticates the server. The
/// CSR is for the agent's next SVID.
///
/// # Errors
/// [`ServerError`].
pub async fn attest(
    link: &Link,
    roots: &Roots,
    attestor: &Attestor,
    request: Request<AgentKey>,
) -> Result<NewIdentity, ServerError> {
    attest_on(link.anonymous(roots).await?, attestor, request).await
}

async fn attest_on(
    channel: Channel,
    attestor: &Attestor,
    request: Request<AgentKey>,
) -> Result<NewIdentity, ServerError> {
    let work = async {
        let (svid, reattestable) = converse(channel.clone(), attestor, request).await?;
        let bundle = get_bundle(channel).await?;
        Ok(NewIdentity { svid, reattestable, bundle })
    };
    timeout(CALL_LIMIT, work).await.unwrap_or(Err(ServerError::Timeout(CALL_LIMIT)))
}

async fn converse(
    channel: Channel,
    attestor: &Attestor,
    request: Request<AgentKey>,
) -> Result<(Arc<AgentSvid>, bool), ServerError> {
    let mut conversation = attestor.begin().await?;
    let payload = Bytes::from_owner(conversation.payload());
    let data = AttestationData { r#type: attestor.name().into(), payload };
    let params = AgentX509svidParams { csr: Bytes::copy_from_slice(&request.csr) };
    let first = Step::Params(Params { data: Some(data), params: Some(params) });
    let (send, outbound) = mpsc::channel(1);
    let send_step = async |step| {
        let sent = send.send(AttestAgentRequest { step: Some(step) }).await;
        sent.map_err(|_| ServerError::Protocol("the stream ended before the result"))
    };
    send_step(first).await?;
    let mut client = AgentClient::new(channel);
    let stream = client.attest_agent(ReceiverStream::new(outbound)).await.map_err(ServerError::of)?;
    let mut stream = stream.into_inner();
    loop {
        let answer = stream.message().await.map_err(ServerError::of)?;
        match answer.and_then(|answer| answer.step) {
            Some(Answer::Challenge(challenge)) => {
                let reply = Bytes::from_owner(conversation.answer(&challenge).await?);
                send_step(Step::ChallengeResponse(reply)).await?;
            }
            Some(Answer::Result(result)) => {
                return Ok((convert::svid(result.svid, request)?, result.reattestable));
            }
            None => return Err(ServerError::Protocol("attestation ended without a result")),
        }
    }
}

/// Renews the SVID of an agent that cannot be attested again (RenewAgent).
///
/// # Errors
/// [`ServerError`].
pub async fn renew(link: &Link, request: Request<AgentKey>) -> Result<Arc<AgentSvid>, ServerError> {
    let csr = Bytes::copy_from_slice(&request.csr);
    let answer = link
        .act(CALL_LIMIT, |channel| {
            let params = Some(AgentX509svidParams { csr: csr.clone() });
            async { AgentClient::new(channel).renew_agent(RenewAgentRequest { params }).await }
        })
        .await?;
    convert::svid(answer.into_inner().svid, request)
}

/// Reports the agent's version to the server (PostStatus).
///
/// # Errors
/// [`ServerError`]. The caller logs it and goes on.
pub async fn post_status(link: &Link) -> Result<(), ServerError> {
    let status =
        PostStatusRequest { agent_version: crate::version::compatible(), ..PostStatusRequest::default() };
    link.act(CALL_LIMIT, |channel| {
        let status = status.clone();
        async { AgentClient::new(channel).post_status(status).await }
    })
    .await?;
    Ok(())
}

async fn get_bundle(channel: Channel) -> Result<Arc<Bundle>, ServerError> {
    let answer =
        BundleClient::new(channel).get_bundle(GetBundleRequest::default()).await.map_err(ServerError::of)?;
    Ok(Arc::new(convert::bundle(&answer.into_inner())?))
}
