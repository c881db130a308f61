//! The public socket: each connection by `http2`, each call with its peer and its deadline, to the service that its path
//! names.
//!
//! Not by tonic's server: that one ends a call whose deadline has passed as Cancelled, where every client has
//! DeadlineExceeded of its own, and brings a router of which three services have no need.

pub mod health;
pub mod workload;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use config::Settings;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
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

use self::health::Health;
use self::workload::Workload;
use crate::door::{Admission, Denied, Patience};

/// What is served.
#[derive(Debug)]
pub(crate) struct Apis {
    health: HealthServer<Health>,
    workload: Option<SpiffeWorkloadApiServer<Workload>>,
    sds: Option<sds::Service<Door>>,
}

impl Apis {
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

    async fn call(&self, peer: Arc<Peer>, request: Request<RequestBody>) -> Response<Answer> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        match (service, &self.workload, &self.sds) {
            (SDS, _, Some(sds)) => sds.call(peer, request).await.map(Answer::Sds),
            (SpiffeWorkloadApiServer::<Workload>::NAME, Some(workload), _) => {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                let Ok(response) = workload.clone().call(request).await;
                response.map(Answer::Other)
            }
            (HealthServer::<Health>::NAME, ..) => {
                let Ok(response) = self.health.clone().call(request.map(Body::new)).await;
                response.map(Answer::Other)
            }
            (other, ..) => Status::unimplemented(format!("unknown service {other}")).into_http(),
        }
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(mut listener: Listener, apis: Arc<Apis>) {
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

async fn answer(peer: Arc<Peer>, apis: Arc<Apis>, request: Request<RequestBody>) -> Response<Timed> {
    let deadline = timeout(request.headers()).map(|timeout| timeout.map(|timeout| Instant::now() + timeout));
    let (response, deadline) = match deadline {
        Ok(None) => (apis.call(peer, request).await, None),
        Ok(Some(at)) => {
            let answered = timeout_at(at, apis.call(peer, request)).await;
            (answered.unwrap_or_else(|_| too_late().into_http()), Some(at))
        }
        Err(Malformed) => (Status::internal("malformed grpc-timeout").into_http(), None),
    };
    let deadline = deadline.map(|at| Box::pin(sleep_until(at)));
    response.map(|answer| Timed { answer, deadline })
}

/// The body of a response, of one API or another.
#[expect(clippy::large_enum_variant, reason = "nearly all are of SDS")]
enum Answer {
    Sds(sds::Answer<Door, RequestBody>),
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
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.answer).poll_frame(cx) {
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

fn too_late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

struct Malformed;

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = value.to_str().map_err(|_| Malformed)?;
    let (digits, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or(Malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    let number = digits.parse().map_err(|_| Malformed)?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(Malformed),
    }))
}

/// The door as SDS sees it.
#[derive(Debug)]
struct Door(Arc<Admission>);

impl sds::Admit for Door {
    async fn admit(&self, peer: Arc<Peer>, _method: &'static str) -> Result<sds::Admission, Status> {
        let admitted = self.0.admit(&peer, Patience::Endless).await;
        let admitted = admitted.map_err(|reason: Denied| workload::denied(reason))?;
        Ok(sds::Admission { updates: admitted.updates })
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
        println!("{} {}", size(answer), size_of::<Timed>());
        assert!(size(answer) <= 4096 && size_of::<Timed>() <= 640);
    }

    #[test]
    fn timeouts() {
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]);
            timeout(&headers).ok().flatten()
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(read("20m"), Some(Duration::from_millis(20)));
        for malformed in ["", "S", "5", "5s", "-5S", "123456789S", "5\u{e9}"] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }
}
