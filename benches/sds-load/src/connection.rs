//! An HTTP/2 connection to the socket, with Envoy's settings, and gRPC streams on it.

use std::borrow::Cow;
use std::cell::Cell;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, spawn_local};

use crate::tally::{Open, Tally};
use crate::wire::{Deframer, Malformed, Message};

/// An open connection.
pub(crate) struct Connection {
    requests: SendRequest<Message>,
    reading: Rc<Reading>,
    task: JoinHandle<()>,
}

/// Why a connection or a stream failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The name of the gRPC code, or another short name of the error.
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
}

impl Connection {
    /// Connects. With a `window`, the agent may send only this many bytes on each stream.
    pub(crate) async fn open(socket: &Path, window: Option<u32>, tally: &Rc<Tally>) -> Result<Self, Failure> {
        let socket = UnixStream::connect(socket).await.map_err(|error| Failure::connecting(&error))?;
        let reading = Rc::new(Reading::default());
        let open = tally.open(|counts| &mut counts.connections_open);
        tally.count(|counts| counts.connections_opened += 1);
        let counted = Counted { socket, reading: Rc::clone(&reading), tally: Rc::clone(tally), _open: open };
        let (requests, connection) = h2::client::Builder::new()
            .enable_push(false)
            .header_table_size(4096)
            .max_concurrent_streams(1024)
            .initial_max_send_streams(1024)
            .initial_window_size(window.unwrap_or(STREAM_WINDOW))
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(counted)
            .await
            .map_err(|error| Failure::http2(&error))?;
        // The streams report the errors of the connection.
        let task = spawn_local(async move { drop(connection.await) });
        Ok(Self { requests, reading, task })
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    /// Stops reading from the socket.
    pub(crate) fn stop_reading(&self) {
        self.reading.stopped.set(true);
    }

    /// Opens a stream and sends its first message.
    pub(crate) async fn stream(
        &self,
        request: Request<()>,
        first: Message,
        end: bool,
    ) -> Result<Stream, Failure> {
        let ready = self.requests.clone().ready().await;
        let mut requests = ready.map_err(|error| Failure::http2(&error))?;
        let (response, mut send) =
            requests.send_request(request, false).map_err(|error| Failure::http2(&error))?;
        send.send_data(first, end).map_err(|error| Failure::http2(&error))?;
        Ok(Stream { send, receive: Receive::Headers(response), deframer: Deframer::default(), release: true })
    }

    /// Waits until everything is written and the socket is closed. All streams must be dropped before.
    pub(crate) async fn close(self) {
        drop(self.requests);
        let _ = self.task.await;
    }
}

/// An open gRPC stream.
pub(crate) struct Stream {
    send: SendStream<Message>,
    receive: Receive,
    deframer: Deframer,
    release: bool,
}

enum Receive {
    Headers(ResponseFuture),
    Body(RecvStream),
}

impl Stream {
    /// Waits for the next message; `None` if the stream has ended with `OK`.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(message) = self.deframer.next().map_err(Failure::from)? {
                return Ok(Some(message));
            }
            let body = match &mut self.receive {
                Receive::Headers(response) => {
                    let response = response.await.map_err(|error| Failure::http2(&error))?;
                    let (head, body) = response.into_parts();
                    if head.headers.contains_key("grpc-status") {
                        return Failure::by_status(&head.headers).map_or(Ok(None), Err);
                    }
                    if !head.status.is_success() {
                        return Err(Failure { code: "HTTP".into(), message: head.status.to_string() });
                    }
                    self.receive = Receive::Body(body);
                    continue;
                }
                Receive::Body(body) => body,
            };
            let Some(data) = body.data().await else {
                let trailers = body.trailers().await.map_err(|error| Failure::http2(&error))?;
                return Failure::by_status(&trailers.unwrap_or_default()).map_or(Ok(None), Err);
            };
            let data = data.map_err(|error| Failure::http2(&error))?;
            if self.release {
                // Fails only for more bytes than were received.
                let _ = body.flow_control().release_capacity(data.len());
            }
            self.deframer.push(&data);
        }
    }

    /// Sends a message. With `end` it is the last one.
    pub(crate) fn send(&mut self, message: Message, end: bool) -> Result<(), Failure> {
        self.send.send_data(message, end).map_err(|error| Failure::http2(&error))
    }

    /// Stops opening the window, so that the stream gets no more bytes than it allows now.
    pub(crate) fn keep_window(&mut self) {
        self.release = false;
    }
}

impl Failure {
    fn connecting(error: &io::Error) -> Self {
        Self { code: format!("connect: {}", error.kind()).into(), message: error.to_string() }
    }

    fn http2(error: &h2::Error) -> Self {
        let code = match error.reason() {
            Some(reason) if error.is_reset() => format!("RST_STREAM {reason:?}"),
            Some(reason) if error.is_go_away() => format!("GOAWAY {reason:?}"),
            _ => "connection lost".to_owned(),
        };
        Self { code: code.into(), message: error.to_string() }
    }

    /// The failure in trailers; `None` for `OK`.
    fn by_status(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let status = text("grpc-status");
        if status == "0" {
            return None;
        }
        let name = status.parse().ok().and_then(|code: usize| CODES.get(code)).copied();
        Some(Self { code: name.unwrap_or("no grpc-status").into(), message: unescape(text("grpc-message")) })
    }

    pub(crate) fn ended() -> Self {
        Self { code: "OK".into(), message: "the agent ended the stream".into() }
    }
}

impl From<Malformed> for Failure {
    fn from(Malformed: Malformed) -> Self {
        Self { code: "malformed response".into(), message: "not the message that it should be".into() }
    }
}

/// Decodes `grpc-message`, which is percent-encoded.
fn unescape(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) if byte == b'%' => {
                bytes.push(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The switch that stops reading from the socket.
#[derive(Debug, Default)]
struct Reading {
    stopped: Cell<bool>,
}

/// The socket. It counts its bytes.
struct Counted {
    socket: UnixStream,
    reading: Rc<Reading>,
    tally: Rc<Tally>,
    _open: Open,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.reading.stopped.get() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.tally.count(|counts| counts.bytes_in += read as u64);
        polled
    }
}

impl Counted {
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = polled {
            self.tally.count(|counts| counts.bytes_out += written as u64);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, data);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, data);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// The window of a stream that Envoy 1.40 announces.
const STREAM_WINDOW: u32 = 16 << 20;
/// The window of a connection that Envoy 1.40 announces: the default, and its first WINDOW_UPDATE.
const CONNECTION_WINDOW: u32 = 65_535 + 25_100_289;

/// The names of gRPC's codes, indexed by code.
const CODES: [&str; 17] = [
    "OK",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: &str, message: &str) -> Option<Failure> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", code.parse().unwrap());
        headers.insert("grpc-message", message.parse().unwrap());
        Failure::by_status(&headers)
    }

    #[test]
    fn codes_have_names_and_messages_are_readable() {
        let failure = status("7", "no identity%20issued 100%").unwrap();
        assert_eq!((&*failure.code, &*failure.message), ("PermissionDenied", "no identity issued 100%"));
        assert_eq!(status("0", ""), None);
    }

    #[test]
    fn an_unknown_code_is_no_success() {
        assert_eq!(status("99", "").unwrap().code, "no grpc-status");
        assert!(Failure::by_status(&HeaderMap::new()).is_some());
    }
}
