//! How a caller hears what it may have: always the latest, never a queue of them.
//!
//! Not tokio's `watch`, whose receivers wait each in a future of its own, boxed where it is polled by hand. A rotation wakes
//! every stream of a node, and what that costs is mostly memory that has gone cold.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use crate::WorkloadUpdate;

/// Tells all that listen. When it is dropped, they hear the end.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
}

/// What one caller may have, now and later.
#[derive(Debug)]
pub struct Updates {
    shared: Arc<Shared>,
    /// The version that was heard last.
    heard: u64,
    /// Its own among [`State::listeners`].
    slot: usize,
}

/// There is nobody any more who publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there will be no more updates")]
pub struct Ended;

/// Wakers are woken and dropped when it is not locked: a task that goes with its last waker may listen here too.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    latest: Arc<WorkloadUpdate>,
    /// From 1, so that 0 has heard nothing.
    version: u64,
    ended: bool,
    /// Whom to wake. Those that nobody has are in `free`.
    listeners: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Publisher {
    /// Publishes `first`.
    #[must_use]
    pub fn new(first: Arc<WorkloadUpdate>) -> Self {
        let (listeners, free) = (Vec::new(), Vec::new());
        let state = State { latest: first, version: 1, ended: false, listeners, free };
        Self { shared: Arc::new(Shared { state: Mutex::new(state) }) }
    }

    /// One listener more, which has heard nothing yet.
    #[must_use]
    pub fn subscribe(&self) -> Updates {
        let mut state = self.shared.state();
        let slot = state.free.pop().unwrap_or_else(|| {
            state.listeners.push(None);
            state.listeners.len() - 1
        });
        drop(state);
        Updates { shared: Arc::clone(&self.shared), heard: 0, slot }
    }

    /// Replaces what there was.
    pub fn publish(&self, update: Arc<WorkloadUpdate>) {
        self.shared.change(|state| {
            state.version += 1;
            state.latest = update;
        });
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        let state = self.shared.state();
        state.free.len() < state.listeners.len()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.shared.change(|state| state.ended = true);
    }
}

impl Updates {
    /// What there is, which then has been heard.
    #[must_use]
    pub fn latest(&mut self) -> Arc<WorkloadUpdate> {
        let state = self.shared.state();
        self.heard = state.version;
        Arc::clone(&state.latest)
    }

    /// What has not been heard; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<WorkloadUpdate>>> {
        Poll::Ready(ready!(self.poll_changed(cx)).ok().map(|()| self.latest()))
    }

    /// Waits for what has not been heard; [`Updates::latest`] has it.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn changed(&mut self) -> Result<(), Ended> {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut state = self.shared.state();
        if self.heard != state.version {
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

impl Drop for Updates {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let waker = state.listeners[self.slot].take();
        state.free.push(self.slot);
        if state.free.len() == state.listeners.len() {
            // As one that nobody has listened to.
            (state.listeners, state.free) = (Vec::new(), Vec::new());
        }
        drop(state);
        drop(waker);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes all.
    fn change(&self, change: impl FnOnce(&mut State)) {
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
    use crate::{Bundle, Bundles, TrustDomain};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn update() -> Arc<WorkloadUpdate> {
        let domain = TrustDomain::parse("td").unwrap();
        Arc::new(WorkloadUpdate::new(vec![], Arc::new(Bundle::of_x509(domain, [])), Bundles::new()))
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
        assert!(!updates.latest().bundle.trust_domain.name().is_empty());
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
        // In the slot of the one that has gone, and not woken by its waker.
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

    /// As a task that listens itself, and is gone with its last waker.
    struct Task(#[expect(dead_code, reason = "held")] Updates);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_waker_that_holds_a_listener_goes_at_any_time() {
        let publisher = Publisher::new(update());
        let wait = |updates: &mut Updates| {
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
