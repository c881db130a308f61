//! What the table of a socket's services is made of. A new API is a row of the table and a file beside it.
//!
//! A row names the proof that its handler takes: the handler is a function of that proof, so it cannot be called without.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http2::RequestBody;
use prost::Message;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use transport::Peer;

use super::reply::{Reply, ResponseBody, frame};
use crate::door::{Anonymous, Caller, Rate};

/// One service of a socket whose APIs are `A`.
pub(crate) struct Service<A: 'static> {
    /// The name with its package, as paths have it.
    pub(crate) name: &'static str,
    /// A header that each call must have, with the value `true`.
    pub(crate) header: Option<&'static str>,
    /// Whether the configuration leaves the service on. One that is off is unknown to clients.
    pub(crate) offered: fn(&A) -> bool,
    pub(crate) methods: &'static [Method<A>],
}

/// One method of a service.
pub(crate) struct Method<A: 'static> {
    pub(crate) name: &'static str,
    pub(crate) request: Shape,
    /// The limit of `experimental { ratelimit { } }` that the method falls under.
    pub(crate) rate: Option<Rate>,
    pub(crate) handler: Handler<A>,
}

impl<A> Method<A> {
    /// A method that clients may know and that is not built. Whoever calls it is not attested for that.
    pub(crate) const fn unimplemented(name: &'static str, request: Shape, rate: Option<Rate>) -> Self {
        fn refuse<A>(_: Arc<A>, _: Anonymous, _: RequestMessage) -> Handled {
            Box::pin(async { Err(Status::unimplemented("not implemented yet")) })
        }
        Self { name, request, rate, handler: Handler::Anonymous(refuse) }
    }
}

/// How many messages a request has, and who reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One message, of at most so many bytes. What comes after it is ignored.
    Unary(u32),
    /// One message, of at most so many bytes, and then the end of the client's side.
    ServerStreaming(u32),
    /// The handler reads the messages itself.
    Own,
}

/// The function that answers a method's calls, by the proof that it takes.
pub(crate) enum Handler<A: 'static> {
    /// Anybody who can connect is answered.
    Anonymous(fn(Arc<A>, Anonymous, RequestMessage) -> Handled),
    /// The caller is attested first.
    Caller(fn(Arc<A>, Caller, RequestMessage) -> Handled),
    /// The handler reads the request itself, and asks the door for a proof when it has read enough.
    Own(fn(Arc<A>, Arc<Peer>, Request<RequestBody>) -> Responded),
}

/// What becomes of a call.
pub(crate) type Handled = BoxFuture<Result<Reply, Status>>;
/// The response of a handler that reads the request itself.
pub(crate) type Responded = BoxFuture<Response<ResponseBody>>;
pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The one message of a request, not decoded yet.
#[derive(Debug)]
pub(crate) struct RequestMessage {
    bytes: Bytes,
    shape: Shape,
}

impl RequestMessage {
    pub(crate) fn new(bytes: Bytes, shape: Shape) -> Self {
        Self { bytes, shape }
    }

    /// # Errors
    /// The status that grpc-go has for a message that is not protobuf.
    pub(crate) fn decode<M: Message + Default>(self) -> Result<M, Status> {
        M::decode(self.bytes).map_err(|_| {
            Status::internal(match self.shape {
                Shape::ServerStreaming(_) => UNREADABLE_IN_STREAM,
                Shape::Unary(_) | Shape::Own => UNREADABLE,
            })
        })
    }
}

/// Makes a handler's outcome of a future that gives one message.
pub(crate) fn one<M: Message>(answer: impl Future<Output = Result<M, Status>> + Send + 'static) -> Handled {
    Box::pin(async move { Ok(Reply::one(frame(&answer.await?))) })
}

/// The same of one that gives a stream of messages.
pub(crate) fn many<M, S>(answer: impl Future<Output = Result<S, Status>> + Send + 'static) -> Handled
where
    M: Message + 'static,
    S: Stream<Item = Result<M, Status>> + Send + 'static,
{
    Box::pin(async move {
        let messages = answer.await?;
        Ok(Reply::many(Box::pin(messages.map(|message| message.map(|message| frame(&message))))))
    })
}

const UNREADABLE: &str = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
const UNREADABLE_IN_STREAM: &str =
    "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
