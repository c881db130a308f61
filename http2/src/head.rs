//! Requests and responses as header blocks (RFC 9113 §8).

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use crate::hpack::{Decoder, HpackError};

/// What a client's header block says.
#[derive(Debug)]
pub(crate) enum Block {
    /// Beginning of a call; with how many bytes its body is announced to have.
    Request(Box<Request<()>>, Option<u64>),
    /// After a body. What they say is of no interest to anybody.
    Trailers,
    /// More than [`crate::Limits::headers`].
    TooLong,
    /// Breaks a rule of RFC 9113 §8.2 or §8.3.
    Malformed,
}

/// Decodes a header block. All of it, whatever is wrong with it: the table is the connection's.
pub(crate) fn read(decoder: &mut Decoder, block: &[u8], limit: usize) -> Result<Block, HpackError> {
    let mut reading = Reading { left: limit, ..Reading::default() };
    decoder.decode(block, |name, value| reading.field(name, value))?;
    Ok(reading.finish())
}

/// A response's head.
pub(crate) fn write_response(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    match status {
        StatusCode::OK => out.put_u8(INDEXED | STATUS_200),
        status => {
            out.put_u8(STATUS_200);
            string(out, status.as_str().as_bytes());
        }
    }
    write_fields(out, headers);
}

/// Fields alone, as trailers are. Nothing is put into the client's table: an agent's answers are short, and a table costs
/// memory on both sides.
pub(crate) fn write_fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        out.put_u8(0);
        string(out, name.as_str().as_bytes());
        string(out, value.as_bytes());
    }
}

#[derive(Debug, Default)]
struct Reading {
    left: usize,
    too_long: bool,
    malformed: bool,
    method: Option<Method>,
    path: Option<PathAndQuery>,
    scheme: bool,
    authority: bool,
    /// A field that is not a pseudo-header has come.
    fields: bool,
    headers: HeaderMap,
}

impl Reading {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        match self.left.checked_sub(name.len() + value.len() + FIELD) {
            Some(left) => self.left = left,
            None => self.too_long = true,
        }
        if !self.too_long && !self.malformed {
            self.malformed = self.take(name, value).is_none();
        }
    }

    /// `None` when it breaks a rule.
    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.fields = true;
        // Upper case is refused here, where `from_bytes` would mend it.
        let lower = !name.iter().any(u8::is_ascii_uppercase);
        let name = lower.then(|| HeaderName::from_bytes(name).ok())??;
        let of_the_connection =
            [CONNECTION, TRANSFER_ENCODING, UPGRADE].contains(&name) || OLD.contains(&name.as_str());
        if of_the_connection || (name == TE && value != b"trailers") {
            return None;
        }
        let value = HeaderValue::from_bytes(value).ok()?;
        self.headers.try_append(name, value).ok().map(|_| ())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let first = match name {
            _ if self.fields => false,
            b":method" => self.method.replace(Method::from_bytes(value).ok()?).is_none(),
            b":path" => self.path.replace(PathAndQuery::try_from(value).ok()?).is_none() && !value.is_empty(),
            b":scheme" => !std::mem::replace(&mut self.scheme, true),
            // Whatever it says: see the crate's documentation.
            b":authority" => !std::mem::replace(&mut self.authority, true),
            _ => false,
        };
        first.then_some(())
    }

    fn finish(self) -> Block {
        let no_pseudo = self.method.is_none() && self.path.is_none() && !self.scheme && !self.authority;
        match (self.method, self.path) {
            _ if self.too_long => Block::TooLong,
            _ if self.malformed => Block::Malformed,
            _ if no_pseudo => Block::Trailers,
            (Some(method), Some(path)) if self.scheme => {
                let Ok(length) = content_length(&self.headers) else { return Block::Malformed };
                let mut request = Box::new(Request::new(()));
                *request.method_mut() = method;
                *request.uri_mut() = Uri::from(path);
                *request.headers_mut() = self.headers;
                Block::Request(request, length)
            }
            _ => Block::Malformed,
        }
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, std::num::ParseIntError> {
    let Some(length) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    length.to_str().unwrap_or_default().parse().map(Some)
}

/// A string literal, not in Huffman code.
fn string(out: &mut BytesMut, text: &[u8]) {
    let mut len = text.len();
    if len < LONG {
        out.put_u8(u8::try_from(len).expect("below 127"));
    } else {
        out.put_u8(u8::try_from(LONG).expect("127"));
        len -= LONG;
        while len >= 0x80 {
            out.put_u8(u8::try_from(len & 0x7f).expect("seven bits") | 0x80);
            len >>= 7;
        }
        out.put_u8(u8::try_from(len).expect("below 128"));
    }
    out.put_slice(text);
}

/// Of HTTP/1.1 connections, and never registered as names of their own.
const OLD: [&str; 2] = ["keep-alive", "proxy-connection"];
/// What a field counts beside its text (RFC 9113 §6.5.2).
const FIELD: usize = 32;
/// RFC 7541 §6.1 and Appendix A.
const INDEXED: u8 = 0x80;
const STATUS_200: u8 = 8;
/// What does not fit into the seven bits of a string's length.
const LONG: usize = 127;
