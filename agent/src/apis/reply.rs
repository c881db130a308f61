//! The body of a response: the frames of gRPC messages, then the status as trailers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use http2::RequestBody;
use prost::Message;
use tokio_stream::Stream;
use tonic::Status;
use zeroize::Zeroizing;

use super::public::Door;

/// The successful outcome of a handler: one message or a stream of messages, already framed.
pub(crate) struct Reply(Kind);

enum Kind {
    /// The frame of one message.
    One(Bytes),
    Many(Frames),
    /// All messages are sent, and the trailers come next.
    Over,
    Ended,
}

/// A stream of framed messages. The first error ends the call with that status.
type Frames = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl Reply {
    pub(super) fn one(frame: Bytes) -> Self {
        Self(Kind::One(frame))
    }

    pub(super) fn many(frames: Frames) -> Self {
        Self(Kind::Many(frames))
    }

    /// Bytes that it takes until it is read.
    pub(super) fn size(&self) -> usize {
        match &self.0 {
            Kind::One(frame) => frame.len(),
            Kind::Many(frames) => size_of_val(&**frames),
            Kind::Over | Kind::Ended => 0,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        match &mut self.0 {
            Kind::One(frame) => {
                let frame = std::mem::take(frame);
                self.0 = Kind::Over;
                Poll::Ready(Some(Frame::data(frame)))
            }
            Kind::Many(frames) => match ready!(frames.as_mut().poll_next(cx)) {
                Some(Ok(frame)) => Poll::Ready(Some(Frame::data(frame))),
                ended => {
                    self.0 = Kind::Ended;
                    let status = ended.and_then(Result::err).unwrap_or_else(|| Status::ok(""));
                    Poll::Ready(Some(Frame::trailers(trailers(&status))))
                }
            },
            Kind::Over => {
                self.0 = Kind::Ended;
                Poll::Ready(Some(Frame::trailers(trailers(&Status::ok("")))))
            }
            Kind::Ended => Poll::Ready(None),
        }
    }
}

/// The body of a response of any API.
#[expect(clippy::large_enum_variant, reason = "nearly all are of SDS")]
pub(crate) enum ResponseBody {
    Sds(sds::ResponseBody<Door, RequestBody>),
    Reply(Reply),
}

impl ResponseBody {
    /// An empty body, for a response that is complete with its headers.
    pub(super) fn empty() -> Self {
        Self::Reply(Reply(Kind::Ended))
    }
}

impl Body for ResponseBody {
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
            Self::Reply(reply) => reply.poll_frame(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Sds(answer) => answer.is_end_stream(),
            Self::Reply(reply) => matches!(reply.0, Kind::Ended),
        }
    }
}

/// The response for a handler's outcome: its reply, or a status without a body.
pub(super) fn response(handled: Result<Reply, Status>) -> Response<ResponseBody> {
    match handled {
        Ok(reply) => {
            let mut response = Response::new(ResponseBody::Reply(reply));
            response.headers_mut().insert(CONTENT_TYPE, GRPC);
            response
        }
        Err(status) => refusal(&status),
    }
}

/// A response that has only a status: gRPC's "Trailers-Only".
pub(super) fn refusal(status: &Status) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.headers_mut() = trailers(status);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// The header fields of a status.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if status.add_header(&mut fields).is_err() {
        // Only the metadata of a status can be malformed. The code alone is always a valid field.
        fields.insert("grpc-status", HeaderValue::from(i32::from(status.code())));
    }
    fields
}

/// Encodes a message with gRPC's prefix of five bytes. Messages hold keys, so the buffer is allocated once in full and
/// zeroized when it is dropped.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut buffer = Zeroizing::new(Vec::with_capacity(HEAD + len));
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode(&mut *buffer).expect("a vector has room for any message");
    Bytes::from_owner(buffer)
}

/// The length of gRPC's prefix: a flag and the length of the message.
const HEAD: usize = 5;
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
