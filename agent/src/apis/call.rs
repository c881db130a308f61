//! Judges a call before its API sees it. The checks, their order, codes and messages are grpc-go's, because clients and
//! their tests know these. Then reads the call's message, and no more of the body than the method needs.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method as HttpMethod, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use http2::OddPath;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataValue;

use super::reply::{ResponseBody, refusal};
use super::table::{Method, Service, Shape};

#[cfg(test)]
mod tests;

/// The refusal of a request that is not a valid call.
#[derive(Debug)]
pub(crate) struct NoCall {
    /// 200 if the request is a gRPC call that is refused.
    http: StatusCode,
    grpc: Box<Status>,
}

/// A valid call.
pub(crate) struct Judged<A: 'static> {
    pub(crate) method: &'static Method<A>,
    pub(crate) service: &'static Service<A>,
    /// The time at which the call must have ended; `None` if the client set no timeout.
    pub(crate) deadline: Option<Instant>,
    /// Whether the call has the header that its service asks for. A call without it is refused, and counts as a call.
    pub(crate) header: Result<(), Status>,
}

/// Judges the head of a request against the table `services`. `now` starts the call's deadline.
///
/// # Errors
/// [`NoCall`].
pub(crate) fn judge<A>(
    head: &Parts,
    services: &'static [Service<A>],
    apis: &A,
    now: Instant,
) -> Result<Judged<A>, NoCall> {
    if let Some(content_type) = not_grpc(head) {
        let words = format!("invalid gRPC request content-type {content_type:?}");
        return Err(NoCall::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(words)));
    }
    let timeout = timeout(head).map_err(|words| {
        let words = format!("malformed grpc-timeout: {words}");
        NoCall::new(StatusCode::BAD_REQUEST, Status::internal(words))
    })?;
    if head.method != HttpMethod::POST {
        let method = head.method.as_str();
        let words = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        return Err(NoCall::new(StatusCode::METHOD_NOT_ALLOWED, Status::internal(words)));
    }
    let deadline = timeout.map(|timeout| now + timeout);
    if timeout.is_some_and(|timeout| timeout < AT_ONCE) {
        return Err(too_late().into());
    }
    let (service, method) = method(head, services, apis)?;
    decompresses(head)?;
    Ok(Judged { method, service, deadline, header: header(head, service.header) })
}

/// The status of a call whose deadline has passed.
pub(crate) fn too_late() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// The content type of a request, if it is not gRPC's.
fn not_grpc(head: &Parts) -> Option<String> {
    let content_type = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let rest = content_type.strip_prefix(GRPC.as_bytes());
    let is_grpc = matches!(rest, Some([] | [b'+' | b';', ..]));
    (!is_grpc).then(|| String::from_utf8_lossy(content_type).into_owned())
}

/// The `grpc-timeout` of a request: up to eight digits and a unit (gRPC over HTTP/2, "Timeout"). The error says what is
/// wrong with it.
fn timeout(head: &Parts) -> Result<Option<Duration>, String> {
    // Each of several must be valid, and the last one counts.
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
    // Capped at a hundred years, because `Instant` cannot hold every sum.
    Ok(Duration::from_nanos(number.saturating_mul(nanoseconds)).min(LONGEST))
}

/// Finds the service and the method that the path names.
fn method<A>(
    head: &Parts,
    services: &'static [Service<A>],
    apis: &A,
) -> Result<(&'static Service<A>, &'static Method<A>), Status> {
    let odd = head.extensions.get::<OddPath>().map(|OddPath(path)| path.as_str());
    let path = odd.unwrap_or_else(|| head.uri.path_and_query().map_or("", |path| path.as_str()));
    let (service, method) = path
        .strip_prefix('/')
        .and_then(|path| path.rsplit_once('/'))
        .ok_or_else(|| Status::unimplemented(format!("malformed method name: {path:?}")))?;
    let known = services.iter().find(|known| known.name == service && (known.offered)(apis));
    let known = known.ok_or_else(|| Status::unimplemented(format!("unknown service {service}")))?;
    let found = known.methods.iter().find(|known| known.name == method);
    let unknown = || Status::unimplemented(format!("unknown method {method} for service {service}"));
    found.map(|method| (known, method)).ok_or_else(unknown)
}

/// Refuses a compressed call. No client needs compression, and a decompression bomb must not take our memory.
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

/// Checks the security header of a service, which protects against server-side request forgery (SPIFFE Workload
/// Endpoint §3).
fn header(head: &Parts, name: Option<&str>) -> Result<(), Status> {
    let Some(name) = name else { return Ok(()) };
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

/// Reads the only message of a call. `charge` is called with the message's length before memory is allocated for it.
///
/// # Errors
/// The status of the call.
pub(crate) async fn read<B>(
    body: B,
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
    let mut messages = Messages::new(body);
    let message = messages.next(limit, &mut charge).await;
    let message = message.and_then(|message| message.ok_or(Unread::NoHead)).map_err(|reason| {
        match (reason, streaming) {
            (Unread::NoHead, true) => Status::internal(NO_MESSAGE),
            (Unread::NoHead, false) => Status::unknown("EOF"),
            (Unread::CutShort, true) => Status::internal("unexpected EOF"),
            (Unread::CutShort, false) => Status::unknown("unexpected EOF"),
            (Unread::Refused(status), _) => status,
        }
    })?;
    // A server-streaming call must end its side after the message.
    if streaming && messages.has_more().await {
        return Err(Status::internal(TWO_MESSAGES));
    }
    Ok(message)
}

/// Reads the messages of a request one by one.
#[derive(Debug)]
pub(crate) struct Messages<B> {
    body: B,
    /// Bytes that have been received and belong to the next message.
    rest: Bytes,
}

/// Why there is no next message.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The body ended within the five bytes of a prefix, or where a message had to come.
    NoHead,
    /// The body ended within a message.
    CutShort,
    /// The message is refused, with this status.
    Refused(Status),
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, rest: Bytes::new() }
    }

    /// The next message; `None` if the body has ended before it. `charge` is called with the message's length before
    /// memory is allocated for it.
    ///
    /// # Errors
    /// [`Unread`].
    pub(crate) async fn next(
        &mut self,
        limit: u32,
        mut charge: impl FnMut(usize) -> Result<(), Status>,
    ) -> Result<Option<Bytes>, Unread> {
        let mut head = [0; HEAD];
        match self.fill(&mut head.as_mut_slice(), HEAD).await {
            0 => return Ok(None),
            HEAD => {}
            _ => return Err(Unread::NoHead),
        }
        let len = length(&head, limit).and_then(|len| charge(len).map(|()| len)).map_err(Unread::Refused)?;
        let mut message = BytesMut::with_capacity(len);
        if self.fill(&mut message, len).await < len {
            return Err(Unread::CutShort);
        }
        flag(head[0]).map_err(Unread::Refused)?;
        Ok(Some(message.freeze()))
    }

    /// Reads the next `wanted` bytes into `place`. Returns how many it has read: fewer if the body ends.
    async fn fill(&mut self, place: &mut impl BufMut, wanted: usize) -> usize {
        let mut filled = 0;
        while filled < wanted {
            if self.rest.is_empty() {
                match next(&mut self.body).await {
                    Some(data) => self.rest = data,
                    None => break,
                }
            }
            let here = self.rest.split_to(self.rest.len().min(wanted - filled));
            filled += here.len();
            place.put(here);
        }
        filled
    }

    /// Waits for the end of the body or for more bytes, and tells whether there are more.
    async fn has_more(&mut self) -> bool {
        while self.rest.is_empty() {
            match next(&mut self.body).await {
                Some(data) => self.rest = data,
                None => return false,
            }
        }
        true
    }
}

/// The next data frame; `None` if the body has ended or failed.
async fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Bytes> {
    loop {
        let frame = Pin::new(&mut *body).frame().await?.ok()?;
        if let Ok(data) = frame.into_data() {
            return Some(data);
        }
    }
}

/// The message length in a prefix, if it is within `limit`.
fn length(head: &[u8], limit: u32) -> Result<usize, Status> {
    let len = (&head[1..]).get_u32();
    if len > limit {
        return Err(Status::resource_exhausted(format!(
            "grpc: received message larger than max ({len} vs. {limit})"
        )));
    }
    Ok(len as usize)
}

/// Checks the compression flag of a prefix. It must be 0.
fn flag(flag: u8) -> Result<(), Status> {
    match flag {
        0 => Ok(()),
        1 => Err(Status::internal("grpc: compressed flag set with identity or empty encoding")),
        other => Err(Status::internal(format!("grpc: received unexpected payload format {other}"))),
    }
}

/// Writes `grpc-message` as grpc-go does: of the printable ASCII characters only `%` is percent-encoded. Tonic encodes
/// more.
pub(crate) fn escape_as_grpc_go(headers: &mut HeaderMap) {
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

    /// The complete response.
    pub(crate) fn response(self) -> Response<ResponseBody> {
        let mut response = refusal(&self.grpc);
        escape_as_grpc_go(response.headers_mut());
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
/// The length of gRPC's prefix: a flag and the length of the message.
const HEAD: usize = 5;
/// A shorter timeout has passed before anything can be done.
const AT_ONCE: Duration = Duration::from_micros(1);
/// The longest timeout that is honoured: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const NO_MESSAGE: &str = "cardinality violation: received no request message from non-client-streaming RPC";
const TWO_MESSAGES: &str =
    "cardinality violation: received multiple request messages for non-client-streaming RPC";
