//! The buffers of a thread. The connection that is being polled borrows them. Between polls a connection keeps only
//! unread input and unwritten output, in memory of its own.

use std::cell::Cell;

use bytes::BytesMut;

use crate::out::Out;

#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Bytes that were read and not acted on.
    pub(crate) read: BytesMut,
    pub(crate) out: Out,
    /// The streams that this poll visits.
    pub(crate) streams: Vec<u32>,
}

impl Scratch {
    /// Takes the thread's buffers. The caller gives them back with [`Self::give_back`].
    pub(crate) fn take() -> Box<Self> {
        THREADS.take().unwrap_or_default()
    }

    /// Returns the buffers to the thread, emptied.
    pub(crate) fn give_back(mut self: Box<Self>) {
        self.read.clear();
        self.out.clear();
        self.streams.clear();
        THREADS.set(Some(self));
    }
}

thread_local! {
    static THREADS: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}
