//! The server is in memory, and time is paused.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use attestors::node::{JoinToken, NodeError};
use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::agent::agent_server::{Agent, AgentServer};
use proto::agent::attest_agent_response::{self, Step as Answer};
use proto::agent::{AttestAgentResponse, PostStatusResponse, RenewAgentResponse};
use proto::types::{self, X509svid};
use rcgen::{CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use tokio_stream::{Stream, iter};
use tonic::body::Body;
use tonic::{Response, Status, Streaming};
use tower::Service as _;

use super::*;
use crate::keys::Keys;

/// How the server treats an attestation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Signs,
    SignsAnotherKey,
    AsksBack,
    EndsWithoutAResult,
    IsMute,
}

#[derive(Debug, Clone)]
struct Server {
    manner: Manner,
}

type Steps = Pin<Box<dyn Stream<Item = Result<AttestAgentResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Server {
    type AttestAgentStream = Steps;

    async fn attest_agent(
        &self,
        request: tonic::Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Steps>, Status> {
        let first = request.into_inner().message().await?.expect("a first message");
        let Some(Step::Params(params)) = first.step else { panic!("the parameters come first") };
        let data = params.data.expect("attestation data");
        assert_eq!((&*data.r#type, &data.payload[..]), ("join_token", &b"token"[..]));
        let csr = params.params.expect("a request for a certificate").csr;
        let step = match self.manner {
            Manner::Signs => Some(Answer::Result(result(signed(&csr)))),
            Manner::SignsAnotherKey => {
                let another = Keys::memory().renew(None).await.expect("a key").csr;
                Some(Answer::Result(result(signed(&another))))
            }
            Manner::AsksBack => Some(Answer::Challenge(b"who?"[..].into())),
            Manner::EndsWithoutAResult => None,
            Manner::IsMute => std::future::pending().await,
        };
        let steps = step.map(|step| Ok(AttestAgentResponse { step: Some(step) }));
        Ok(Response::new(Box::pin(iter(steps))))
    }

    async fn renew_agent(
        &self,
        _: tonic::Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn post_status(
        &self,
        _: tonic::Request<PostStatusRequest>,
    ) -> Result<Response<PostStatusResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

fn result(chain: Bytes) -> attest_agent_response::Result {
    let svid = X509svid { cert_chain: vec![chain], ..X509svid::default() };
    attest_agent_response::Result { svid: Some(svid), reattestable: true }
}

/// A certificate with the agent's ID for the key of a CSR.
fn signed(csr: &[u8]) -> Bytes {
    let mut request =
        CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).expect("a CSR");
    let id = SanType::URI(ID.try_into().expect("ASCII"));
    request.params.subject_alt_names = vec![id];
    let issuer = Issuer::new(CertificateParams::default(), KeyPair::generate().expect("a key"));
    let certificate = request.signed_by(&issuer).expect("signed");
    Bytes::copy_from_slice(certificate.der())
}

/// The response to GetBundle, the other call of an attestation.
async fn bundle() -> HttpResponse<Body> {
    let bundle = types::Bundle { trust_domain: "td".into(), ..types::Bundle::default() };
    let mut frame = vec![0, 0, 0, 0, 0];
    prost::Message::encode(&bundle, &mut frame).expect("encoded");
    frame[4] = u8::try_from(frame.len() - 5).expect("short");
    let trailers = Status::ok("").into_http::<Body>().into_parts().0.headers;
    let body = iter([
        Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(frame))),
        Ok(http_body::Frame::trailers(trailers)),
    ]);
    let mut response = HttpResponse::new(Body::new(http_body_util::StreamBody::new(body)));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

/// Attests to a server that behaves in this manner.
async fn attested(manner: Manner) -> Result<NewIdentity, ServerError> {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let server = Server { manner };
    let service = service_fn(move |request: HttpRequest<Incoming>| {
        let mut agent = AgentServer::new(server.clone());
        async move {
            if request.uri().path().contains("Bundle") {
                return Ok::<_, Infallible>(bundle().await);
            }
            agent.call(request).await
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(theirs), service);
    tokio::spawn(connection);
    let channel = Channel::open(ours).await.expect("a connection");
    let request = Keys::memory().renew(None).await.expect("a key");
    attest_on(channel, &JoinToken::new("token".to_owned()).into(), request).await
}

#[tokio::test(start_paused = true)]
async fn what_the_server_signs_is_the_agents_identity() {
    let identity = attested(Manner::Signs).await.unwrap();
    assert_eq!(identity.svid.id.as_str(), ID);
    assert!(identity.reattestable);
    assert_eq!(identity.bundle.trust_domain.to_string(), "td");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_key_is_refused() {
    let reason = attested(Manner::SignsAnotherKey).await.unwrap_err();
    assert!(reason.to_string().ends_with("the certificate is of another key than was asked for"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_the_attestor_does_not_expect_is_named() {
    let reason = attested(Manner::AsksBack).await.unwrap_err();
    assert!(matches!(reason, ServerError::Node(NodeError::UnexpectedChallenge("join_token"))), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_result_is_no_attestation() {
    let reason = attested(Manner::EndsWithoutAResult).await.unwrap_err();
    assert!(matches!(reason, ServerError::Protocol("attestation ended without a result")), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_mute_server_is_waited_for_no_longer_than_a_call_may_take() {
    let reason = attested(Manner::IsMute).await.unwrap_err();
    assert!(matches!(reason, ServerError::Timeout(CALL_LIMIT)), "{reason}");
    assert!(CALL_LIMIT <= Duration::from_secs(60));
}

const ID: &str = "spiffe://td/spire/agent/join_token/token";
