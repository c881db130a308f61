//! grpc-go's policy for a client's PINGs (the defaults of its `keepalive.EnforcementPolicy`). Hyper has no such policy,
//! so without this module only a real server would reveal an agent that pings too often.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A connection that fails when its client breaks the policy. grpc-go sends GOAWAY `too_many_pings` and closes it.
pub(crate) struct Policed<S> {
    inner: S,
    from_client: Frames,
    from_server: Frames,
    policy: Policy,
}

impl<S> Policed<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            from_client: Frames::after(PREFACE),
            from_server: Frames::after(0),
            policy: Policy::new(),
        }
    }
}

/// Counts the client's PINGs and decides whether it may send another.
struct Policy {
    last: Option<Instant>,
    strikes: u32,
    /// Whether the server has sent headers or data since the last PING. The next PING then resets the strikes.
    forgiven: bool,
}

impl Policy {
    fn new() -> Self {
        Self { last: None, strikes: 0, forgiven: false }
    }

    /// Notes that the server has sent headers or data.
    fn answered(&mut self) {
        self.forgiven = true;
    }

    /// Notes a PING of the client. Returns false if it was one too many.
    fn pinged(&mut self, now: Instant) -> bool {
        let early = self.last.is_some_and(|last| now < last + LEAST_PAUSE);
        self.last = Some(now);
        if std::mem::take(&mut self.forgiven) {
            self.strikes = 0;
        } else if early {
            self.strikes += 1;
        }
        self.strikes <= MOST_STRIKES
    }
}

/// Finds the frame headers in the bytes of an HTTP/2 connection (RFC 9113 §4.1).
struct Frames {
    /// Bytes of the present payload that have not come yet.
    payload: usize,
    head: [u8; 9],
    filled: usize,
}

impl Frames {
    fn after(skipped: usize) -> Self {
        Self { payload: skipped, head: [0; 9], filled: 0 }
    }

    /// The types and flags of the frames whose header is complete with these bytes.
    fn heads(&mut self, mut bytes: &[u8]) -> Vec<(u8, u8)> {
        let mut heads = Vec::new();
        while !bytes.is_empty() {
            let passed = self.payload.min(bytes.len());
            self.payload -= passed;
            bytes = &bytes[passed..];
            let taken = (self.head.len() - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.head.len() {
                let [a, b, c, kind, flags, ..] = self.head;
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                self.filled = 0;
                heads.push((kind, flags));
            }
        }
        heads
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Policed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buffer);
        for (kind, flags) in self.from_client.heads(&buffer.filled()[before..]) {
            if kind == PING && flags & ACK == 0 && !self.policy.pinged(Instant::now()) {
                return Poll::Ready(Err(io::Error::other("too_many_pings")));
            }
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Policed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = outcome {
            let heads = self.from_server.heads(&bytes[..written]);
            if heads.iter().any(|(kind, _)| matches!(*kind, DATA | HEADERS)) {
                self.policy.answered();
            }
        }
        outcome
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The length of the client's connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;
/// grpc-go's `MinTime`: a PING that comes sooner is a strike.
const LEAST_PAUSE: Duration = Duration::from_mins(5);
/// grpc-go's `maxPingStrikes`.
const MOST_STRIKES: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_wherever_the_bytes_are_cut() {
        let frame =
            |len: u8, kind, flags| [&[0, 0, len, kind, flags, 0, 0, 0, 1][..], &vec![6; len.into()]].concat();
        let bytes =
            [vec![b'p'; PREFACE], frame(3, HEADERS, 4), frame(8, PING, 0), frame(0, DATA, 1)].concat();
        for cut in 0..bytes.len() {
            let mut frames = Frames::after(PREFACE);
            let heads = [frames.heads(&bytes[..cut]), frames.heads(&bytes[cut..])].concat();
            assert_eq!(heads, [(HEADERS, 4), (PING, 0), (DATA, 1)]);
        }
    }

    #[test]
    fn three_pings_without_an_answer_are_borne() {
        let start = Instant::now();
        let mut policy = Policy::new();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([0, 8, 16, 24].map(|seconds| policy.pinged(at(seconds))), [true, true, true, false]);
        let mut policy = Policy::new();
        for seconds in 0..100 {
            assert!(policy.pinged(at(seconds)));
            policy.answered();
        }
        let mut policy = Policy::new();
        assert!((0..100).all(|minutes| policy.pinged(at(minutes * 5 * 60))));
    }
}
