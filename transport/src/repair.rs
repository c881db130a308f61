//! Mends the `:authority` of gRPC C-core clients.
//!
//! gRPC C-core (Python, C++, Ruby, PHP, Envoy's `google_grpc`) sends the percent-encoded socket path as `:authority`,
//! grpc-java a raw path. h2 answers both with RST_STREAM(PROTOCOL_ERROR), spire-agent does not mind. So `%` and `/`
//! inside that value become `-` before h2 sees them. All three are one byte plain and six bits in Huffman code: lengths,
//! frames and tables stay as they are, and whatever else the client sends passes unchanged.
//!
//! - [`Repair`]: the reading side; keeps the few bytes that cannot be passed on yet;
//! - [`Mender`]: the same without I/O. `frames` finds the header blocks, `fields` finds `:authority` in them,
//!   `huffman` rewrites coded text.
//!
//! What cannot be understood ends the repair of that connection, not the connection: h2 is the judge.

mod fields;
mod frames;
mod huffman;
#[cfg(test)]
mod tests;

use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

pub use frames::Mender;

/// Mends on the way from the client's stream to the server's buffer.
#[derive(Debug, Default)]
pub struct Repair {
    mender: Mender,
    /// Bytes that have been read, and not passed on. Nearly always empty: see [`Mender::mend`].
    held: Vec<u8>,
    /// How many of them are settled.
    settled: usize,
}

impl Repair {
    /// Reads from the client, mending on the way.
    pub(crate) fn poll_read(
        &mut self,
        mut stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.settled > 0 {
                self.pass_on(buf);
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let start = buf.filled().len();
                ready!(stream.as_mut().poll_read(cx, buf))?;
                let read = &mut buf.filled_mut()[start..];
                let settled = self.mender.mend(read);
                self.held.extend_from_slice(&read[settled..]);
                let nothing_held = settled == read.len();
                buf.set_filled(start + settled);
                // An empty read means the end of the stream, so a lone byte that is held must not look like one.
                if nothing_held || settled > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                ready!(self.poll_behind_held(stream.as_mut(), cx))?;
            }
        }
    }

    /// The server's buffer may have no room for what is held and one byte more, so this reads into a place of its own.
    fn poll_behind_held(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = [0; READ_BEHIND_HELD];
        let mut more = ReadBuf::new(&mut space);
        ready!(stream.poll_read(cx, &mut more))?;
        self.held.extend_from_slice(more.filled());
        self.settled = if more.filled().is_empty() {
            self.mender.stop();
            self.held.len()
        } else {
            self.mender.mend(&mut self.held)
        };
        Poll::Ready(Ok(()))
    }

    fn pass_on(&mut self, buf: &mut ReadBuf<'_>) {
        let fits = self.settled.min(buf.remaining());
        buf.put_slice(&self.held[..fits]);
        self.settled -= fits;
        self.held.drain(..fits);
        if self.held.is_empty() {
            // Give the memory back: most connections never hold anything again.
            mem::take(&mut self.held);
        }
    }
}

const READ_BEHIND_HELD: usize = 256;
