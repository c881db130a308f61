//! Which streams of a connection are to be polled. Each has a waker of its own, so that news for one of a thousand is not
//! a thousand polls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

use futures_util::task::AtomicWaker;

/// A connection's, shared with its streams.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    streams: Mutex<Vec<u32>>,
    pub(crate) task: AtomicWaker,
}

impl Woken {
    /// Moves the streams that were woken since the last time to the end of `into`.
    pub(crate) fn drain(&self, into: &mut Vec<u32>) {
        into.append(&mut self.streams.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Those that were drained and not polled.
    pub(crate) fn put_back(&self, streams: &[u32]) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(streams);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// What a stream is woken by.
#[derive(Debug)]
pub(crate) struct StreamWaker {
    stream: u32,
    /// Among the woken already.
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl StreamWaker {
    pub(crate) fn new(stream: u32, woken: &Arc<Woken>) -> Self {
        Self { stream, queued: AtomicBool::new(false), woken: Arc::clone(woken) }
    }

    /// To be polled when the connection comes to it, which is soon: it is the one that says so.
    pub(crate) fn queue(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.woken.streams.lock().unwrap_or_else(PoisonError::into_inner).push(self.stream);
        }
    }

    /// Before it is polled: a wake from now on counts. A swap, as a wake that found it queued must be seen by that poll.
    pub(crate) fn begin(&self) {
        self.queued.swap(false, Ordering::AcqRel);
    }
}

impl Wake for StreamWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.queue();
        self.woken.task.wake();
    }
}
