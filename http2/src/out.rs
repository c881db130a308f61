//! What waits to be written.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Frames of ours, and between them slices of responses where they lie: a key is not copied on its way out.
#[derive(Debug, Default)]
pub(crate) struct Out {
    pieces: VecDeque<Piece>,
    /// The frames of ours since the last slice.
    own: BytesMut,
    len: usize,
}

#[derive(Debug)]
enum Piece {
    Own(Bytes),
    Shared(Bytes),
}

impl Piece {
    fn bytes(&mut self) -> &mut Bytes {
        match self {
            Self::Own(bytes) | Self::Shared(bytes) => bytes,
        }
    }
}

impl Out {
    /// Adds frames.
    pub(crate) fn frames(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.own.len();
        write(&mut self.own);
        self.len += self.own.len() - before;
    }

    /// Adds bytes of a response; their frame's head was added before.
    pub(crate) fn shared(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.cut();
        self.len += bytes.len();
        self.pieces.push_back(Piece::Shared(bytes));
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that what was set aside takes; a response's bytes count as if they were its own.
    pub(crate) fn kept(&self) -> usize {
        self.len + self.pieces.capacity() * size_of::<Piece>()
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.own.clear();
        self.len = 0;
    }

    /// Writes until all is written, or the client must read first.
    pub(crate) fn poll_write(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.cut();
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
            self.written(written);
        }
        Poll::Ready(Ok(()))
    }

    /// For later, in memory of its own: what is left must not hold the thread's buffer.
    pub(crate) fn set_aside(&mut self) -> Option<Self> {
        self.cut();
        if self.pieces.is_empty() {
            return None;
        }
        let aside = self.pieces.drain(..).map(|piece| match piece {
            Piece::Own(bytes) => Piece::Own(Bytes::copy_from_slice(&bytes)),
            shared @ Piece::Shared(_) => shared,
        });
        let pieces = aside.collect();
        Some(Self { pieces, own: BytesMut::new(), len: std::mem::take(&mut self.len) })
    }

    /// What was set aside comes first again.
    pub(crate) fn resume(&mut self, aside: Self) {
        self.len = aside.len;
        self.pieces.extend(aside.pieces);
    }

    fn cut(&mut self) {
        if !self.own.is_empty() {
            self.pieces.push_back(Piece::Own(self.own.split().freeze()));
        }
    }

    fn written(&mut self, mut bytes: usize) {
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
