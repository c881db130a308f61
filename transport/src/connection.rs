//! The accepted stream.

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

/// One caller's connection.
///
/// Reading and writing fail with `ConnectionAborted` once it is no longer wanted: after [`Peer::hang_up`], and when its
/// place is needed for another group of callers. Reading fails with `TimedOut` where the caller has not said a byte for
/// [`SILENCE`] since it has connected.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    peer: Arc<Peer>,
    /// How long the first byte may take; `None` when it has come.
    silence: Option<Pin<Box<Sleep>>>,
    slots: Account,
    /// Its place among the descriptors that connections may take.
    _slot: Charge,
}

impl Connection {
    /// Who is on the other end.
    #[must_use]
    pub fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }

    /// Whoever reads or writes is woken when it no longer is.
    fn still_wanted(&self, cx: &Context<'_>) -> io::Result<()> {
        let unwanted = self.peer.is_hung_up(cx) || self.slots.poll_evicted(cx);
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

/// How long a caller may take for its first byte. A client of gRPC speaks as soon as it is connected; only one that is
/// stopped, or wants nothing but our descriptors, does not.
pub const SILENCE: Duration = Duration::from_secs(30);
