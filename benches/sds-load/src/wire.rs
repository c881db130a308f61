//! The messages, encoded and decoded by hand. A load tester that processed Envoy's node of 61 KB as often as the agent
//! would measure itself.
//!
//! * [`Requests`]: the requests for one name. They differ only in the version and the nonce.
//! * [`Message`]: one framed message. All share the bytes of the node. It can report when it has been written.
//! * [`Deframer`], [`response`]: decode responses, no further than an ACK needs.
//! * `delta`: the same for DeltaSecrets.

mod delta;

use std::fmt;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::IoSlice;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

pub(crate) use delta::response as delta_response;

/// In which messages the node is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NodeIn {
    /// Every message: Envoy's default.
    Always,
    /// The first on each stream: `set_node_on_first_message_only`.
    Once,
    /// Never.
    None,
}

/// The requests of a stream for one name.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    node_in: NodeIn,
    node: Bytes,
    names_and_type: Bytes,
    /// The name, if the stream is a delta stream.
    delta: Option<String>,
}

impl Requests {
    pub(crate) fn new(name: &str, node_in: NodeIn, node: Bytes) -> Self {
        Self::of_names(&[name.to_owned()], node_in, node)
    }

    /// The requests of a stream for several names.
    pub(crate) fn of_names(names: &[String], node_in: NodeIn, node: Bytes) -> Self {
        let mut tail = BytesMut::new();
        for name in names {
            put_field(&mut tail, request::RESOURCE_NAMES, name.as_bytes());
        }
        put_field(&mut tail, request::TYPE_URL, SECRET_TYPE.as_bytes());
        Self { node_in, node, names_and_type: tail.freeze(), delta: None }
    }

    /// The first request on a stream. `version` is the last one that an earlier stream accepted.
    pub(crate) fn first(&self, version: &[u8]) -> Message {
        let with_node = self.node_in != NodeIn::None;
        match &self.delta {
            Some(name) => self.delta_first(name, with_node, version),
            None => self.request(with_node, version, &[], None),
        }
    }

    /// The answer to a response. With an `error` it is a NACK, and `version` is the one that stays in use.
    pub(crate) fn answer(&self, version: &[u8], nonce: &[u8], error: Option<&str>) -> Message {
        let with_node = self.node_in == NodeIn::Always;
        match self.delta {
            Some(_) => self.delta_answer(with_node, nonce, error),
            None => self.request(with_node, version, nonce, error),
        }
    }

    fn request(&self, with_node: bool, version: &[u8], nonce: &[u8], error: Option<&str>) -> Message {
        let mut fields = BytesMut::with_capacity(GRPC_HEADER + 32);
        fields.put_bytes(0, GRPC_HEADER);
        put_field(&mut fields, request::VERSION_INFO, version);
        let mut tail = BytesMut::with_capacity(self.names_and_type.len() + nonce.len() + 64);
        tail.put_slice(&self.names_and_type);
        put_field(&mut tail, request::RESPONSE_NONCE, nonce);
        put_error(&mut tail, request::ERROR_DETAIL, error);
        self.message(fields, request::NODE, with_node, tail)
    }

    /// Puts the node between the first fields, before which there is room for the length, and the last ones.
    fn message(&self, mut fields: BytesMut, number: u64, with_node: bool, tail: BytesMut) -> Message {
        let node = if with_node { self.node.clone() } else { Bytes::new() };
        if with_node {
            put_key(&mut fields, number);
            put_varint(&mut fields, node.len() as u64);
        }
        let length = fields.len() - GRPC_HEADER + node.len() + tail.len();
        fields[1..GRPC_HEADER].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        Message { parts: [fields.freeze(), node, tail.freeze()], written: None }
    }
}

/// A framed message that is being sent.
pub(crate) struct Message {
    parts: [Bytes; 3],
    written: Option<Box<dyn FnOnce()>>,
}

impl Message {
    /// A message without content.
    pub(crate) fn empty() -> Self {
        Self { parts: [Bytes::from_static(&[0; GRPC_HEADER]), Bytes::new(), Bytes::new()], written: None }
    }

    /// Sets a function to call when the last byte has been taken: by the socket, or, for a message of a few hundred
    /// bytes, by a buffer that is flushed in the same turn.
    pub(crate) fn on_written(mut self, written: impl FnOnce() + 'static) -> Self {
        self.written = Some(Box::new(written));
        self
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.parts.iter().find(|part| !part.is_empty()).map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.parts.iter().filter(|part| !part.is_empty());
        slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        for part in &mut self.parts {
            let taken = count.min(part.len());
            part.advance(taken);
            count -= taken;
        }
        if !self.has_remaining()
            && let Some(written) = self.written.take()
        {
            written();
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}

/// The node of a real Envoy 1.40.0, cut to about `size` bytes (to whole extensions), or with extensions repeated.
pub(crate) fn node(size: usize) -> Bytes {
    let recorded = Fields(RECORDED)
        .flatten()
        .find(|field| field.number == request::NODE)
        .map_or(&[][..], |field| field.bytes);
    if size == recorded.len() {
        return Bytes::from_static(recorded);
    }
    let (mut node, mut extensions) = (BytesMut::new(), Vec::new());
    for field in Fields(recorded).flatten() {
        if field.number == NODE_EXTENSIONS {
            extensions.push(field.bytes);
        } else {
            put_field(&mut node, field.number, field.bytes);
        }
    }
    for extension in extensions.iter().cycle() {
        if node.len() + extension.len() + 3 > size {
            break;
        }
        put_field(&mut node, NODE_EXTENSIONS, extension);
    }
    node.freeze()
}

/// The size in bytes of the recorded node.
pub(crate) const RECORDED_NODE: usize = 61_093;

/// The parts of a response that an answer needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Response {
    /// `version_info`.
    pub(crate) version: Bytes,
    /// `nonce`.
    pub(crate) nonce: Bytes,
    /// The name of the first resource.
    pub(crate) name: Option<Bytes>,
    /// A hash of the content.
    pub(crate) content: u64,
}

/// The bytes are not a message of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Reads a `DiscoveryResponse`.
pub(crate) fn response(message: &Bytes) -> Result<Response, Malformed> {
    let mut response = Response::default();
    let mut content = DefaultHasher::new();
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => response.version = message.slice_ref(field.bytes),
            2 => {
                content.write(field.bytes);
                if response.name.is_none() {
                    let secret = nested(field.bytes, 2)?;
                    response.name = Some(message.slice_ref(nested(secret, 1)?));
                }
            }
            5 => response.nonce = message.slice_ref(field.bytes),
            _ => {}
        }
    }
    response.content = content.finish();
    Ok(response)
}

/// Reads an `X509BundlesResponse` or a `JWTBundlesResponse`, of which only changes matter.
pub(crate) fn bundles(message: &Bytes) -> Response {
    let mut content = DefaultHasher::new();
    content.write(message);
    Response { content: content.finish(), ..Response::default() }
}

/// Reads an `X509SVIDResponse`, which has content but no version.
pub(crate) fn x509_svids(message: &Bytes) -> Result<Response, Malformed> {
    let svid = nested(message, 1)?;
    let name = message.slice_ref(nested(svid, 1)?);
    let mut content = DefaultHasher::new();
    content.write(message);
    Ok(Response { name: Some(name), content: content.finish(), ..Response::default() })
}

/// Cuts received bytes into messages.
#[derive(Debug, Default)]
pub(crate) struct Deframer(BytesMut);

impl Deframer {
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.0.put_slice(data);
    }

    /// The next complete message; `None` if it has not arrived yet.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some((header, rest)) = self.0.split_first_chunk::<GRPC_HEADER>() else { return Ok(None) };
        let [compressed, length @ ..] = *header;
        if compressed != 0 {
            return Err(Malformed);
        }
        let length = u32::from_be_bytes(length) as usize;
        if rest.len() < length {
            return Ok(None);
        }
        let message = self.0.split_to(GRPC_HEADER + length).freeze();
        if self.0.is_empty() {
            // Thousands of streams would otherwise each keep a buffer for the next push.
            self.0 = BytesMut::new();
        }
        Ok(Some(message.slice(GRPC_HEADER..)))
    }
}

/// The first field with this number in a message.
fn nested(message: &[u8], number: u64) -> Result<&[u8], Malformed> {
    for field in Fields(message) {
        let field = field?;
        if field.number == number {
            return Ok(field.bytes);
        }
    }
    Err(Malformed)
}

/// The fields of a message. Fields that are not length-delimited have no bytes here.
struct Fields<'a>(&'a [u8]);

struct Field<'a> {
    number: u64,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let key = self.varint()?;
        let bytes = match key & 7 {
            0 => self.varint().map(|_| &[][..])?,
            1 => self.take(8)?,
            2 => self.varint().and_then(|length| self.take(length))?,
            5 => self.take(4)?,
            _ => return Err(Malformed),
        };
        Ok(Field { number: key >> 3, bytes })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// Appends a field of bytes, but nothing for empty bytes, as in proto3.
fn put_field(buffer: &mut BytesMut, number: u64, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_key(buffer, number);
        put_varint(buffer, bytes.len() as u64);
        buffer.put_slice(bytes);
    }
}

/// Appends the status of a rejection.
fn put_error(buffer: &mut BytesMut, number: u64, error: Option<&str>) {
    let Some(error) = error else { return };
    let mut status = BytesMut::new();
    status.put_slice(&[8, 13]); // code: INTERNAL, as Envoy says
    put_field(&mut status, 2, error.as_bytes());
    put_field(buffer, number, &status);
}

fn put_key(buffer: &mut BytesMut, number: u64) {
    put_varint(buffer, number << 3 | 2);
}

fn put_varint(buffer: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Field numbers of `envoy.service.discovery.v3.DiscoveryRequest`.
mod request {
    pub(super) const VERSION_INFO: u64 = 1;
    pub(super) const NODE: u64 = 2;
    pub(super) const RESOURCE_NAMES: u64 = 3;
    pub(super) const TYPE_URL: u64 = 4;
    pub(super) const RESPONSE_NONCE: u64 = 5;
    pub(super) const ERROR_DETAIL: u64 = 6;
}

const NODE_EXTENSIONS: u64 = 9;
const GRPC_HEADER: usize = 5;
const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const RECORDED: &[u8] = include_bytes!("../testdata/envoy-1.40.0.first-request.bin");

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    const ACK: &[u8] = include_bytes!("../testdata/envoy-1.40.0.ack.bin");
    const NAME: &str = "spiffe://am-multi-account-mesh/frontend";

    fn bytes(mut message: Message) -> Bytes {
        let length = message.remaining();
        message.copy_to_bytes(length)
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(message);
        framed
    }

    fn recorded(node_in: NodeIn) -> Requests {
        Requests::new(NAME, node_in, node(RECORDED_NODE))
    }

    #[test]
    fn the_first_request_is_envoys() {
        assert_eq!(bytes(recorded(NodeIn::Always).first(b"")), framed(RECORDED));
    }

    #[test]
    fn the_ack_is_envoys() {
        assert_eq!(bytes(recorded(NodeIn::Always).answer(b"1", b"n", None)), framed(ACK));
    }

    #[test]
    fn node_once_leaves_it_out_of_the_ack() {
        let requests = recorded(NodeIn::Once);
        assert_eq!(bytes(requests.first(b"")), framed(RECORDED));
        assert_eq!(bytes(requests.answer(b"1", b"n", None)).len(), GRPC_HEADER + 3 + 41 + 70 + 3);
    }

    #[test]
    fn a_nack_carries_an_error() {
        let nack = bytes(recorded(NodeIn::None).answer(b"", b"n", Some("no")));
        let error = nested(&nack[GRPC_HEADER..], request::ERROR_DETAIL).unwrap();
        assert_eq!(nested(error, 2), Ok(&b"no"[..]));
    }

    #[test]
    fn a_node_has_about_the_size_that_was_asked_for() {
        for size in [500, 1024, 20_000, RECORDED_NODE, 100_000] {
            let got = node(size).len();
            assert!(got <= size && got + 200 > size, "{got} for {size}");
        }
    }

    #[test]
    fn a_message_says_when_it_is_written() {
        let written = Rc::new(Cell::new(false));
        let set = Rc::clone(&written);
        let mut message = recorded(NodeIn::Always).first(b"").on_written(move || set.set(true));
        message.advance(message.remaining() - 1);
        assert!(!written.get());
        message.advance(1);
        assert!(written.get());
    }

    fn discovery(version: &str, secret: &[u8]) -> Bytes {
        let (mut wrapped, mut any, mut message) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        put_field(&mut wrapped, 1, b"web");
        put_field(&mut wrapped, 2, secret);
        put_field(&mut any, 1, SECRET_TYPE.as_bytes());
        put_field(&mut any, 2, &wrapped);
        put_field(&mut message, 1, version.as_bytes());
        put_field(&mut message, 2, &any);
        put_field(&mut message, 4, SECRET_TYPE.as_bytes());
        put_field(&mut message, 5, b"abcd");
        message.freeze()
    }

    #[test]
    fn a_response_is_read() {
        let read = response(&discovery("7", b"certificate")).unwrap();
        assert_eq!(
            (&*read.version, &*read.nonce, read.name.as_deref()),
            (&b"7"[..], &b"abcd"[..], Some(&b"web"[..]))
        );
    }

    #[test]
    fn content_is_equal_where_only_the_version_differs() {
        let content = |version, secret| response(&discovery(version, secret)).unwrap().content;
        assert_eq!(content("1", b"a"), content("2", b"a"));
        assert_ne!(content("1", b"a"), content("1", b"b"));
    }

    #[test]
    fn cut_messages_are_malformed() {
        let whole = discovery("7", b"certificate");
        for length in [1, 5, whole.len() - 1] {
            assert_eq!(response(&whole.slice(..length)), Err(Malformed), "{length}");
        }
        assert_eq!(x509_svids(&Bytes::new()), Err(Malformed));
    }

    #[test]
    fn messages_are_cut_anywhere() {
        let mut deframer = Deframer::default();
        let sent = [framed(b"one"), framed(b""), framed(b"three")].concat();
        let mut got = Vec::new();
        for byte in sent {
            deframer.push(&[byte]);
            while let Some(message) = deframer.next().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut deframer = Deframer::default();
        deframer.push(&[1, 0, 0, 0, 0]);
        assert_eq!(deframer.next(), Err(Malformed));
    }
}
