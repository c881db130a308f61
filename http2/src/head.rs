//! Requests and responses as header blocks (RFC 9113 §8).

use bytes::{BufMut, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri};

use crate::hpack::{Decoder, HpackError};
use crate::{Limits, costs};

/// What a client's header block says.
#[derive(Debug)]
pub(crate) enum Block {
    /// Beginning of a call; with how many bytes its body is announced to have.
    Request(Box<Request<()>>, Option<u64>),
    /// After a body. What they say is of no interest to anybody.
    Trailers,
    /// More than [`crate::Limits::headers`].
    TooLong,
    /// So much more that it can only be meant to keep us busy.
    Excessive,
    /// Breaks a rule of RFC 9113 §8.2 or §8.3.
    Malformed,
}

/// Decodes a header block, and says what work that was. All of it is decoded, whatever is wrong with it: the table is the
/// connection's.
pub(crate) fn read(decoder: &mut Decoder, block: &[u8], limits: &Limits) -> Result<(Block, u64), HpackError> {
    let mut reading = Reading { limit: limits.headers as usize, kept: limits.fields, ..Reading::default() };
    decoder.decode(block, |name, value| reading.field(name, value))?;
    // Bytes beyond the limit are not looked at.
    let looked_at = reading.listed.min(reading.limit) as u64;
    let work = block.len() as u64 * costs::HEADER_BYTE
        + reading.count * costs::HEADER_FIELD
        + looked_at * costs::FIELD_BYTE;
    Ok((reading.finish(), work))
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

/// A request's `:path` where it is no path of HTTP: in the request's extensions, whose URI is `/` then. gRPC servers answer
/// such calls, and name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddPath(pub String);

#[derive(Debug, Default)]
struct Reading {
    /// Names of the fields that are kept.
    kept: &'static [&'static str],
    limit: usize,
    /// Bytes of all fields so far, as RFC 9113 §6.5.2 counts them.
    listed: usize,
    count: u64,
    malformed: bool,
    method: Option<Method>,
    path: Option<PathAndQuery>,
    odd_path: Option<OddPath>,
    scheme: bool,
    authority: bool,
    /// A field that is not a pseudo-header has come.
    fields: bool,
    headers: HeaderMap,
    /// `content-length`.
    announced: Option<u64>,
}

impl Reading {
    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.listed += name.len() + value.len() + FIELD;
        self.count += 1;
        if self.listed <= self.limit && !self.malformed {
            self.malformed = self.take(name, value).is_none();
        }
    }

    /// `None` when it breaks a rule.
    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if name.first() == Some(&b':') {
            return self.pseudo(name, value);
        }
        self.fields = true;
        let sound = !name.is_empty() && name.iter().all(|byte| is_of_a_name(*byte));
        let of_the_connection = OF_THE_CONNECTION.iter().any(|refused| refused.as_bytes() == name);
        if !sound || of_the_connection || (name == b"te" && value != b"trailers") {
            return None;
        }
        if !value.iter().all(|byte| is_of_a_value(*byte)) {
            return None;
        }
        // What nobody reads is not kept.
        let Some(name) = self.kept.iter().find(|kept| kept.as_bytes() == name) else {
            return match name {
                b"content-length" => self.length(value),
                _ => Some(()),
            };
        };
        let value = HeaderValue::from_bytes(value).ok()?;
        self.headers.try_append(HeaderName::from_static(name), value).ok().map(|_| ())
    }

    /// Twice the same is once; anything else is malformed (RFC 9110 §8.6).
    fn length(&mut self, value: &[u8]) -> Option<()> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok())??;
        let before = self.announced.replace(length);
        before.is_none_or(|before| before == length).then_some(())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let first = match name {
            _ if self.fields => false,
            b":method" => self.method.replace(Method::from_bytes(value).ok()?).is_none(),
            b":path" => {
                let path = self.path_of(value)?;
                self.path.replace(path).is_none()
            }
            b":scheme" => !std::mem::replace(&mut self.scheme, true),
            // Whatever it says: see the crate's documentation.
            b":authority" => !std::mem::replace(&mut self.authority, true),
            _ => false,
        };
        first.then_some(())
    }

    /// `None` when it cannot even be named.
    fn path_of(&mut self, value: &[u8]) -> Option<PathAndQuery> {
        // A fragment would be cut off.
        if value.first() == Some(&b'/')
            && !value.contains(&b'#')
            && let Ok(path) = PathAndQuery::try_from(value)
        {
            return Some(path);
        }
        let printable = !value.is_empty() && value.iter().all(|byte| (b' '..=b'~').contains(byte));
        self.odd_path = printable.then(|| OddPath(String::from_utf8_lossy(value).into_owned()));
        printable.then(|| PathAndQuery::from_static("/"))
    }

    fn finish(self) -> Block {
        let no_pseudo = self.method.is_none() && self.path.is_none() && !self.scheme && !self.authority;
        match (self.method, self.path) {
            _ if self.listed > self.limit * EXCESS => Block::Excessive,
            _ if self.listed > self.limit => Block::TooLong,
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

/// A token (RFC 9110 §5.1), in lower case (RFC 9113 §8.2).
fn is_of_a_name(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 §5.5.
fn is_of_a_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
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

/// Fields that speak of an HTTP/1.1 connection (RFC 9113 §8.2.2).
const OF_THE_CONNECTION: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
/// How many times the limit a header list may have before the connection is ended, and not only its request refused.
const EXCESS: usize = 8;
/// What a field counts beside its text (RFC 9113 §6.5.2).
const FIELD: usize = 32;
/// RFC 7541 §6.1 and Appendix A.
const INDEXED: u8 = 0x80;
const STATUS_200: u8 = 8;
/// What does not fit into the seven bits of a string's length.
const LONG: usize = 127;
