//! The bodies of answers, complete and broken.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// An HTTP response.
pub(super) type Answer = Response<BoxBody<Bytes, io::Error>>;

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", whole(text.into()))
}

pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    answer(status, JSON, whole(text.into()))
}

pub(super) fn value(status: StatusCode, value: &Value) -> Answer {
    json(status, value.to_string())
}

/// An answer that is cut off: half of the announced length, then the connection is reset.
pub(super) fn cut_off(text: &Bytes) -> Answer {
    let half = Frame::data(text.slice(..text.len() / 2));
    let cut = Err(io::ErrorKind::ConnectionReset.into());
    let body = BodyExt::boxed(StreamBody::new(tokio_stream::iter([Ok(half), cut])));
    let mut answer = answer(StatusCode::OK, JSON, body);
    answer.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
    answer
}

/// An answer with one line for each message. It ends when the sender is dropped.
pub(super) fn lines(messages: mpsc::UnboundedReceiver<Value>) -> Answer {
    let frames = UnboundedReceiverStream::new(messages)
        .map(|message| Ok::<_, io::Error>(Frame::data(Bytes::from(format!("{message}\n")))));
    answer(StatusCode::OK, JSON, BodyExt::boxed(StreamBody::new(frames)))
}

fn whole(text: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::new(text).map_err(|never: Infallible| match never {}).boxed()
}

fn answer(status: StatusCode, kind: &'static str, body: BoxBody<Bytes, io::Error>) -> Answer {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, kind);
    answer.body(body).expect("constant headers")
}

const JSON: &str = "application/json";
