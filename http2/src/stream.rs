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
    /// Bytes that the request's body must still have, if it came with `content-length`.
    pub(crate) announced: Option<u64>,
    /// The client has sent END_STREAM.
    pub(crate) client_done: bool,
    pub(crate) answered: bool,
    /// Response bytes that no window had room for.
    pub(crate) pending: Bytes,
    /// Bytes that the call itself takes: at first the request and the future that makes the response, then the
    /// response's body.
    pub(crate) call_size: u32,
    /// Memory of the stream: its call, its inbox with unread bytes, and `pending`.
    pub(crate) charge: Charge,
}

/// Closes the inbox, so that a task that still reads this stream's request body ends.
impl Drop for Stream {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// A connection's streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// By identifier, ascending.
    open: Vec<Stream>,
    /// The highest identifier that the client has used.
    last: u32,
    /// Streams that the server reset, newest first. The client may still send frames that it wrote before it knew.
    ended: VecDeque<u32>,
}

/// State of a stream identifier, as RFC 9113 §5.1 sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// Not used yet.
    Idle,
    Open,
    /// The server reset it, and the client may still send frames that it wrote before it knew.
    Ended,
    /// Over, as far as the server remembers.
    Closed,
}

impl Streams {
    pub(crate) fn state(&self, id: u32) -> StreamState {
        match self.place(id) {
            Ok(_) => StreamState::Open,
            // Even identifiers are for streams that a server opens, and this one opens none.
            Err(_) if id > self.last || id.is_multiple_of(2) => StreamState::Idle,
            Err(_) if self.ended.contains(&id) => StreamState::Ended,
            Err(_) => StreamState::Closed,
        }
    }

    pub(crate) fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id).ok()?;
        Some(&mut self.open[place])
    }

    /// Records that the client has used `id`. The caller has checked that it is idle.
    pub(crate) fn mark_used(&mut self, id: u32) {
        self.last = id;
    }

    pub(crate) fn insert(&mut self, stream: Stream) {
        debug_assert!(stream.id == self.last, "marked as used");
        self.open.push(stream);
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Stream> {
        let place = self.place(id).ok()?;
        let stream = self.open.remove(place);
        if self.open.is_empty() {
            // Frees the list, so that the connection is as small as one that has never had a stream.
            self.open = Vec::new();
        }
        Some(stream)
    }

    /// Records that the server reset `id`: frames that are under way are ignored.
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

    /// Bytes of memory that the lists take.
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

/// Reset streams to remember: as many as most clients have open at once.
const ENDED_KEPT: usize = 128;
