//! The types of a socket's table of services. A new API is a row of the table and a file of its own.
//!
//! A row names the proof that its handler takes. The handler is a function of that proof, so it cannot be called
//! without it.

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
use super::workload::denied;
use crate::door::{Admission, Anonymous, Caller, Patience, Rate};
use crate::telemetry::Calls;
use crate::telemetry::names::Connections;

/// One service of a socket whose APIs are `A`.
pub(crate) struct Service<A: 'static> {
    /// The name with its package, as in a request's path.
    pub(crate) name: &'static str,
    /// A header that each call must have with the value `true`, if the service asks for one.
    pub(crate) header: Option<&'static str>,
    /// Whether the configuration enables the service. Clients of a disabled one get Unimplemented, "unknown service".
    pub(crate) offered: fn(&A) -> bool,
    /// The metrics of its calls together; spire-agent has none for health and reflection.
    pub(crate) connections: Option<&'static Connections>,
    pub(crate) methods: &'static [Method<A>],
}

/// One method of a service.
pub(crate) struct Method<A: 'static> {
    pub(crate) name: &'static str,
    pub(crate) request: Shape,
    /// The limit of `experimental { ratelimit { } }` that the method falls under.
    pub(crate) rate: Option<Rate>,
    /// The metrics of its calls.
    pub(crate) calls: &'static Calls,
    pub(crate) handler: Handler<A>,
}

impl<A> Method<A> {
    /// A method that clients may know but that the agent does not implement. The caller is not attested.
    pub(crate) const fn unimplemented(
        name: &'static str,
        request: Shape,
        calls: &'static Calls,
        refuse: fn(Arc<A>, Anonymous, RequestMessage) -> Handled,
    ) -> Self {
        Self { name, request, rate: None, calls, handler: Handler::Anonymous(refuse) }
    }
}

/// The number of messages in a request, and the code that reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One message of at most this many bytes. The rest of the body is ignored.
    Unary(u32),
    /// One message of at most this many bytes, then the end of the body.
    ServerStreaming(u32),
    /// The handler reads the messages itself.
    Own,
}

impl Shape {
    /// The status that spire-agent records for a call that its client has given up: its streams end well then.
    pub(crate) fn given_up(self) -> &'static str {
        match self {
            Self::ServerStreaming(_) | Self::Own => "OK",
            Self::Unary(_) => "Canceled",
        }
    }
}

/// The function that answers the calls of a method, by the proof that it takes.
pub(crate) enum Handler<A: 'static> {
    /// Answers anybody who can connect.
    Anonymous(fn(Arc<A>, Anonymous, RequestMessage) -> Handled),
    /// Answers an attested caller.
    Caller(fn(Arc<A>, Caller, RequestMessage) -> Handled),
    /// Answers an attested caller, and asks for the proof when it has checked the request: spire-agent refuses a request
    /// that lacks something whoever sends it.
    Unattested(fn(Arc<A>, Unattested, RequestMessage) -> Handled),
    /// Reads the request itself, and asks the door for a proof when it has read enough.
    Own(fn(Arc<A>, Arc<Peer>, Request<RequestBody>) -> Responded),
}

/// Somebody who has sent a request and is not attested yet.
#[derive(Debug)]
pub(crate) struct Unattested {
    pub(super) peer: Arc<Peer>,
    pub(super) patience: Patience,
    pub(super) rate: Option<Rate>,
}

impl Unattested {
    /// Asks the door to attest the caller.
    ///
    /// # Errors
    /// The status of a caller that is not admitted.
    pub(crate) async fn attest(self, door: &Admission) -> Result<Caller, Status> {
        door.caller(self.peer, self.patience, self.rate).await.map_err(denied)
    }
}

/// The outcome of a handler.
pub(crate) type Handled = BoxFuture<Result<Reply, Status>>;
/// The response of a handler that reads the request itself.
pub(crate) type Responded = BoxFuture<Response<ResponseBody>>;
pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The only message of a request, not decoded yet.
#[derive(Debug)]
pub(crate) struct RequestMessage {
    bytes: Bytes,
    shape: Shape,
}

impl RequestMessage {
    pub(crate) fn new(bytes: Bytes, shape: Shape) -> Self {
        Self { bytes, shape }
    }

    /// Decodes the message.
    ///
    /// # Errors
    /// The status that grpc-go returns for a message that is not protobuf.
    pub(crate) fn decode<M: Message + Default>(self) -> Result<M, Status> {
        M::decode(self.bytes).map_err(|_| {
            Status::internal(match self.shape {
                Shape::ServerStreaming(_) => UNREADABLE_IN_STREAM,
                Shape::Unary(_) | Shape::Own => UNREADABLE,
            })
        })
    }
}

/// The outcome of a handler whose future returns one message.
pub(crate) fn one<M: Message>(answer: impl Future<Output = Result<M, Status>> + Send + 'static) -> Handled {
    Box::pin(async move { Ok(Reply::one(frame(&answer.await?))) })
}

/// The outcome of a handler whose future returns a stream of messages.
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

/// The outcome of a handler that does nothing.
pub(crate) fn unimplemented(message: &'static str) -> Handled {
    Box::pin(async move { Err(Status::unimplemented(message)) })
}

const UNREADABLE: &str = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
const UNREADABLE_IN_STREAM: &str =
    "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
