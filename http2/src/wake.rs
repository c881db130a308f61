//! Which streams of a connection must be polled. Each stream has a waker of its own, so that news for one of a
//! thousand does not cost a thousand polls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

use futures_util::task::AtomicWaker;

/// The woken streams of a connection, shared with all its streams' wakers.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    streams: Mutex<Vec<u32>>,
    pub(crate) task: AtomicWaker,
}

impl Woken {
    /// Moves the streams that were woken since the last call to the end of `into`.
    pub(crate) fn drain(&self, into: &mut Vec<u32>) {
        into.append(&mut self.streams());
    }

    /// Puts back streams that were drained and not polled.
    pub(crate) fn put_back(&self, streams: &[u32]) {
        self.streams().extend_from_slice(streams);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams().is_empty()
    }

    /// No code panics while it holds the lock, so that a poisoned list is sound.
    fn streams(&self) -> MutexGuard<'_, Vec<u32>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waker of one stream.
#[derive(Debug)]
pub(crate) struct StreamWaker {
    stream: u32,
    /// The stream is in `woken` already.
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl StreamWaker {
    pub(crate) fn new(stream: u32, woken: &Arc<Woken>) -> Self {
        Self { stream, queued: AtomicBool::new(false), woken: Arc::clone(woken) }
    }

    /// Queues the stream without a wake of the connection's task: the connection itself calls this, and polls streams
    /// next.
    pub(crate) fn queue(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.woken.streams().push(self.stream);
        }
    }

    /// Called before the stream is polled: later wakes queue it again. It is a swap and not a store, because this
    /// poll must see everything that happened before a wake that found the stream queued.
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
