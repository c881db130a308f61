//! Responses as DATA frames and trailers of an HTTP/2 body.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::Status;

use crate::machine::{Hex, Push};
use crate::secret::Encoded;
use crate::wire::Protocol;

impl Push {
    /// Encodes the response as one gRPC message (`envoy.service.discovery.v3.DiscoveryResponse`, or
    /// `DeltaDiscoveryResponse`). It is cut into buffers: this stream's own fields, and each resource where it lies in
    /// memory, shared by all streams.
    #[must_use]
    pub fn frames(&self) -> Frames {
        let own = [(1, self.version.as_bytes()), (4, self.type_url.as_bytes()), (5, self.nonce.as_bytes())];
        let own = own.into_iter().filter(|(_, text)| !text.is_empty());
        let removed: usize = self.removed.iter().map(|name| field_len(name.len())).sum();
        let own_len = own.clone().map(|(_, text)| field_len(text.len())).sum::<usize>() + removed;
        let lens = self.resources.iter().map(|encoded| field_len(self.resource_len(encoded)));
        let len = own_len + lens.sum::<usize>();
        let first = self.resources.first().map_or(0, |encoded| self.before_len(encoded));
        // The capacity is exact: a vector with spare room is copied when it becomes `Bytes`.
        let mut head = Vec::with_capacity(HEAD + own_len + first);
        head.put_u8(0);
        head.put_u32(u32::try_from(len).expect("far below 4 GiB"));
        for (tag, text) in own {
            field(tag, text, &mut head);
        }
        for name in &self.removed {
            field(6, name.as_bytes(), &mut head);
        }
        let mut waiting = Vec::with_capacity(2 * self.resources.len().max(1));
        for encoded in self.resources.iter().map(|encoded| &**encoded) {
            head.reserve_exact(self.before_len(encoded));
            self.before(encoded, &mut head);
            waiting.extend([std::mem::take(&mut head).into(), encoded.resource.clone()]);
        }
        if waiting.is_empty() {
            waiting.push(head.into());
        }
        waiting.reverse();
        Frames { waiting }
    }

    /// Writes what stands before a resource in the response: a delta response wraps it into a `Resource`.
    fn before(&self, encoded: &Encoded, out: &mut Vec<u8>) {
        key(2, self.resource_len(encoded), out);
        if self.protocol == Protocol::Delta {
            field(3, encoded.name.as_bytes(), out);
            field(1, Hex::of_digest(&encoded.digest).as_bytes(), out);
            key(2, encoded.resource.len(), out);
        }
    }

    fn before_len(&self, encoded: &Encoded) -> usize {
        let whole = self.resource_len(encoded);
        key_len(whole) + whole - encoded.resource.len()
    }

    /// The length of the field that holds a resource.
    fn resource_len(&self, encoded: &Encoded) -> usize {
        match self.protocol {
            Protocol::Sotw => encoded.resource.len(),
            Protocol::Delta => {
                field_len(encoded.name.len()) + field_len(VERSION) + field_len(encoded.resource.len())
            }
        }
    }
}

/// Writes a length-delimited field.
fn field(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    key(tag, content.len(), out);
    out.put_slice(content);
}

fn field_len(len: usize) -> usize {
    key_len(len) + len
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
/// Bytes of a resource's version.
const VERSION: usize = 16;
