//! A call before its API sees it, judged as grpc-go judges it, in the same order, with the same codes and words: clients and
//! their tests know these. Then its message is read, no more of it than its method needs.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use http2::OddPath;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataValue;

#[cfg(test)]
mod tests;

/// How many messages a method takes, and who reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One, of at most so many bytes; what comes after it is ignored.
    Unary(u32),
    /// One, of at most so many bytes, and then the client's end.
    ServerStreaming(u32),
    /// The API reads them itself.
    Own,
}

/// One service of a socket.
#[derive(Debug)]
pub(crate) struct Service {
    /// With its package.
    pub(crate) name: &'static str,
    /// A header that each call must have, with the value `true`.
    pub(crate) header: Option<&'static str>,
    pub(crate) methods: &'static [(&'static str, Shape)],
}

/// Why a request is no call that can be made.
#[derive(Debug)]
pub(crate) struct NoCall {
    /// 200 where it is a gRPC call, if one that is refused.
    http: StatusCode,
    grpc: Box<Status>,
}

/// A call that may be made.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) service: &'static str,
    pub(crate) shape: Shape,
    /// When it is to be over.
    pub(crate) deadline: Option<Instant>,
}

/// Judges the head of a request.
///
/// # Errors
/// [`NoCall`].
pub(crate) fn judge(head: &Parts, services: &'static [Service], now: Instant) -> Result<Judged, NoCall> {
    if let Some(content_type) = not_grpc(head) {
        let words = format!("invalid gRPC request content-type {content_type:?}");
        return Err(NoCall::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(words)));
    }
    let timeout = timeout(head).map_err(|words| {
        let words = format!("malformed grpc-timeout: {words}");
        NoCall::new(StatusCode::BAD_REQUEST, Status::internal(words))
    })?;
    if head.method != Method::POST {
        let method = head.method.as_str();
        let words = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err(NoCall::new(StatusCode::METHOD_NOT_ALLOWED, Status::internal(words)));
    }
    let deadline = timeout.map(|timeout| now + timeout);
    if timeout.is_some_and(|timeout| timeout < AT_ONCE) {
        return Err(too_late().into());
    }
    let (service, shape) = method(head, services)?;
    decompresses(head)?;
    header(head, service)?;
    Ok(Judged { service: service.name, shape, deadline })
}

/// The end of a call whose deadline has passed.
pub(crate) fn too_late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// The content type, where it is none of gRPC's.
fn not_grpc(head: &Parts) -> Option<String> {
    let content_type = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let rest = content_type.strip_prefix(GRPC.as_bytes());
    let is_grpc = matches!(rest, Some([] | [b'+' | b';', ..]));
    (!is_grpc).then(|| String::from_utf8_lossy(content_type).into_owned())
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout"); or why it is not that.
fn timeout(head: &Parts) -> Result<Option<Duration>, String> {
    // Of several the last counts, and each must be sound.
    let all = head.headers.get_all("grpc-timeout");
    all.iter().try_fold(None, |_, value| one_timeout(value).map(Some))
}

fn one_timeout(value: &HeaderValue) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if text.len() > 9 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let (number, unit) = text.split_at(text.floor_char_boundary(text.len() - 1));
    let nanoseconds: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1000,
        "n" => 1,
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits
        .then(|| number.parse().ok())
        .flatten()
        .ok_or_else(|| format!("strconv.ParseUint: parsing {number:?}: invalid syntax"))?;
    // No call lasts a hundred years, which is more than the clock may count.
    Ok(Duration::from_nanos(number.saturating_mul(nanoseconds)).min(LONGEST))
}

/// The service and the method that a path names.
fn method(head: &Parts, services: &'static [Service]) -> Result<(&'static Service, Shape), Status> {
    let odd = head.extensions.get::<OddPath>().map(|OddPath(path)| path.as_str());
    let path = odd.unwrap_or_else(|| head.uri.path_and_query().map_or("", |path| path.as_str()));
    let (service, method) = path
        .strip_prefix('/')
        .and_then(|path| path.rsplit_once('/'))
        .ok_or_else(|| Status::unimplemented(format!("malformed method name: {path:?}")))?;
    let known = services.iter().find(|known| known.name == service);
    let known = known.ok_or_else(|| Status::unimplemented(format!("unknown service {service}")))?;
    let shape = known.methods.iter().find(|(name, _)| *name == method);
    let unknown = || Status::unimplemented(format!("unknown method {method} for service {service}"));
    shape.map(|(_, shape)| (known, *shape)).ok_or_else(unknown)
}

/// Nothing is decompressed here: no client needs it, and a bomb needs none of our memory.
fn decompresses(head: &Parts) -> Result<(), Status> {
    match head.headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity" | b"") => Ok(()),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let words = format!("grpc: Decompressor is not installed for grpc-encoding {other:?}");
            let mut status = Status::unimplemented(words);
            status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
            Err(status)
        }
    }
}

/// The header that a service asks for: without it a web page could have a browser call (SPIFFE Workload Endpoint §3).
fn header(head: &Parts, service: &Service) -> Result<(), Status> {
    let Some(name) = service.header else { return Ok(()) };
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

/// Reads the one message of a call: its head and itself, as a body that has nothing else.
///
/// `charge` is asked before the message is kept.
///
/// # Errors
/// The status of the call.
pub(crate) async fn read<B>(
    mut body: B,
    shape: Shape,
    mut charge: impl FnMut(usize) -> Result<(), Status>,
) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (limit, streaming) = match shape {
        Shape::Unary(limit) => (limit, false),
        Shape::ServerStreaming(limit) => (limit, true),
        Shape::Own => (0, true),
    };
    let mut kept = BytesMut::new();
    let mut wanted = HEAD;
    while kept.len() < wanted {
        let Some(mut data) = next(&mut body).await else {
            // An unfinished head is no message.
            return Err(match (kept.len() < HEAD, streaming) {
                (true, true) => Status::internal(NO_MESSAGE),
                (true, false) => Status::unknown("EOF"),
                (false, true) => Status::internal("unexpected EOF"),
                (false, false) => Status::unknown("unexpected EOF"),
            });
        };
        while data.has_remaining() && kept.len() < wanted {
            let here = data.split_to(data.len().min(wanted - kept.len()));
            kept.put(here);
            if kept.len() == HEAD && wanted == HEAD {
                let len = length(&kept, limit)?;
                charge(len)?;
                wanted += len;
                kept.reserve(len);
            }
        }
        if kept.len() == wanted && streaming && data.has_remaining() {
            return Err(Status::internal(TWO_MESSAGES));
        }
    }
    flag(kept[0])?;
    if streaming {
        // The client says that there is no more, or says more.
        while let Some(data) = next(&mut body).await {
            if !data.is_empty() {
                return Err(Status::internal(TWO_MESSAGES));
            }
        }
    }
    Ok(kept.freeze())
}

async fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Bytes> {
    loop {
        let frame = Pin::new(&mut *body).frame().await?.ok()?;
        if let Ok(data) = frame.into_data() {
            return Some(data);
        }
    }
}

/// What a message's head says.
fn length(head: &[u8], limit: u32) -> Result<usize, Status> {
    let len = (&head[1..]).get_u32();
    if len > limit {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({len} vs. {limit})"
        )));
    }
    Ok(len as usize)
}

fn flag(flag: u8) -> Result<(), Status> {
    match flag {
        0 => Ok(()),
        1 => Err(Status::internal("grpc: compressed flag set with identity or empty encoding")),
        other => Err(Status::internal(format!("grpc: received unexpected payload format {other}"))),
    }
}

/// Makes the words of a status as grpc-go writes them: of printable characters only `%` is escaped, and a message that is
/// not protobuf is called that.
pub(crate) fn reword(headers: &mut HeaderMap, shape: Shape) {
    let Some(words) = headers.get_mut("grpc-message") else { return };
    let mut plain = Vec::with_capacity(words.len());
    let mut rest = words.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.first_chunk().filter(|_| byte == b'%').and_then(|digits| hex(*digits));
        match escaped {
            Some(escaped) if (b' '..=b'~').contains(&escaped) && escaped != b'%' => {
                plain.push(escaped);
                rest = &after[2..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    if plain.starts_with(NOT_PROTOBUF) {
        let of_a_stream = matches!(shape, Shape::ServerStreaming(_));
        plain = if of_a_stream { UNREADABLE_IN_STREAM } else { UNREADABLE }.into();
    }
    if let Ok(plain) = HeaderValue::from_bytes(&plain) {
        *words = plain;
    }
}

fn hex([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

impl NoCall {
    fn new(http: StatusCode, grpc: Status) -> Self {
        Self { http, grpc: Box::new(grpc) }
    }

    /// The whole answer.
    pub(crate) fn response(self) -> Response<tonic::body::Body> {
        let mut response = self.grpc.into_http();
        reword(response.headers_mut(), Shape::Own);
        *response.status_mut() = self.http;
        response
    }
}

impl From<Status> for NoCall {
    fn from(grpc: Status) -> Self {
        Self::new(StatusCode::OK, grpc)
    }
}

const GRPC: &str = "application/grpc";
const HEAD: usize = 5;
/// A timeout below this has passed before anything could be done.
const AT_ONCE: Duration = Duration::from_micros(1);
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How prost begins.
const NOT_PROTOBUF: &[u8] = b"failed to decode Protobuf message";
const UNREADABLE: &[u8] = b"grpc: error unmarshalling request: proto: cannot parse invalid wire-format data";
const UNREADABLE_IN_STREAM: &[u8] =
    b"grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
const NO_MESSAGE: &str = "cardinality violation: received no request message from non-client-streaming RPC";
const TWO_MESSAGES: &str =
    "cardinality violation: received multiple request messages for non-client-streaming RPC";
