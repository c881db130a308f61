//! What a connection knows of its streams (RFC 9113 §5.1). A stream that is over is forgotten.

use std::collections::VecDeque;
use std::sync::Arc;

use budget::Charge;
use bytes::Bytes;

use crate::inbox::Inbox;
use crate::window::{ReceiveWindow, SendWindow};

/// A stream that is open, or half closed by the client.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) send: SendWindow,
    pub(crate) receive: ReceiveWindow,
    /// What is left of a body whose length was announced.
    pub(crate) announced: Option<u64>,
    /// The client has said its last.
    pub(crate) client_done: bool,
    /// The response's head was sent.
    pub(crate) answered: bool,
    /// Of the response, what no window had room for.
    pub(crate) pending: Bytes,
    /// What the call itself takes, in bytes; first the future that makes the response, then the response's body.
    pub(crate) call_size: u32,
    /// All that is kept for the stream: the call, what it has not read, and `pending`.
    pub(crate) charge: Charge,
}

/// Whoever reads elsewhere than in a call, which is dropped, would otherwise wait for ever.
impl Drop for Stream {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// A connection's streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Ascending: identifiers only grow.
    open: Vec<Stream>,
    /// The highest identifier that the client has used.
    last: u32,
    /// Those that were ended by us last: the client may not know it yet.
    ended: VecDeque<u32>,
}

/// What a stream with an identifier is, as the connection remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// Not begun yet.
    Idle,
    /// Open, or half closed by the client.
    Open,
    /// Ended by us, so lately that the client may not know it yet.
    Ended,
    /// Over.
    Closed,
}

impl Streams {
    pub(crate) fn state(&self, id: u32) -> StreamState {
        match self.place(id) {
            Ok(_) => StreamState::Open,
            // Even ones are ours, and we begin none.
            Err(_) if id > self.last || id.is_multiple_of(2) => StreamState::Idle,
            Err(_) if self.ended.contains(&id) => StreamState::Ended,
            Err(_) => StreamState::Closed,
        }
    }

    pub(crate) fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id).ok()?;
        Some(&mut self.open[place])
    }

    /// Takes note of an identifier that is idle.
    pub(crate) fn begin(&mut self, id: u32) {
        self.last = id;
    }

    pub(crate) fn insert(&mut self, stream: Stream) {
        debug_assert!(stream.id == self.last, "begun");
        self.open.push(stream);
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Stream> {
        let place = self.place(id).ok()?;
        let stream = self.open.remove(place);
        if self.open.is_empty() {
            // As a connection that has never had one.
            self.open = Vec::new();
        }
        Some(stream)
    }

    /// Ended by us: frames that are under way are passed over.
    pub(crate) fn remember(&mut self, id: u32) {
        if !self.ended.contains(&id) {
            self.ended.truncate(ENDED_KEPT - 1);
            self.ended.push_front(id);
        }
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.open.iter_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Bytes that the lists take.
    pub(crate) fn kept(&self) -> usize {
        self.open.capacity() * size_of::<Stream>() + self.ended.capacity() * size_of::<u32>()
    }

    pub(crate) fn last(&self) -> u32 {
        self.last
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.open.binary_search_by_key(&id, |stream| stream.id)
    }
}

/// As many streams as most clients have at once.
const ENDED_KEPT: usize = 128;
