//! The public socket: each connection by `http2`, each call with its peer and its deadline, to the service that its path
//! names.
//!
//! Not by tonic's server: that one ends a call whose deadline has passed as Cancelled, where every client has
//! DeadlineExceeded of its own, and brings a router of which three services have no need.

pub(crate) mod admin;
mod call;
pub mod health;
pub mod workload;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use budget::{Charge, Refused};
use bytes::Bytes;
use config::Settings;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::Full;
use http2::RequestBody;
use proto::health::health_server::HealthServer;
use proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service as _;
use tracing::debug;
use transport::{Listener, Peer};

use self::call::{Judged, Service, Shape, too_late};
use self::health::Health;
use self::workload::Workload;
use crate::door::{Admission, Denied, Patience};

/// The APIs of one socket.
pub(crate) trait Apis: Send + Sync + 'static {
    /// Their services. A new API is a row there, and a file beside this one.
    const SERVICES: &'static [Service];

    /// Answers a call; where it holds something beside itself, with the charge for that.
    fn call(
        &self,
        peer: Arc<Peer>,
        call: &Judged,
        request: Request<RequestBody>,
    ) -> impl Future<Output = (Response<Answer>, Option<Charge>)> + Send;
}

/// What is served on the public socket.
#[derive(Debug)]
pub(crate) struct Public {
    health: HealthServer<Health>,
    workload: Option<SpiffeWorkloadApiServer<Workload>>,
    sds: Option<sds::Service<Door>>,
}

impl Public {
    /// The APIs that are not disabled, behind one door.
    pub(crate) fn new(settings: &Settings, admission: &Arc<Admission>) -> Self {
        let workload = || {
            let anyone = settings.allow_unauthenticated_verifiers;
            let workload = Workload::new(Arc::clone(admission), anyone, settings.log_selectors.clone());
            SpiffeWorkloadApiServer::new(workload)
        };
        let sds = || sds::Service::new(Door(Arc::clone(admission)), sds_options(settings));
        Self {
            health: HealthServer::new(Health::new(Arc::clone(admission))),
            workload: (!settings.disable_workload_api).then(workload),
            sds: (!settings.disable_sds_api).then(sds),
        }
    }
}

impl Apis for Public {
    const SERVICES: &'static [Service] = PUBLIC;

    async fn call(
        &self,
        peer: Arc<Peer>,
        call: &Judged,
        request: Request<RequestBody>,
    ) -> (Response<Answer>, Option<Charge>) {
        match (call.service, &self.workload, &self.sds) {
            (SDS, _, Some(sds)) => (sds.call(peer, request).await.map(Answer::Sds), None),
            (WORKLOAD, Some(workload), _) => match read(&peer, call, request).await {
                Ok((mut request, charge)) => {
                    request.extensions_mut().insert(peer);
                    let Ok(response) = workload.clone().call(request).await;
                    (response.map(Answer::Other), Some(charge))
                }
                Err(status) => (status.into_http(), None),
            },
            (HEALTH, ..) => match read(&peer, call, request).await {
                Ok((request, charge)) => {
                    let Ok(response) = self.health.clone().call(request).await;
                    (response.map(Answer::Other), Some(charge))
                }
                Err(status) => (status.into_http(), None),
            },
            // One that is switched off.
            (other, ..) => (Status::unimplemented(format!("unknown service {other}")).into_http(), None),
        }
    }
}

/// The services of the public socket.
const PUBLIC: &[Service] = &[
    Service {
        name: SDS,
        header: None,
        methods: &[("StreamSecrets", Shape::Own), ("DeltaSecrets", Shape::Own), ("FetchSecrets", Shape::Own)],
    },
    Service {
        name: WORKLOAD,
        header: Some("workload.spiffe.io"),
        methods: &[
            ("FetchX509SVID", Shape::ServerStreaming(MESSAGE)),
            ("FetchX509Bundles", Shape::ServerStreaming(MESSAGE)),
            ("FetchJWTSVID", Shape::Unary(MESSAGE)),
            ("FetchJWTBundles", Shape::ServerStreaming(MESSAGE)),
            ("ValidateJWTSVID", Shape::Unary(TOKEN_MESSAGE)),
            ("FetchWITSVID", Shape::ServerStreaming(MESSAGE)),
            ("FetchWITBundles", Shape::ServerStreaming(MESSAGE)),
        ],
    },
    Service {
        name: HEALTH,
        header: None,
        methods: &[("Check", Shape::Unary(MESSAGE)), ("Watch", Shape::ServerStreaming(MESSAGE))],
    },
];

/// The one message of a call that tonic is to answer, and the charge for both.
async fn read(
    peer: &Peer,
    call: &Judged,
    request: Request<RequestBody>,
) -> Result<(Request<Body>, Charge), Status> {
    let mut charge = peer.account().charge(TONIC).map_err(no_room)?;
    peer.account().work(TONIC_WORK);
    let (head, body) = request.into_parts();
    let message = call::read(body, call.shape, |len| charge.set(TONIC + len).map_err(no_room)).await?;
    Ok((Request::from_parts(head, Body::new(Full::new(message))), charge))
}

fn no_room(refused: Refused) -> Status {
    Status::resource_exhausted(refused.to_string())
}

/// Serves until it is dropped.
pub(crate) async fn serve<A: Apis>(mut listener: Listener, apis: Arc<A>) {
    let limits = http2::Limits { streams: STREAMS, window: WINDOW, headers: HEADERS_LIMIT, fields: &FIELDS };
    loop {
        let connection = listener.accept().await;
        let (peer, apis) = (connection.peer(), Arc::clone(&apis));
        let account = peer.account().clone();
        let served = http2::serve(connection, limits, account, move |request| {
            answer(Arc::clone(&peer), Arc::clone(&apis), request)
        });
        let Ok(served) = served else { continue };
        tokio::spawn(async move {
            if let Err(reason) = served.await {
                debug!(error = %reason, "Connection ended");
            }
        });
    }
}

async fn answer<A: Apis>(peer: Arc<Peer>, apis: Arc<A>, request: Request<RequestBody>) -> Response<Timed> {
    let (head, body) = request.into_parts();
    let call = match call::judge(&head, A::SERVICES, Instant::now()) {
        Ok(call) => call,
        Err(refused) => return refused.response().map(|body| Timed::at_once(Answer::Other(body))),
    };
    let request = Request::from_parts(head, body);
    let (response, charge) = match call.deadline {
        None => apis.call(peer, &call, request).await,
        Some(at) => {
            let answered = timeout_at(at, apis.call(peer, &call, request)).await;
            answered.unwrap_or_else(|_| (too_late().into_http(), None))
        }
    };
    let deadline = call.deadline.map(|at| Box::pin(sleep_until(at)));
    let mut response = response.map(|answer| Timed { answer, deadline, shape: call.shape, _charge: charge });
    call::reword(response.headers_mut(), call.shape);
    response
}

/// The body of a response, of one API or another.
#[expect(clippy::large_enum_variant, reason = "nearly all are of SDS")]
pub(crate) enum Answer {
    Sds(sds::ResponseBody<Door, RequestBody>),
    Other(Body),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Other(Body::empty())
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Sds(answer) => {
                let frame = ready!(Pin::new(answer).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Sds(answer) => answer.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
        }
    }
}

/// An answer, and when the call is to be over.
struct Timed {
    answer: Answer,
    deadline: Option<Pin<Box<Sleep>>>,
    shape: Shape,
    _charge: Option<Charge>,
}

impl Timed {
    /// One that nothing more is waited for.
    fn at_once(answer: Answer) -> Self {
        Self { answer, deadline: None, shape: Shape::Own, _charge: None }
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(mut frame) = Pin::new(&mut self.answer).poll_frame(cx) {
            if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) {
                call::reword(trailers, self.shape);
            }
            return Poll::Ready(frame);
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        (self.deadline, self.answer) = (None, Answer::default());
        let mut trailers = HeaderMap::new();
        let told = too_late().add_header(&mut trailers);
        Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }
}

/// The door as SDS sees it.
#[derive(Debug)]
pub(crate) struct Door(Arc<Admission>);

impl sds::Admit for Door {
    async fn admit(&self, peer: Arc<Peer>, _method: &'static str) -> Result<sds::Admission, Status> {
        let admitted = self.0.admit(&peer, Patience::Endless).await;
        let admitted = admitted.map_err(|reason: Denied| workload::denied(reason))?;
        Ok(sds::Admission { updates: admitted.updates })
    }

    fn sought<'a>(&self, peer: &Peer, names: impl Iterator<Item = &'a str>) {
        self.0.sought(peer, names);
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.0.news()
    }

    fn random(&self) -> u32 {
        rand::random()
    }
}

fn sds_options(settings: &Settings) -> sds::Options {
    let sds = &settings.sds;
    sds::Options {
        default_svid_name: sds.default_svid_name.clone(),
        default_bundle_name: sds.default_bundle_name.clone(),
        default_all_bundles_name: sds.default_all_bundles_name.clone(),
        disable_spiffe_cert_validation: sds.disable_spiffe_cert_validation,
        unknown_names: match sds.unknown_names {
            config::UnknownNames::Hold => sds::UnknownNames::Hold,
            config::UnknownNames::Reject => sds::UnknownNames::Reject,
        },
    }
}

/// Of a stream and of a connection. An Envoy's message has 61 KB, and all of it is taken as soon as it comes, so a window
/// is not memory: smaller ones only cost a system call for each refill (measured: `benches/REPORT.md`).
const WINDOW: u32 = 256 * 1024;
/// Streams at once on one connection. More than any client has; the budget decides long before.
const STREAMS: u32 = 1000;
/// The request headers that are read: by the judge of calls, by SDS, by the Workload API.
const FIELDS: [&str; 5] =
    ["content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "workload.spiffe.io"];
const SDS: &str = sds::Service::<Door>::NAME;
const WORKLOAD: &str = SpiffeWorkloadApiServer::<Workload>::NAME;
const HEALTH: &str = HealthServer::<Health>::NAME;
/// The longest message of a method that takes no token, in bytes: audiences and IDs.
const MESSAGE: u32 = 4 * 1024;
/// The same of one that takes a token.
const TOKEN_MESSAGE: u32 = 64 * 1024;
/// Bytes that tonic takes for a call, and for a stream as long as it is held: its futures, decoder and encoder, whose buffer
/// has 8 KiB (measured: 6 KiB for each of 10,000 streams).
const TONIC: usize = 6 * 1024;
/// What tonic does for a call, in nanoseconds.
const TONIC_WORK: u64 = 15_000;
const HEADERS_LIMIT: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn size<P, A, R, F: Future<Output = Response<Timed>>>(_: impl FnOnce(P, A, R) -> F) -> usize {
        size_of::<F>()
    }

    /// Each call takes as much until it is answered, and then what its answer takes.
    #[test]
    fn a_call_is_small() {
        assert!(size(answer::<Public>) <= 4096 && size_of::<Timed>() <= 640);
    }
}
