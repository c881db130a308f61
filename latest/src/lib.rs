//! A channel that holds the newest value and wakes its listeners. A slow listener sees the latest value, never a
//! queue of old ones.
//!
//! tokio's `watch` does the same, but each of its receivers waits in a future of its own, which must be boxed where
//! it is polled by hand. A rotation wakes every stream of a node, and most of its cost is memory that is not in the
//! CPU's caches.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

/// The sending end. Dropping it ends the channel: each listener is woken, and after the newest value sees the end.
#[derive(Debug)]
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving end of one listener. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Updates<T> {
    shared: Arc<Shared<T>>,
    /// Version of the value that this listener took last; 0 before the first.
    seen: u64,
    /// Index of this listener in [`State::listeners`].
    slot: usize,
}

/// The error of [`Updates::changed`]: the publisher was dropped, and no newer value will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there will be no more updates")]
pub struct Ended;

/// Wakers are woken and dropped only while it is unlocked: dropping the last waker of a task may drop a listener
/// here.
#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    latest: Arc<T>,
    /// Begins with 1, so that a listener at 0 has seen nothing.
    version: u64,
    ended: bool,
    /// Wakers of the listeners that wait. Unused slots are listed in `free`.
    listeners: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl<T> Publisher<T> {
    /// A channel whose first value is `first`.
    #[must_use]
    pub fn new(first: Arc<T>) -> Self {
        let (listeners, free) = (Vec::new(), Vec::new());
        let state = State { latest: first, version: 1, ended: false, listeners, free };
        Self { shared: Arc::new(Shared { state: Mutex::new(state) }) }
    }

    /// Adds a listener. The present value counts as new for it.
    #[must_use]
    pub fn subscribe(&self) -> Updates<T> {
        let mut state = self.shared.state();
        let slot = state.free.pop().unwrap_or_else(|| {
            state.listeners.push(None);
            state.listeners.len() - 1
        });
        drop(state);
        Updates { shared: Arc::clone(&self.shared), seen: 0, slot }
    }

    /// Replaces the value and wakes every listener.
    pub fn publish(&self, update: Arc<T>) {
        self.shared.change(|state| {
            state.version += 1;
            state.latest = update;
        });
    }

    /// Whether there are listeners.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        let state = self.shared.state();
        state.free.len() < state.listeners.len()
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
    }
}

impl<T> Updates<T> {
    /// Returns the newest value and marks it as seen by this listener.
    #[must_use]
    pub fn latest(&mut self) -> Arc<T> {
        let state = self.shared.state();
        self.seen = state.version;
        Arc::clone(&state.latest)
    }

    /// The newest value, as soon as this listener has not seen it; `None` when the publisher is gone.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<T>>> {
        Poll::Ready(ready!(self.poll_changed(cx)).ok().map(|()| self.latest()))
    }

    /// Waits for a value that this listener has not seen; [`Updates::latest`] returns it.
    ///
    /// # Errors
    /// [`Ended`], when the publisher is gone and its last value was seen.
    pub async fn changed(&mut self) -> Result<(), Ended> {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut state = self.shared.state();
        if self.seen != state.version {
            return Poll::Ready(Ok(()));
        }
        if state.ended {
            return Poll::Ready(Err(Ended));
        }
        let listener = &mut state.listeners[self.slot];
        if !listener.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let before = listener.replace(cx.waker().clone());
            drop(state);
            drop(before);
        }
        Poll::Pending
    }
}

impl<T> Drop for Updates<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let waker = state.listeners[self.slot].take();
        state.free.push(self.slot);
        if state.free.len() == state.listeners.len() {
            // Frees the lists, so that a publisher without listeners is as small as a new one.
            (state.listeners, state.free) = (Vec::new(), Vec::new());
        }
        drop(state);
        drop(waker);
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes all listeners that wait.
    fn change(&self, change: impl FnOnce(&mut State<T>)) {
        let mut state = self.state();
        change(&mut state);
        let waiting: Vec<Waker> = state.listeners.iter_mut().filter_map(Option::take).collect();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn update() -> Arc<u8> {
        Arc::new(0)
    }

    #[test]
    fn the_latest_is_heard_once() {
        let first = update();
        let publisher = Publisher::new(Arc::clone(&first));
        let mut updates = publisher.subscribe();
        let count = Arc::<Count>::default();
        let waker = Arc::clone(&count).into();
        let mut cx = Context::from_waker(&waker);
        let mut heard = || match updates.poll_next(&mut cx) {
            Poll::Ready(update) => Some(update.expect("not over")),
            Poll::Pending => None,
        };
        assert!(heard().is_some_and(|heard| Arc::ptr_eq(&heard, &first)));
        assert!(heard().is_none() && heard().is_none());
        publisher.publish(update());
        let last = update();
        publisher.publish(Arc::clone(&last));
        assert_eq!(
            count.0.load(Ordering::Relaxed),
            1,
            "one that was woken and did not look is not woken again"
        );
        assert!(heard().is_some_and(|heard| Arc::ptr_eq(&heard, &last)));
        assert!(heard().is_none());
        publisher.publish(update());
        drop(publisher);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        assert!(heard().is_some(), "the last is heard before the end");
        assert!(matches!(updates.poll_next(&mut cx), Poll::Ready(None)));
        assert_eq!(*updates.latest(), 0);
    }

    #[test]
    fn listeners_come_and_go() {
        let publisher = Publisher::new(update());
        assert!(!publisher.has_listeners());
        let counts = [(); 3].map(|()| Arc::<Count>::default());
        let mut all = counts.each_ref().map(|_| publisher.subscribe());
        for (updates, count) in all.iter_mut().zip(&counts) {
            let waker = Arc::clone(count).into();
            assert!(updates.poll_next(&mut Context::from_waker(&waker)).is_ready());
            assert!(updates.poll_next(&mut Context::from_waker(&waker)).is_pending());
        }
        let [first, second, third] = all;
        drop(second);
        // It gets the slot of the dropped listener, but not its waker.
        let mut fourth = publisher.subscribe();
        publisher.publish(update());
        assert_eq!(counts.each_ref().map(|count| count.0.load(Ordering::Relaxed)), [1, 0, 1]);
        assert!(fourth.poll_next(&mut Context::from_waker(Waker::noop())).is_ready());
        drop((first, third));
        assert!(publisher.has_listeners());
        drop(fourth);
        assert!(!publisher.has_listeners());
        let state = publisher.shared.state();
        assert_eq!((state.listeners.capacity(), state.free.capacity()), (0, 0));
    }

    /// Like a task that is itself a listener and is dropped with its last waker.
    struct Task(#[expect(dead_code, reason = "held")] Updates<u8>);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_waker_that_holds_a_listener_goes_at_any_time() {
        let publisher = Publisher::new(update());
        let wait = |updates: &mut Updates<u8>| {
            let waker = Arc::new(Task(publisher.subscribe())).into();
            while updates.poll_next(&mut Context::from_waker(&waker)).is_ready() {}
        };
        let mut updates = publisher.subscribe();
        wait(&mut updates);
        wait(&mut updates);
        publisher.publish(update());
        wait(&mut updates);
        drop(updates);
        assert!(!publisher.has_listeners());
    }
}
