//! An HTTP/2 connection in memory: a client's bytes go in, and the server's come out.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use budget::Account;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http2::{Connection, Limits, RequestBody};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The transport between client and server.
#[derive(Debug, Default)]
struct Pipe {
    /// Bytes that the server has not read yet.
    sent: Vec<u8>,
    /// The number of bytes that the server has written.
    heard: usize,
}

#[derive(Debug, Clone, Default)]
struct Io(Arc<Mutex<Pipe>>);

/// Answers each `of` bytes with `with`, as an SDS stream answers an ACK if there is an update.
struct Answers {
    request: RequestBody,
    of: usize,
    heard: usize,
    with: Bytes,
}

type Call = Box<dyn FnMut(Request<RequestBody>) -> std::future::Ready<Response<Answers>> + Send>;

/// An open connection with one stream.
pub struct Exchange {
    connection: Connection<Io, Call, std::future::Ready<Response<Answers>>, Answers>,
    io: Io,
    message: Vec<u8>,
}

impl Exchange {
    /// A connection in which each message of the client has `of` bytes and is answered with `with`.
    #[must_use]
    pub fn new(of: usize, with: Bytes) -> Self {
        let io = Io::default();
        let call: Call = Box::new(move |request| {
            let answers = Answers { request: request.into_body(), of, heard: 0, with: with.clone() };
            std::future::ready(Response::new(answers))
        });
        let limits = Limits { streams: 100, window: 256 * 1024, headers: 16 * 1024, fields: &[] };
        let connection = http2::serve(io.clone(), limits, Account::alone(1 << 20), call);
        let connection = connection.expect("there is room");
        let message = vec![0; of].chunks(16_384).flat_map(|part| frame(0, 0, 1, part)).collect();
        let mut exchange = Self { connection, io, message };
        exchange.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        exchange.say(&frame(4, 0, 0, &[]));
        // The windows are nearly as large as possible, so that nothing waits for them.
        exchange.say(&frame(8, 0, 0, &0x7000_0000_u32.to_be_bytes()));
        // `:method: POST`, `:scheme: http`, `:path: /`.
        exchange.say(&frame(1, 4, 1, &[0x83, 0x86, 0x84]));
        exchange.say(&frame(8, 0, 1, &0x7000_0000_u32.to_be_bytes()));
        exchange.io.pipe().heard = 0;
        exchange
    }

    /// Sends a message of the client and reads the answer. Returns how many bytes the server wrote.
    pub fn step(&mut self) -> usize {
        let message = std::mem::take(&mut self.message);
        self.say(&message);
        self.message = message;
        std::mem::take(&mut self.io.pipe().heard)
    }

    fn say(&mut self, bytes: &[u8]) {
        self.io.pipe().sent.extend_from_slice(bytes);
        let polled = Pin::new(&mut self.connection).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "{polled:?}");
    }
}

impl Io {
    fn pipe(&self) -> std::sync::MutexGuard<'_, Pipe> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let sent = &mut self.pipe().sent;
        if sent.is_empty() {
            return Poll::Pending;
        }
        let here = sent.len().min(buf.remaining());
        buf.put_slice(&sent[..here]);
        sent.drain(..here);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pipe().heard += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.pipe().heard += len;
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.heard < self.of {
            let Some(Ok(frame)) = ready!(Pin::new(&mut self.request).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            self.heard += frame.data_ref().map_or(0, Bytes::len);
        }
        self.heard -= self.of;
        Poll::Ready(Some(Ok(Frame::data(self.with.clone()))))
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&len[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}
