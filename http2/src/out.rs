//! Output buffer of a connection: frames that the server built, and between them slices of response bodies, which are
//! not copied. So a private key in a response is not copied on its way out.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Output that waits for the socket. See the module.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pieces: VecDeque<Piece>,
    /// Frames since the last body slice.
    frames: BytesMut,
    len: usize,
}

#[derive(Debug)]
enum Piece {
    Frames(Bytes),
    Body(Bytes),
}

impl Piece {
    fn bytes(&mut self) -> &mut Bytes {
        match self {
            Self::Frames(bytes) | Self::Body(bytes) => bytes,
        }
    }
}

impl Out {
    /// Adds the frames that `write` appends.
    pub(crate) fn frames(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.frames.len();
        write(&mut self.frames);
        self.len += self.frames.len() - before;
    }

    /// Adds bytes of a response body. Their frame head was added before.
    pub(crate) fn body(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.finish_frames();
        self.len += bytes.len();
        self.pieces.push_back(Piece::Body(bytes));
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that this output takes after [`Self::set_aside`]. Body slices count as if they were copies.
    pub(crate) fn kept(&self) -> usize {
        self.len + self.pieces.capacity() * size_of::<Piece>()
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.frames.clear();
        self.len = 0;
    }

    /// Writes until all is written; pending when the client must read first.
    pub(crate) fn poll_write(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.finish_frames();
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = self.pieces.len().min(SLICES);
            for (slice, piece) in slices.iter_mut().zip(&mut self.pieces) {
                *slice = IoSlice::new(piece.bytes());
            }
            let written = ready!(io.as_mut().poll_write_vectored(cx, &slices[..used]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the waiting output out, for a later poll. Frames are copied, because they must not hold the thread's
    /// buffer. `None` when nothing waits.
    pub(crate) fn set_aside(&mut self) -> Option<Self> {
        self.finish_frames();
        if self.pieces.is_empty() {
            return None;
        }
        let aside = self.pieces.drain(..).map(|piece| match piece {
            Piece::Frames(bytes) => Piece::Frames(Bytes::copy_from_slice(&bytes)),
            body @ Piece::Body(_) => body,
        });
        let pieces = aside.collect();
        Some(Self { pieces, frames: BytesMut::new(), len: std::mem::take(&mut self.len) })
    }

    /// Puts back what [`Self::set_aside`] took. Called before anything is added.
    pub(crate) fn resume(&mut self, aside: Self) {
        self.len = aside.len;
        self.pieces.extend(aside.pieces);
    }

    fn finish_frames(&mut self) {
        if !self.frames.is_empty() {
            self.pieces.push_back(Piece::Frames(self.frames.split().freeze()));
        }
    }

    fn advance(&mut self, mut bytes: usize) {
        self.len -= bytes;
        while let Some(piece) = self.pieces.front_mut() {
            let here = piece.bytes().len().min(bytes);
            piece.bytes().advance(here);
            if !piece.bytes().is_empty() {
                break;
            }
            bytes -= here;
            self.pieces.pop_front();
        }
    }
}

const SLICES: usize = 64;
