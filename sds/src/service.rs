//! The gRPC service around the streams. No other module of this crate chooses gRPC codes.
//!
//! It is written by hand on HTTP/2, because tonic has a decoder for each stream that keeps a buffer as long as the
//! longest message: with Envoys 61 KB, more than everything else together. What tonic would do is in `framing`
//! (messages over frames, the compressed flag, limits), `reply` (frames, trailers) and here (headers, errors before
//! the first message).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
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

use crate::feeds::{FOLLOWING, Fed, Following, SystemRoots, Token};
use crate::framing::{Inbound, RequestError};
use crate::machine::{Machine, Push, TOKEN_BYTES, check, fetch_with};
use crate::reply::Unary;
use crate::requests::take;
use crate::secret::Secrets;
use crate::session::Session;
use crate::wire::Protocol;
use crate::{Options, Refusal};

/// What the service needs of the agent: who may subscribe, and to what.
pub trait Admit: Send + Sync + 'static {
    /// Attests the caller and subscribes for it. Waits while the agent is starting.
    ///
    /// # Errors
    /// The status that the caller sees.
    fn admit(
        &self,
        peer: Arc<Peer>,
        called: Called,
    ) -> impl Future<Output = Result<Admission, Status>> + Send;

    /// A stream waits for these names, which no entry grants its caller yet. The agent may attest the caller more
    /// deeply.
    fn sought<'a>(&self, peer: &Peer, protocol: Protocol, names: impl Iterator<Item = &'a str> + Clone);

    /// Follows the JWT-SVID of an identity of this update, by the ID of its entry, for an audience. The server is asked
    /// for a new one before half the life of the last one is over.
    ///
    /// # Errors
    /// The status that ends the call.
    fn follow(
        &self,
        update: &WorkloadUpdate,
        entry_id: &str,
        audience: &[String],
    ) -> impl Future<Output = Result<Following, Status>> + Send;

    /// Follows the authorities that the host trusts.
    fn system_roots(&self) -> SystemRoots;

    /// A counter that grows when a new attestation of a caller may find more selectors than before.
    fn news(&self) -> watch::Receiver<u64>;

    /// Returns a random number, for nonces and jitter.
    fn random(&self) -> u32;

    /// Hears of a response to a caller, and of the update that it was made of.
    fn pushed(&self, peer: &Peer, protocol: Protocol, push: &Push, update: Option<&Arc<WorkloadUpdate>>);

    /// Hears what happens on streams, to count it.
    fn tell(&self, protocol: Protocol, told: Told);
}

/// What happens on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The client accepted a response.
    Acked {
        /// The time since it was sent.
        after: Duration,
    },
    /// The client refused a response.
    Nacked,
}

/// The reason why the door is asked for a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// The caller opens a stream.
    Stream(Protocol),
    /// The caller fetches secrets once.
    FetchSecrets,
    /// The caller holds a stream and is attested anew, because its selectors may have become more.
    HeldStream,
}

/// A subscription for an attested caller.
#[derive(Debug)]
pub struct Admission {
    /// The identities and bundles that the caller may have, now and later.
    pub updates: Updates<WorkloadUpdate>,
    /// The caller is attested in full, so that what is not among its identities is not its own.
    pub is_complete: bool,
}

/// The gRPC service `envoy.service.secret.v3.SecretDiscoveryService`.
#[derive(Debug)]
pub struct Service<A> {
    shared: Arc<Shared<A>>,
}

#[derive(Debug)]
pub(crate) struct Shared<A> {
    pub(crate) admit: A,
    pub(crate) options: Arc<Options>,
    pub(crate) secrets: Arc<Secrets>,
    /// The names that streams wait for.
    pub(crate) held_names: Arc<AtomicUsize>,
}

impl<A> NamedService for Service<A> {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<A: Admit> Service<A> {
    /// A service with these settings.
    pub fn new(admit: A, options: Options) -> Self {
        let (secrets, held_names) = Default::default();
        Self { shared: Arc::new(Shared { admit, options: Arc::new(options), secrets, held_names }) }
    }

    /// The number of names that streams wait for, because nothing grants them yet.
    #[must_use]
    pub fn held_names(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.shared.held_names)
    }

    /// Answers a call of `peer`.
    pub async fn call<B>(&self, peer: Arc<Peer>, request: Request<B>) -> Response<ResponseBody<A, B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if let Some(refused) = not_grpc(&request) {
            return refused;
        }
        self.answer(peer, request).await.unwrap_or_else(Status::into_http)
    }

    async fn answer<B>(
        &self,
        peer: Arc<Peer>,
        request: Request<B>,
    ) -> Result<Response<ResponseBody<A, B>>, Status>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        accepted(request.headers())?;
        let shared = Arc::clone(&self.shared);
        match request.uri().path() {
            STREAM_SECRETS => {
                let session = open_stream(shared, peer, Protocol::Sotw, request.into_body()).await?;
                Ok(response(Kind::Stream(session)))
            }
            DELTA_SECRETS => {
                let session = open_stream(shared, peer, Protocol::Delta, request.into_body()).await?;
                Ok(response(Kind::Stream(session)))
            }
            FETCH_SECRETS => {
                let inbound = Inbound::new(Protocol::Sotw, request.into_body());
                let push = fetch_secrets(shared, peer, inbound).await?;
                Ok(response(Kind::Unary(Unary::new(push))))
            }
            path => Err(Status::unimplemented(format!("unknown method {path}"))),
        }
    }
}

/// The body of a response to a request whose body is a `B`.
pub struct ResponseBody<A, B>(Kind<A, B>);

#[expect(clippy::large_enum_variant, reason = "nearly all are streams")]
enum Kind<A, B> {
    Stream(Session<A, B>),
    Unary(Unary),
    Empty,
}

impl<A, B> Default for ResponseBody<A, B> {
    fn default() -> Self {
        Self(Kind::Empty)
    }
}

impl<A: Admit, B: Body<Data = Bytes> + Unpin> Body for ResponseBody<A, B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Stream(session) => Pin::new(session).poll_frame(cx),
            Kind::Unary(unary) => Pin::new(unary).poll_frame(cx),
            Kind::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }
}

async fn open_stream<A: Admit, B: Body<Data = Bytes> + Unpin>(
    shared: Arc<Shared<A>>,
    peer: Arc<Peer>,
    protocol: Protocol,
    body: B,
) -> Result<Session<A, B>, Status> {
    let mut inbound = Inbound::new(protocol, body);
    let (options, secrets) = (Arc::clone(&shared.options), Arc::clone(&shared.secrets));
    let mut machine = Machine::new(protocol, options, secrets, shared.admit.random());
    let mut admitted = Box::pin(shared.admit.admit(Arc::clone(&peer), Called::Stream(protocol)));
    let mut kept = peer.account().charge(0).map_err(no_room)?;
    // Requests are read while the agent is starting: otherwise many Envoys would fill their windows with their nodes.
    let admission = poll_fn(|cx| {
        if let Poll::Ready(admitted) = admitted.as_mut().poll(cx) {
            return Poll::Ready(admitted);
        }
        loop {
            let Poll::Ready(message) = inbound.poll_message(cx, machine.knows_node()) else {
                return match kept.set(inbound.kept() + machine.kept()) {
                    Ok(()) => Poll::Pending,
                    Err(refused) => Poll::Ready(Err(no_room(refused))),
                };
            };
            let taken = message.map(|message| {
                let message = message.map_err(|reason| status_of_request(&reason))?;
                take(&mut machine, &peer, &message)
            });
            match taken {
                Some(Ok(_)) => {}
                Some(Err(status)) => return Poll::Ready(Err(status)),
                // The client has ended its side, or has gone away, without a request.
                None if !machine.was_asked() => return Poll::Ready(Err(Status::ok(""))),
                None => return Poll::Pending,
            }
        }
    })
    .await?;
    drop(admitted);
    Ok(Session::new(shared, peer, inbound, machine, admission, kept))
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
    // The names are read again at each look: while the agent starts, only the message is kept.
    let request = || message.request().map_err(|reason| status_of_request(&reason));
    check(request()?).map_err(|refusal| status_of(&refusal))?;
    kept.set(message.kept()).map_err(no_room)?;
    let mut updates = shared.admit.admit(Arc::clone(&peer), Called::FetchSecrets).await?.updates;
    let until = Instant::now() + MINT_PATIENCE;
    let mut fed = Fed::default();
    loop {
        let update = updates.latest();
        let (options, secrets, wall) = (&shared.options, &shared.secrets, SystemTime::now());
        let refusal = match fetch_with(options, secrets, request()?, &update, &mut fed, wall) {
            Ok(push) => return Ok(push),
            Err(refusal @ Refusal::NotMinted { .. }) => refusal,
            Err(refusal) => return Err(status_of(&refusal)),
        };
        kept.set(message.kept() + fed.tokens.len() * TOKEN_BYTES).map_err(no_room)?;
        let changed = if let Some(token) = fed.tokens.iter_mut().find(|token| token.svid.is_none()) {
            tokio::time::timeout_at(until, signed(&shared, &peer, &update, token)).await
        } else if fed.wants_roots && fed.roots.is_none() {
            tokio::time::timeout_at(until, read(&shared, &mut fed)).await.map(Ok)
        } else {
            tokio::time::timeout_at(until, updates.changed()).await.map(|changed| Ok(changed.is_ok()))
        };
        match changed {
            Ok(Ok(true)) => {}
            Ok(Err(status)) => return Err(status),
            Ok(Ok(false)) | Err(_) => return Err(status_of(&refusal)),
        }
    }
}

/// Waits until the system's roots are read. Returns whether they are.
async fn read<A: Admit>(shared: &Shared<A>, fed: &mut Fed) -> bool {
    let mut roots = shared.admit.system_roots();
    while roots.changed().await.is_ok() {
        fed.roots.clone_from(&roots.latest());
        if fed.roots.is_some() {
            return true;
        }
    }
    false
}

/// Waits until a JWT-SVID is there that has not expired. Returns whether it is.
async fn signed<A: Admit>(
    shared: &Shared<A>,
    peer: &Peer,
    update: &WorkloadUpdate,
    token: &mut Token,
) -> Result<bool, Status> {
    peer.account().work(FOLLOWING);
    let mut following = shared.admit.follow(update, &token.entry.id, &token.audience).await?;
    while following.changed().await.is_ok() {
        if let Some(svid) = following.latest().iter().find(|svid| !svid.expired(SystemTime::now())) {
            token.svid = Some(Arc::clone(svid));
            return Ok(true);
        }
    }
    Ok(false)
}

fn response<A, B>(kind: Kind<A, B>) -> Response<ResponseBody<A, B>> {
    let mut response = Response::new(ResponseBody(kind));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A request that is not a gRPC call gets an HTTP status, as from grpc-go.
fn not_grpc<A, B>(request: &Request<B>) -> Option<Response<ResponseBody<A, B>>> {
    let content_type = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let refused = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !content_type.starts_with(b"application/grpc") {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(ResponseBody::default());
    *response.status_mut() = refused;
    Some(response)
}

/// Rejects compressed calls. Envoy never compresses, and a decompression bomb would need the agent's memory.
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

/// The status of a call for whose memory there is no room.
pub(crate) fn no_room(refused: Refused) -> Status {
    Status::resource_exhausted(refused.to_string())
}

pub(crate) fn status_of(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NotAuthorized(_) | Refusal::BadName { .. } | Refusal::LongTypeUrl { .. } => {
            Code::InvalidArgument
        }
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
