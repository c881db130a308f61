//! The buffers of a thread, lent to the connection that is being polled. Between polls a connection holds only what it
//! could not get rid of.

use std::cell::Cell;

use bytes::BytesMut;

use crate::out::Out;

#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// What was read and not looked at.
    pub(crate) read: BytesMut,
    pub(crate) out: Out,
    /// The streams to be polled.
    pub(crate) streams: Vec<u32>,
}

impl Scratch {
    /// The thread's, which is to be given back.
    pub(crate) fn take() -> Box<Self> {
        THREADS.take().unwrap_or_default()
    }

    /// Empty, whatever has become of the connection.
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
