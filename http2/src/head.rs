//! Requests and responses as header blocks (RFC 9113 §8).

use bytes::{BufMut, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use crate::hpack::{Decoder, HpackError};
use crate::{Limits, costs};

/// What a client's header block holds.
#[derive(Debug)]
pub(crate) enum Block {
    /// A request, which begins a call, and its `content-length`.
    Request(Box<Request<()>>, Option<u64>),
    /// Trailers after a request's body. No call reads them, so their fields are dropped.
    Trailers,
    /// The fields are larger than [`crate::Limits::headers`].
    TooLong,
    /// The fields are more than [`EXCESS`] times larger than the limit: the client only means to keep the server
    /// busy.
    Excessive,
    /// It breaks a rule of RFC 9113 §8.2 or §8.3.
    Malformed,
}

/// Decodes a header block; the second value is the work in nanoseconds. A block is always decoded to its end, even
/// when a field is malformed, because the blocks after it depend on the connection's table.
pub(crate) fn read(decoder: &mut Decoder, block: &[u8], limits: &Limits) -> Result<(Block, u64), HpackError> {
    let mut reading = Reading { limit: limits.headers as usize, wanted: limits.fields, ..Reading::default() };
    decoder.decode(block, |name, value| reading.field(name, value))?;
    let looked_at = reading.list_size.min(reading.limit) as u64;
    let work = block.len() as u64 * costs::HEADER_BYTE
        + reading.count * costs::HEADER_FIELD
        + looked_at * costs::FIELD_BYTE;
    Ok((reading.finish(), work))
}

/// Writes the header block of a response's head.
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

/// Writes fields without a pseudo-header, as in trailers. No field goes into the client's dynamic table: an agent's
/// responses are short, and a table costs memory on both sides.
pub(crate) fn write_fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        out.put_u8(0);
        string(out, name.as_str().as_bytes());
        string(out, value.as_bytes());
    }
}

/// A request's `:path`, if it is not a valid path of HTTP. It is an extension of the request, whose URI is `/` then.
/// gRPC servers answer such calls, and quote the path in the error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddPath(pub String);

#[derive(Debug, Default)]
struct Reading {
    /// Names of the fields that calls read; others are dropped.
    wanted: &'static [&'static str],
    limit: usize,
    /// Bytes of all fields so far, as RFC 9113 §6.5.2 counts them.
    list_size: usize,
    count: u64,
    malformed: bool,
    method: Option<Method>,
    path: Option<PathAndQuery>,
    odd_path: Option<OddPath>,
    scheme: bool,
    authority: bool,
    /// A field that is not a pseudo-header has come, after which no pseudo-header may come (RFC 9113 §8.3).
    fields: bool,
    headers: HeaderMap,
    /// The value of `content-length`.
    announced: Option<u64>,
}

impl Reading {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.list_size += name.len() + value.len() + FIELD;
        self.count += 1;
        if self.list_size <= self.limit && !self.malformed {
            self.malformed = self.take(name, value).is_err();
        }
    }

    /// Takes one field into the request.
    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.fields = true;
        let sound = !name.is_empty() && name.iter().all(|byte| is_of_a_name(*byte));
        let of_the_connection = OF_THE_CONNECTION.iter().any(|refused| refused.as_bytes() == name);
        if !sound || of_the_connection || (name == b"te" && value != b"trailers") {
            return Err(Malformed);
        }
        if !value.iter().all(|byte| is_of_a_value(*byte)) {
            return Err(Malformed);
        }
        // A field that no call reads is dropped.
        let Some(name) = self.wanted.iter().find(|wanted| wanted.as_bytes() == name) else {
            return match name {
                b"content-length" => self.length(value),
                _ => Ok(()),
            };
        };
        let value = HeaderValue::from_bytes(value).map_err(|_| Malformed)?;
        self.headers.try_append(HeaderName::from_static(name), value).map(|_| ()).map_err(|_| Malformed)
    }

    /// Takes `content-length`. The same value twice counts once; different values are malformed (RFC 9110 §8.6).
    fn length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten();
        let length = length.ok_or(Malformed)?;
        let before = self.announced.replace(length);
        if before.is_none_or(|before| before == length) { Ok(()) } else { Err(Malformed) }
    }

    /// Takes a pseudo-header field, which may come only once and before all other fields (RFC 9113 §8.3).
    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let first = match name {
            _ if self.fields => false,
            b":method" => {
                let method = Method::from_bytes(value).map_err(|_| Malformed)?;
                self.method.replace(method).is_none()
            }
            b":path" => {
                let path = self.path_of(value)?;
                self.path.replace(path).is_none()
            }
            b":scheme" => !std::mem::replace(&mut self.scheme, true),
            // Any value is accepted: see the crate's documentation.
            b":authority" => !std::mem::replace(&mut self.authority, true),
            _ => false,
        };
        if first { Ok(()) } else { Err(Malformed) }
    }

    /// The value of `:path`. One that is not valid in HTTP is kept as an [`OddPath`]; one that is empty or not
    /// printable is malformed.
    fn path_of(&mut self, value: &[u8]) -> Result<PathAndQuery, Malformed> {
        // `PathAndQuery` would silently cut a fragment off.
        if value.first() == Some(&b'/')
            && !value.contains(&b'#')
            && let Ok(path) = PathAndQuery::try_from(value)
        {
            return Ok(path);
        }
        if value.is_empty() || !value.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return Err(Malformed);
        }
        self.odd_path = Some(OddPath(String::from_utf8_lossy(value).into_owned()));
        Ok(PathAndQuery::from_static("/"))
    }

    fn finish(self) -> Block {
        let no_pseudo = self.method.is_none() && self.path.is_none() && !self.scheme && !self.authority;
        match (self.method, self.path) {
            _ if self.list_size > self.limit * EXCESS => Block::Excessive,
            _ if self.list_size > self.limit => Block::TooLong,
            _ if self.malformed => Block::Malformed,
            _ if no_pseudo => Block::Trailers,
            (Some(method), Some(path)) if self.scheme => {
                let mut request = Box::new(Request::new(()));
                *request.method_mut() = method;
                *request.uri_mut() = Uri::from(path);
                *request.headers_mut() = self.headers;
                if let Some(odd) = self.odd_path {
                    request.extensions_mut().insert(odd);
                }
                Block::Request(request, self.announced)
            }
            _ => Block::Malformed,
        }
    }
}

/// A field breaks a rule of RFC 9113 §8.2 or §8.3.
#[derive(Debug)]
struct Malformed;

/// Whether `byte` may be in a field name: a token (RFC 9110 §5.1) in lower case (RFC 9113 §8.2).
fn is_of_a_name(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `byte` may be in a field value (RFC 9110 §5.5).
fn is_of_a_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Writes a string literal (RFC 7541 §5.2), not in Huffman code.
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

/// Connection-specific fields of HTTP/1.1, which HTTP/2 forbids (RFC 9113 §8.2.2).
const OF_THE_CONNECTION: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
/// A header list more than this many times the limit ends the connection; a shorter one only gets its request
/// refused.
const EXCESS: usize = 8;
/// Bytes that a field counts beside its text (RFC 9113 §6.5.2).
const FIELD: usize = 32;
/// The first bit of an indexed field (RFC 7541 §6.1).
const INDEXED: u8 = 0x80;
const STATUS_200: u8 = 8;
/// The seven-bit prefix of a string's length when more bytes of the length follow (RFC 7541 §5.1).
const LONG: usize = 127;
