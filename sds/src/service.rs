//! The gRPC service around the streams. The only place of this crate that knows codes.
//!
//! By hand over HTTP/2, where tonic has a decoder for each stream that keeps a buffer as long as the longest message: for
//! Envoys that is 61 KB, and more than all the rest. What tonic would give for nothing is in `framing` (messages over
//! frames, the compressed flag, limits), `reply` (frames, trailers) and here (headers, errors before the first message).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use budget::Refused;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use identity::WorkloadUpdate;
use latest::Updates;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::server::NamedService;
use tonic::{Code, Status};
use transport::Peer;

use crate::framing::{Inbound, Message, RequestError};
use crate::node::NodeFacts;
use crate::reply::Unary;
use crate::secret::Secrets;
use crate::session::Session;
use crate::stream::{self, Push};
use crate::wire::DiscoveryRequest;
use crate::{Options, Refusal};

/// Who may listen, and to what: the one thing that the service needs of the agent.
pub trait Admit: Send + Sync + 'static {
    /// Attests the caller and subscribes for it. Waits while the agent is starting.
    ///
    /// The status is what the caller sees.
    fn admit(
        &self,
        peer: Arc<Peer>,
        called: Called,
    ) -> impl Future<Output = Result<Admission, Status>> + Send;

    /// A stream waits for these names, which nothing grants its caller yet.
    fn sought<'a>(&self, peer: &Peer, names: impl Iterator<Item = &'a str>);

    /// Grows when a caller that was attested before may be found to be more than it was.
    fn news(&self) -> watch::Receiver<u64>;

    /// A random number, for nonces and jitter.
    fn random(&self) -> u32;
}

/// What a caller is let in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// It has opened a stream.
    StreamSecrets,
    /// It asks once.
    FetchSecrets,
    /// It holds a stream, and is attested anew: it may be more than it was.
    HeldStream,
}

/// A caller that has been let in.
#[derive(Debug)]
pub struct Admission {
    /// What it may have, now and later.
    pub updates: Updates<WorkloadUpdate>,
}

/// The service.
#[derive(Debug)]
pub struct Service<A> {
    shared: Arc<Shared<A>>,
}

#[derive(Debug)]
pub(crate) struct Shared<A> {
    pub(crate) admit: A,
    pub(crate) options: Arc<Options>,
    pub(crate) secrets: Arc<Secrets>,
}

impl<A> NamedService for Service<A> {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<A: Admit> Service<A> {
    /// A service with these settings.
    pub fn new(admit: A, options: Options) -> Self {
        Self { shared: Arc::new(Shared { admit, options: Arc::new(options), secrets: Arc::default() }) }
    }

    /// Answers a call of `peer`.
    pub async fn call<B>(&self, peer: Arc<Peer>, request: Request<B>) -> Response<Answer<A, B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if let Some(refused) = not_grpc(&request) {
            return refused;
        }
        self.answer(peer, request).await.unwrap_or_else(Status::into_http)
    }

    async fn answer<B>(&self, peer: Arc<Peer>, request: Request<B>) -> Result<Response<Answer<A, B>>, Status>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        accepted(request.headers())?;
        let shared = Arc::clone(&self.shared);
        match request.uri().path() {
            STREAM_SECRETS => {
                let session = stream_secrets(shared, peer, Inbound::new(request.into_body())).await?;
                Ok(response(Kind::Stream(session)))
            }
            FETCH_SECRETS => {
                let push = fetch_secrets(shared, peer, Inbound::new(request.into_body())).await?;
                Ok(response(Kind::Unary(Unary::new(push))))
            }
            DELTA_SECRETS => Err(Status::unimplemented("Method is not implemented")),
            path => Err(Status::unimplemented(format!("unknown method {path}"))),
        }
    }
}

/// The body of a response, whose request had a `B`.
pub struct Answer<A, B>(Kind<A, B>);

#[expect(clippy::large_enum_variant, reason = "nearly all are streams")]
enum Kind<A, B> {
    Stream(Session<A, B>),
    Unary(Unary),
    Nothing,
}

impl<A, B> Default for Answer<A, B> {
    fn default() -> Self {
        Self(Kind::Nothing)
    }
}

impl<A: Admit, B: Body<Data = Bytes> + Unpin> Body for Answer<A, B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Stream(session) => Pin::new(session).poll_frame(cx),
            Kind::Unary(unary) => Pin::new(unary).poll_frame(cx),
            Kind::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Nothing)
    }
}

async fn stream_secrets<A: Admit, B: Body<Data = Bytes> + Unpin>(
    shared: Arc<Shared<A>>,
    peer: Arc<Peer>,
    mut inbound: Inbound<B>,
) -> Result<Session<A, B>, Status> {
    let mut admitted = Box::pin(shared.admit.admit(Arc::clone(&peer), Called::StreamSecrets));
    let mut first: Option<Message> = None;
    let mut node = NodeFacts::default();
    let mut kept = peer.account().charge(0).map_err(no_room)?;
    // Requests are taken in while the agent is starting: else a herd of Envoys would fill its windows with Nodes. The
    // last one says what is wanted.
    let admission = poll_fn(|cx| {
        if let Poll::Ready(admitted) = admitted.as_mut().poll(cx) {
            return Poll::Ready(admitted);
        }
        loop {
            let Poll::Ready(message) = inbound.poll_message(cx, node.seen) else {
                let now = inbound.kept() + first.as_ref().map_or(0, Message::kept);
                return match kept.set(now) {
                    Ok(()) => Poll::Pending,
                    Err(refused) => Poll::Ready(Err(no_room(refused))),
                };
            };
            let latched = message.map(|message| {
                let message = message?;
                node.latch(message.request()?.node.as_ref());
                Ok(message)
            });
            match latched {
                Some(Ok(message)) => first = Some(message),
                Some(Err(reason)) => return Poll::Ready(Err(status_of_request(&reason))),
                // It has ended its side, or has gone away, without a word.
                None if first.is_none() => return Poll::Ready(Err(Status::ok(""))),
                None => return Poll::Pending,
            }
        }
    })
    .await?;
    drop(admitted);
    Session::new(shared, peer, inbound, admission, first.map(|message| (message, node)), kept)
}

async fn fetch_secrets<A: Admit, B: Body<Data = Bytes> + Unpin>(
    shared: Arc<Shared<A>>,
    peer: Arc<Peer>,
    mut inbound: Inbound<B>,
) -> Result<Push, Status> {
    let mut kept = peer.account().charge(0).map_err(no_room)?;
    let message = poll_fn(|cx| {
        let message = inbound.poll_message(cx, false);
        match kept.set(inbound.kept()) {
            Ok(()) => message.map(Ok),
            Err(refused) => Poll::Ready(Err(no_room(refused))),
        }
    })
    .await?;
    let message = message.ok_or_else(|| Status::internal("the call has no request"))?;
    let message = message.map_err(|reason| status_of_request(&reason))?;
    let request = message.request().map_err(|reason| status_of_request(&reason))?;
    let mut updates = shared.admit.admit(peer, Called::FetchSecrets).await?.updates;
    let until = Instant::now() + MINT_PATIENCE;
    loop {
        let update = updates.latest();
        match fetch(&shared, request.clone(), &update) {
            Ok(push) => return Ok(push),
            Err(refusal @ Refusal::NotMinted { .. }) => {
                let changed = tokio::time::timeout_at(until, updates.changed()).await;
                if !matches!(changed, Ok(Ok(()))) {
                    return Err(status_of(&refusal));
                }
            }
            Err(refusal) => return Err(status_of(&refusal)),
        }
    }
}

fn fetch<A>(
    shared: &Shared<A>,
    request: DiscoveryRequest<'_>,
    update: &WorkloadUpdate,
) -> Result<Push, Refusal> {
    stream::fetch(&shared.options, &shared.secrets, request, update, SystemTime::now())
}

fn response<A, B>(kind: Kind<A, B>) -> Response<Answer<A, B>> {
    let mut response = Response::new(Answer(kind));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// What is not a gRPC call gets an HTTP status, as from grpc-go.
fn not_grpc<A, B>(request: &Request<B>) -> Option<Response<Answer<A, B>>> {
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let refused = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !content_type.starts_with(b"application/grpc") {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Answer::default());
    *response.status_mut() = refused;
    Some(response)
}

/// Nothing is decompressed here: Envoy offers no compression, and a bomb needs none of our memory.
fn accepted(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let text = format!("grpc: Decompressor is not installed for grpc-encoding {other:?}");
            let mut status = Status::unimplemented(text);
            status.metadata_mut().insert("grpc-accept-encoding", "identity".parse().expect("a header value"));
            Err(status)
        }
    }
}

/// There is no room for what a call keeps.
pub(crate) fn no_room(refused: Refused) -> Status {
    Status::resource_exhausted(refused.to_string())
}

pub(crate) fn status_of(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NotAuthorized(_) => Code::InvalidArgument,
        Refusal::NeedsValidator => Code::Internal,
        Refusal::TooManyNames { .. } => Code::ResourceExhausted,
        Refusal::Expired { .. } | Refusal::NotMinted { .. } => Code::Unavailable,
    };
    Status::new(code, refusal.to_string())
}

pub(crate) fn status_of_request(reason: &RequestError) -> Status {
    let code = match reason {
        RequestError::TooLong { .. } | RequestError::TooMuch => Code::ResourceExhausted,
        RequestError::Compressed
        | RequestError::Flag(_)
        | RequestError::Malformed(_)
        | RequestError::Truncated => Code::Internal,
    };
    Status::new(code, reason.to_string())
}

const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const FETCH_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";
const DELTA_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";
/// How long FetchSecrets waits for an SVID that is granted but not minted yet.
const MINT_PATIENCE: Duration = Duration::from_secs(5);
