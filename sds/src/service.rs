//! The gRPC service around the state machine. The only place of this crate that knows codes, clocks and sockets.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut};
use identity::WorkloadUpdate;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tracing::{debug, error, info, warn};
use transport::Peer;

use crate::secret::Secrets;
use crate::stream::{self, Heard, Next, Push, Stream};
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
        method: &'static str,
    ) -> impl Future<Output = Result<Admission, Status>> + Send;

    /// Grows when a caller that was attested before may be found to be more than it was.
    fn news(&self) -> watch::Receiver<u64>;

    /// A random number, for nonces and jitter.
    fn random(&self) -> u32;
}

/// A caller that has been let in.
#[derive(Debug)]
pub struct Admission {
    /// What it may have, now and later.
    pub updates: watch::Receiver<Arc<WorkloadUpdate>>,
}

/// The service, to be handed to a tonic router.
#[derive(Debug)]
pub struct Service<A> {
    shared: Arc<Shared<A>>,
}

#[derive(Debug)]
struct Shared<A> {
    admit: A,
    options: Arc<Options>,
    secrets: Arc<Secrets>,
}

impl<A> Clone for Service<A> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<A: Admit> Service<A> {
    /// A service with these settings.
    pub fn new(admit: A, options: Options) -> Self {
        Self { shared: Arc::new(Shared { admit, options: Arc::new(options), secrets: Arc::default() }) }
    }
}

impl<A> NamedService for Service<A> {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

type Body = tonic::body::Body;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<A: Admit> tonic::codegen::Service<http::Request<Body>> for Service<A> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method { shared: Arc::clone(&self.shared) };
        Box::pin(async move {
            Ok(match request.uri().path() {
                STREAM_SECRETS => Grpc::new(SecretsCodec).streaming(method, request).await,
                FETCH_SECRETS => Grpc::new(SecretsCodec).unary(method, request).await,
                DELTA_SECRETS => Status::unimplemented("Method is not implemented").into_http(),
                path => Status::unimplemented(format!("unknown method {path}")).into_http(),
            })
        })
    }
}

struct Method<A> {
    shared: Arc<Shared<A>>,
}

impl<A: Admit> StreamingService<DiscoveryRequest> for Method<A> {
    type Response = Push;
    type ResponseStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<Push, Status>> + Send>>;
    type Future = BoxFuture<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let peer = peer(&request)?;
            let admission = shared.admit.admit(Arc::clone(&peer), "StreamSecrets").await?;
            let session = Session::new(shared, peer, request.into_inner(), admission);
            let stream: Self::ResponseStream = Box::pin(session.into_stream());
            Ok(Response::new(stream))
        })
    }
}

impl<A: Admit> UnaryService<DiscoveryRequest> for Method<A> {
    type Response = Push;
    type Future = BoxFuture<Result<Response<Push>, Status>>;

    fn call(&mut self, request: Request<DiscoveryRequest>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let peer = peer(&request)?;
            let mut admission = shared.admit.admit(peer, "FetchSecrets").await?;
            let request = request.into_inner();
            let until = Instant::now() + MINT_PATIENCE;
            loop {
                let update = Arc::clone(&admission.updates.borrow_and_update());
                let wall = SystemTime::now();
                match stream::fetch(&shared.options, &shared.secrets, request.clone(), &update, wall) {
                    Ok(push) => return Ok(Response::new(push)),
                    Err(refusal @ Refusal::NotMinted { .. }) => {
                        let changed = tokio::time::timeout_at(until, admission.updates.changed()).await;
                        if !matches!(changed, Ok(Ok(()))) {
                            return Err(status(&refusal));
                        }
                    }
                    Err(refusal) => return Err(status(&refusal)),
                }
            }
        })
    }
}

/// One open stream: the machine, what feeds it, and when to look again.
struct Session<A> {
    shared: Arc<Shared<A>>,
    peer: Arc<Peer>,
    inbound: Streaming<DiscoveryRequest>,
    admission: Admission,
    machine: Stream,
    start: Instant,
    attested: Instant,
    /// The next attestation of a stream that waits for names, and how long to wait after that one.
    again: Option<(Instant, Duration)>,
    /// Runs beside everything else: it can take as long as a container may take to show.
    attesting: Option<BoxFuture<Result<Admission, Status>>>,
    news: watch::Receiver<u64>,
}

enum Event {
    Request(Option<DiscoveryRequest>),
    Update,
    Look,
    Attest,
    Attested(Result<Admission, Status>),
    News,
}

impl<A: Admit> Session<A> {
    fn new(
        shared: Arc<Shared<A>>,
        peer: Arc<Peer>,
        inbound: Streaming<DiscoveryRequest>,
        mut admission: Admission,
    ) -> Self {
        let salt = shared.admit.random();
        let mut machine = Stream::new(Arc::clone(&shared.options), Arc::clone(&shared.secrets), salt);
        machine.update(Arc::clone(&admission.updates.borrow_and_update()));
        let mut news = shared.admit.news();
        news.mark_unchanged();
        let start = Instant::now();
        Self {
            shared,
            peer,
            inbound,
            admission,
            machine,
            start,
            attested: start,
            again: None,
            attesting: None,
            news,
        }
    }

    fn into_stream(self) -> impl tokio_stream::Stream<Item = Result<Push, Status>> + Send {
        futures_util::stream::unfold(Some(self), |session| async move {
            let mut session = session?;
            match session.push().await {
                Ok(Some(push)) => Some((Ok(push), Some(session))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    /// The next response, or the end.
    async fn push(&mut self) -> Result<Option<Push>, Status> {
        loop {
            let look = match self.machine.next(self.start.elapsed(), SystemTime::now()) {
                Ok(Next::Push(push)) => {
                    self.settle();
                    debug!(pid = self.peer.process.pid, version_info = %push.version_info, nonce = %push.nonce,
                        count = push.resources.len(), "Sending StreamSecrets response");
                    return Ok(Some(push));
                }
                Ok(Next::Wait(until)) => until.map(|until| self.start + until),
                Err(refusal) => {
                    error!(pid = self.peer.process.pid, error = %refusal, "Error building stream secrets response");
                    return Err(status(&refusal));
                }
            };
            self.settle();
            match self.event(look).await? {
                Event::Request(None) => return Ok(None),
                Event::Request(Some(request)) => self.request(request)?,
                Event::Update => {
                    let update = Arc::clone(&self.admission.updates.borrow_and_update());
                    self.machine.update(update);
                }
                Event::Look => {}
                Event::Attest => self.attest_again()?,
                Event::Attested(admitted) => self.attested(admitted),
                // Not at once each time: a node where pods come and go has news all the time.
                Event::News => {
                    let soon = self.attested + AGAIN_FIRST;
                    self.again = self.again.map(|(at, wait)| (at.min(soon), wait));
                }
            }
        }
    }

    async fn event(&mut self, look: Option<Instant>) -> Result<Event, Status> {
        let attest = self.again.map(|(at, _)| at).filter(|_| self.attesting.is_none());
        tokio::select! {
            message = self.inbound.message() => match message {
                Ok(request) => Ok(Event::Request(request)),
                // The client went away; there is nobody to tell.
                Err(status) if status.code() == Code::Cancelled => Ok(Event::Request(None)),
                Err(status) if status.code() == Code::OutOfRange => {
                    Err(Status::resource_exhausted(status.message()))
                }
                Err(status) => Err(status),
            },
            changed = self.admission.updates.changed() => match changed {
                Ok(()) => Ok(Event::Update),
                Err(_) => Err(Status::unavailable("agent is shutting down")),
            },
            () = sleep_until(look) => Ok(Event::Look),
            () = sleep_until(attest) => Ok(Event::Attest),
            admitted = finished(&mut self.attesting) => Ok(Event::Attested(admitted)),
            Ok(()) = self.news.changed(), if attest.is_some() => Ok(Event::News),
        }
    }

    fn request(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        let pid = self.peer.process.pid;
        debug!(pid, resource_names = ?request.resource_names, version_info = %request.version_info,
            nonce = %request.response_nonce, "Received StreamSecrets request");
        let nonce = request.response_nonce.clone();
        match self.machine.request(request).map_err(|refusal| status(&refusal))? {
            Heard::Nack(reason) => error!(pid, error = %reason, "Envoy reported errors applying secrets"),
            Heard::Stale { expected } => {
                // Two pushes in a row make the first ACK look like this: nothing to worry about.
                warn!(pid, nonce = %nonce, expect = %expected, "Received unexpected nonce; ignoring request");
            }
            Heard::Asked | Heard::Ack => {}
        }
        Ok(())
    }

    /// Starts or ends the backoff of a stream that waits for names.
    fn settle(&mut self) {
        if self.machine.unresolved().is_empty() {
            (self.again, self.attesting) = (None, None);
        } else if self.again.is_none() {
            info!(pid = self.peer.process.pid, resource_names = ?self.machine.unresolved(),
                "Workload is not authorized for the requested identities (yet); the stream is held");
            self.again = Some((Instant::now() + AGAIN_FIRST, AGAIN_FIRST * 2));
        }
    }

    /// A first attestation can be incomplete: a group was added, an attestor was down, a label came later.
    fn attest_again(&mut self) -> Result<(), Status> {
        if !self.peer.process.is_alive() {
            return Err(Status::unavailable("workload attestation failed"));
        }
        self.news.mark_unchanged();
        let (shared, peer) = (Arc::clone(&self.shared), Arc::clone(&self.peer));
        self.attesting = Some(Box::pin(async move { shared.admit.admit(peer, "StreamSecrets").await }));
        Ok(())
    }

    fn attested(&mut self, admitted: Result<Admission, Status>) {
        self.attesting = None;
        self.attested = Instant::now();
        let wait = self.again.map_or(AGAIN_FIRST, |(_, wait)| wait);
        let jitter = f64::from(self.shared.admit.random()) / f64::from(u32::MAX);
        self.again = Some((self.attested + wait.mul_f64(0.5 + 0.5 * jitter), (wait * 2).min(AGAIN_MOST)));
        match admitted {
            Ok(admission) if !admission.updates.same_channel(&self.admission.updates) => {
                self.admission.updates = admission.updates;
                let update = Arc::clone(&self.admission.updates.borrow_and_update());
                self.machine.update(update);
            }
            Ok(_) => {}
            Err(status) => {
                debug!(pid = self.peer.process.pid, error = %status, "Attesting a held stream again failed")
            }
        }
    }
}

async fn finished<T>(work: &mut Option<BoxFuture<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn peer<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    let peer = request.extensions().get::<Arc<Peer>>();
    peer.cloned().ok_or_else(|| Status::internal("connection has no peer"))
}

fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NotAuthorized(_) => Code::InvalidArgument,
        Refusal::NeedsValidator => Code::Internal,
        Refusal::TooManyNames { .. } => Code::ResourceExhausted,
        Refusal::Expired { .. } | Refusal::NotMinted { .. } => Code::Unavailable,
    };
    Status::new(code, refusal.to_string())
}

/// Requests by prost, trimmed; responses put together from parts that are encoded already.
struct SecretsCodec;

impl Codec for SecretsCodec {
    type Encode = Push;
    type Decode = DiscoveryRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for SecretsCodec {
    type Item = Push;
    type Error = Status;

    fn encode(&mut self, push: Push, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        push.encode(out);
        Ok(())
    }
}

impl Decoder for SecretsCodec {
    type Item = DiscoveryRequest;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<DiscoveryRequest>, Status> {
        let bytes = source.copy_to_bytes(source.remaining());
        let request = DiscoveryRequest::decode(bytes);
        request.map(Some).map_err(|reason| Status::internal(format!("malformed DiscoveryRequest: {reason}")))
    }
}

impl Push {
    /// `envoy.service.discovery.v3.DiscoveryResponse`.
    pub fn encode(&self, out: &mut impl BufMut) {
        let mut field = |tag: u32, content: &[u8]| {
            if !content.is_empty() {
                prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, out);
                prost::encoding::encode_varint(content.len() as u64, out);
                out.put_slice(content);
            }
        };
        field(1, self.version_info.as_bytes());
        for resource in &self.resources {
            field(2, resource);
        }
        field(4, self.type_url.as_bytes());
        field(5, self.nonce.as_bytes());
    }
}

const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
const FETCH_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets";
const DELTA_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets";
/// How long FetchSecrets waits for an SVID that is granted but not minted yet.
const MINT_PATIENCE: Duration = Duration::from_secs(5);
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MOST: Duration = Duration::from_secs(30);
