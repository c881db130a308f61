//! An accepted connection, which fails once it must close.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use budget::{Account, Charge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

use crate::Peer;

/// The connection of one caller.
///
/// Reading and writing fail with `ConnectionAborted` after [`Peer::hang_up`], and when another group of callers needs
/// the connection's slot. Reading fails with `TimedOut` if the caller has sent nothing for [`SILENCE`] after it has
/// connected.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    peer: Arc<Peer>,
    /// The deadline of the first byte; `None` after that byte has come.
    silence: Option<Pin<Box<Sleep>>>,
    slots: Account,
    /// The connection's slot in the limit of connections.
    _slot: Charge,
}

impl Connection {
    /// The caller at the other end.
    #[must_use]
    pub fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }

    /// Fails when the connection must close. Otherwise the task of `cx` is woken when it must.
    fn still_wanted(&self, cx: &Context<'_>) -> io::Result<()> {
        let unwanted = self.peer.is_hung_up(cx) || self.slots.poll_notice(cx).is_some();
        if unwanted { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    pub(crate) fn new(stream: UnixStream, peer: Peer, slots: Account, slot: Charge) -> Self {
        let silence = Some(Box::pin(sleep(SILENCE)));
        Self { stream, peer: Arc::new(peer), silence, slots, _slot: slot }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.still_wanted(cx)?;
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            if buf.filled().len() > before {
                self.silence = None;
                self.slots.touch();
                self.peer.account().touch();
            }
            return Poll::Ready(read);
        }
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        ready!(silence.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.still_wanted(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.still_wanted(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// How long a caller may take to send its first byte. A gRPC client sends as soon as it is connected. A client that
/// does not is stopped, or wants to use up the agent's descriptors.
pub const SILENCE: Duration = Duration::from_secs(30);
