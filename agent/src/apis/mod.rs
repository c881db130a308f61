//! The gRPC APIs of the public and the admin socket. `http2` serves each connection, and the table of the socket
//! assigns each call to a handler.
//!
//! - `table`: the types of a table's rows; `public`, `admin`: the tables of the two sockets;
//! - `call`: judges the head of a request and reads its message;
//! - `measured`: counts calls and measures how long they take;
//! - `reply`: the frames and trailers of a response;
//! - `workload`, `reflection`, `health`: services of the public socket. SDS is the crate `sds`.
//!
//! Tonic's server is not used. For each stream it keeps a decoder and an encoder with buffers of 8 KiB. It copies keys
//! into buffers that nobody zeroizes. It ends a call whose deadline has passed with Cancelled, where clients report
//! DeadlineExceeded. It brings a router that a few services do not need.

pub(crate) mod admin;
mod call;
pub(crate) mod health;
mod measured;
mod public;
mod reflection;
mod reply;
mod system_roots;
mod table;
mod validate;
mod workload;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use budget::{Account, Charge, Refused};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http2::RequestBody;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::{Code, Status};
use tracing::debug;
use transport::{Listener, Peer};

use self::call::{Judged, too_late};
use self::measured::Measured;
pub(crate) use self::public::Public;
use self::reply::{Reply, ResponseBody, refusal};
use self::table::{BoxFuture, Handler, RequestMessage, Service, Unattested};
use crate::door::{Admission, Patience};
use crate::telemetry::Metrics;
use crate::telemetry::calls::code_name;

/// The APIs of one socket.
pub(crate) trait Apis: Send + Sync + Sized + 'static {
    /// The table of the services.
    const SERVICES: &'static [Service<Self>];
    /// How long a call waits for an agent that is starting.
    const PATIENCE: Patience;

    /// The door that attests callers.
    fn door(&self) -> &Admission;

    /// Where calls are counted.
    fn metrics(&self) -> &Metrics;
}

/// Serves all connections of a socket, until the future is dropped.
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

/// Answers one request, within its deadline.
async fn answer<A: Apis>(peer: Arc<Peer>, apis: Arc<A>, request: Request<RequestBody>) -> Response<Timed> {
    let (head, body) = request.into_parts();
    let call = match call::judge(&head, A::SERVICES, &*apis, Instant::now()) {
        Ok(call) => call,
        Err(refused) => return refused.response().map(Timed::at_once),
    };
    let measured = Measured::start(&call, apis.metrics());
    let (method, caller, record) = (call.method.name, Arc::clone(&peer), apis.door().record().clone());
    let deadline = call.deadline;
    let (response, charge) = match &call.header {
        Err(refused) => (refusal(refused), None),
        Ok(()) => {
            let handled = handle(peer, apis, call, Request::from_parts(head, body));
            match deadline {
                None => handled.await,
                Some(at) => timeout_at(at, handled).await.unwrap_or_else(|_| (refusal(&too_late()), None)),
            }
        }
    };
    let deadline = deadline.map(|at| Box::pin(sleep_until(at)));
    let mut response = response.map(|body| Timed { body, deadline, measured: Some(measured), charge });
    call::escape_as_grpc_go(response.headers_mut());
    if let Some(status) = response.headers().get(GRPC_STATUS).cloned() {
        response.body_mut().ended(Some(&status));
        let code = Code::from_bytes(status.as_bytes());
        if code != Code::Ok {
            let reason = response.headers().get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
            record.refused(&caller, method, code_name(code), &String::from_utf8_lossy(reason));
        }
    }
    response
}

/// Runs the handler of a call. Returns its response, and the charge for the memory that the call holds until the
/// response has ended.
async fn handle<A: Apis>(
    peer: Arc<Peer>,
    apis: Arc<A>,
    call: Judged<A>,
    request: Request<RequestBody>,
) -> (Response<ResponseBody>, Option<Charge>) {
    if let Handler::Own(handler) = call.method.handler {
        let account = peer.account().clone();
        let response = charged(&account, handler(apis, peer, request)).await;
        // The handler charges what it keeps itself; this one only tells when the connection must end.
        return (response.unwrap_or_else(|status| refusal(&status)), account.charge(0).ok());
    }
    match respond(peer, apis, call, request.into_body()).await {
        Ok((reply, charge)) => (reply::response(Ok(reply)), Some(charge)),
        Err(status) => (refusal(&status), None),
    }
}

/// Reads the only message of a call, gets the proof that the method needs, and calls the handler with both.
async fn respond<A: Apis>(
    peer: Arc<Peer>,
    apis: Arc<A>,
    call: Judged<A>,
    body: RequestBody,
) -> Result<(Reply, Charge), Status> {
    let mut charge = peer.account().charge(CALL_BYTES).map_err(no_room)?;
    peer.account().work(CALL_WORK);
    let method = call.method;
    let message =
        call::read(body, method.request, |len| charge.set(CALL_BYTES + len).map_err(no_room)).await?;
    let message = RequestMessage::new(message, method.request);
    let account = peer.account().clone();
    let unattested = |peer| Unattested { peer, patience: A::PATIENCE, rate: method.rate };
    let handled = match method.handler {
        Handler::Anonymous(handler) => handler(Arc::clone(&apis), apis.door().anyone(), message),
        Handler::Caller(handler) => {
            let caller = unattested(peer).attest(apis.door()).await?;
            handler(Arc::clone(&apis), caller, message)
        }
        Handler::Unattested(handler) => handler(Arc::clone(&apis), unattested(peer), message),
        Handler::Own(_) => return Err(Status::internal("the handler reads the request itself")),
    };
    let reply = charged(&account, handled).await??;
    charge.set(CALL_BYTES + reply.size()).map_err(no_room)?;
    Ok((reply, charge))
}

/// Awaits a future that is charged meanwhile.
async fn charged<T>(account: &Account, future: BoxFuture<T>) -> Result<T, Status> {
    let _charge = account.charge(size_of_val(&*future)).map_err(no_room)?;
    Ok(future.await)
}

fn no_room(refused: Refused) -> Status {
    Status::resource_exhausted(refused.to_string())
}

/// The body of a response that ends with DeadlineExceeded at the call's deadline, if it has one.
struct Timed {
    body: ResponseBody,
    deadline: Option<Pin<Box<Sleep>>>,
    /// `None` when the call is recorded.
    measured: Option<Measured>,
    charge: Option<Charge>,
}

impl Timed {
    /// A body without a deadline, for a response that is complete.
    fn at_once(body: ResponseBody) -> Self {
        Self { body, deadline: None, measured: None, charge: None }
    }

    /// Ends the call, whatever its body still has, and returns the trailers that say so.
    fn end(&mut self, status: &Status) -> HeaderMap {
        (self.deadline, self.body, self.charge) = (None, ResponseBody::empty(), None);
        let trailers = reply::trailers(status);
        self.ended(trailers.get(GRPC_STATUS));
        trailers
    }

    /// Records the call, if this is its status.
    fn ended(&mut self, status: Option<&HeaderValue>) {
        let Some(status) = status else { return };
        if let Some(measured) = self.measured.take() {
            measured.end(code_name(Code::from_bytes(status.as_bytes())));
        }
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.charge.as_ref().is_some_and(Charge::is_over) {
            return Poll::Ready(Some(Ok(Frame::trailers(
                self.end(&Status::unavailable("agent is shutting down")),
            ))));
        }
        if let Poll::Ready(mut frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) {
                self.ended(trailers.get(GRPC_STATUS));
                call::escape_as_grpc_go(trailers);
            }
            return Poll::Ready(frame);
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Some(Ok(Frame::trailers(self.end(&too_late())))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// The name of the header field that ends a call.
const GRPC_STATUS: &str = "grpc-status";
/// Flow-control window of a stream and of a connection, in bytes. A message of Envoy's has 61 KB. The agent reads all
/// of it as soon as it arrives, so a window costs no memory, but a smaller one costs a system call for each refill
/// (measured: `benches/REPORT.md`).
const WINDOW: u32 = 256 * 1024;
/// The most concurrent streams of one connection. A delegate has a stream for each pod, an Envoy one for each secret. Envoy
/// opens another connection beyond the limit, but a client in Go waits, so the limit is far above what either has; the
/// memory budget is the one that counts.
const STREAMS: u32 = 4000;
/// The request headers that `http2` keeps. The call's judge, SDS and the Workload API read them; the others are
/// dropped.
const FIELDS: [&str; 5] =
    ["content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "workload.spiffe.io"];
/// Bytes of a call besides its message, its future or replies, and the charge of HTTP/2 for a stream: the end of a
/// subscription, a deadline.
const CALL_BYTES: usize = 256;
/// Nanoseconds of work for reading, answering and encoding one call, without the attestation.
const CALL_WORK: u64 = 8_000;
/// The largest header list of a request, in bytes (RFC 9113 §6.5.2, SETTINGS_MAX_HEADER_LIST_SIZE).
const HEADERS_LIMIT: u32 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn size<P, A, R, F: Future<Output = Response<Timed>>>(_: impl FnOnce(P, A, R) -> F) -> usize {
        size_of::<F>()
    }

    /// A call takes the first size until it is answered, and the second until its response has ended.
    #[test]
    fn a_call_is_small() {
        assert!(size(answer::<Public>) <= 4096 && size_of::<Timed>() <= 640);
    }
}
