//! Responses as DATA frames and trailers of an HTTP/2 body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::Status;

use crate::secret::Encoded;
use crate::stream::Push;

impl Push {
    /// Encodes the response as one gRPC message (`envoy.service.discovery.v3.DiscoveryResponse`). It is cut into
    /// buffers: this stream's own fields, and each resource where it lies in memory, shared by all streams.
    #[must_use]
    pub fn frames(&self) -> Frames {
        let own = [(1, self.version.as_bytes()), (4, self.type_url.as_bytes()), (5, self.nonce.as_bytes())];
        let own = own.into_iter().filter(|(_, text)| !text.is_empty());
        let own_len: usize = own.clone().map(|(_, text)| key_len(text.len()) + text.len()).sum();
        let lens = self.resources.iter().map(|encoded| encoded.resource.len());
        let len = own_len + lens.clone().map(|len| key_len(len) + len).sum::<usize>();
        // The capacity is exact: a vector with spare room is copied when it becomes `Bytes`.
        let mut head = Vec::with_capacity(HEAD + own_len + lens.clone().next().map_or(0, key_len));
        head.put_u8(0);
        head.put_u32(u32::try_from(len).expect("far below 4 GiB"));
        for (tag, text) in own {
            key(tag, text.len(), &mut head);
            head.put_slice(text);
        }
        let mut waiting = Vec::with_capacity(2 * self.resources.len().max(1));
        for Encoded { resource, .. } in self.resources.iter().map(|encoded| &**encoded) {
            head.reserve_exact(key_len(resource.len()));
            key(2, resource.len(), &mut head);
            waiting.extend([std::mem::take(&mut head).into(), resource.clone()]);
        }
        if waiting.is_empty() {
            waiting.push(head.into());
        }
        waiting.reverse();
        Frames { waiting }
    }
}

/// Writes the key and the length before a length-delimited field.
fn key(tag: u32, len: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn key_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64)
}

/// The buffers of a response that are not sent yet.
#[derive(Debug, Default)]
pub struct Frames {
    /// In reverse order.
    waiting: Vec<Bytes>,
}

impl Iterator for Frames {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let next = self.waiting.pop();
        if self.waiting.is_empty() {
            // An idle stream holds no memory.
            self.waiting = Vec::new();
        }
        next
    }
}

/// The trailers that end a call.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    if status.add_header(&mut trailers).is_err() {
        // The status's text does not fit into a header, but its code does.
        trailers.clear();
        trailers.insert(Status::GRPC_STATUS, i32::from(status.code()).into());
    }
    trailers
}

/// The body of a unary call's response.
#[derive(Debug)]
pub(crate) struct Unary {
    frames: Frames,
    trailers: Option<HeaderMap>,
}

impl Unary {
    pub(crate) fn new(push: Push) -> Self {
        Self { frames: push.frames(), trailers: Some(trailers(&Status::ok(""))) }
    }
}

impl Body for Unary {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.frames.next().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }
}

/// Bytes of a message's prefix: flag and length.
const HEAD: usize = 5;
