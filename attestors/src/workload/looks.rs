//! Looks that several callers share: while one asks a daemon about something, others who want to know the same wait for
//! that answer, and it holds for a second. So a process that calls again and again cannot make a daemon work more than once
//! a second.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;

use crate::lock;

/// Answers by what was asked. A failure is passed on to all who wait for it, and is not kept.
pub(super) struct Looks<K, T, E>(Mutex<HashMap<K, Look<T, E>>>);

/// An answer, as all who wait for it get it.
pub(super) type Answer<T, E> = Result<Arc<T>, Arc<E>>;

struct Look<T, E> {
    began: Instant,
    state: State<T, E>,
}

enum State<T, E> {
    /// The look goes on as long as somebody waits for it. When all have gone, it is dropped.
    Running(WeakShared<BoxFuture<'static, Answer<T, E>>>),
    Done(Arc<T>),
}

impl<K: Clone + Eq + Hash, T: Send + Sync + 'static, E: Send + Sync + 'static> Looks<K, T, E> {
    /// Returns an answer that is younger than a second, or that of a look that is under way, or begins `look`.
    pub(super) async fn get(
        &self,
        key: K,
        look: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Answer<T, E> {
        let began = Instant::now();
        let (running, own) = match self.join(&key) {
            Some(Joined::Answered(answer)) => return Ok(answer),
            Some(Joined::Waits(running)) => (running, false),
            None => (self.begin(key.clone(), began, look), true),
        };
        let answer = running.await;
        if own {
            self.done(key, began, answer.as_ref().ok());
        }
        answer
    }

    fn join(&self, key: &K) -> Option<Joined<T, E>> {
        let looks = lock(&self.0);
        let look = looks.get(key)?;
        match &look.state {
            State::Done(answer) => look.is_fresh().then(|| Joined::Answered(Arc::clone(answer))),
            State::Running(running) => {
                let running = running.upgrade()?;
                match running.peek() {
                    None => Some(Joined::Waits(running)),
                    // It has ended, but who began it does not know yet. A failure is not kept.
                    Some(answer) => answer.as_ref().ok().map(Arc::clone).map(Joined::Answered),
                }
            }
        }
    }

    fn begin(
        &self,
        key: K,
        began: Instant,
        look: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Shared<BoxFuture<'static, Answer<T, E>>> {
        let running = look.map(|answer| answer.map(Arc::new).map_err(Arc::new)).boxed().shared();
        let mut looks = lock(&self.0);
        looks.retain(|_, look| look.is_of_use());
        if let Some(weak) = running.downgrade() {
            looks.insert(key, Look { began, state: State::Running(weak) });
        }
        running
    }

    fn done(&self, key: K, began: Instant, answer: Option<&Arc<T>>) {
        let mut looks = lock(&self.0);
        // After a failure another one may have begun already.
        if looks.get(&key).is_some_and(|look| look.began > began) {
            return;
        }
        looks.remove(&key);
        if let Some(answer) = answer
            && looks.values().filter(|look| matches!(look.state, State::Done(_))).count() < KEPT
        {
            looks.insert(key, Look { began, state: State::Done(Arc::clone(answer)) });
        }
    }
}

/// What somebody who does not look finds.
enum Joined<T, E> {
    Answered(Arc<T>),
    Waits(Shared<BoxFuture<'static, Answer<T, E>>>),
}

impl<T, E> Look<T, E> {
    fn is_fresh(&self) -> bool {
        self.began.elapsed() < HOLDS
    }

    fn is_of_use(&self) -> bool {
        match &self.state {
            State::Done(_) => self.is_fresh(),
            State::Running(running) => running.upgrade().is_some(),
        }
    }
}

impl<K, T, E> Default for Looks<K, T, E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, T, E> fmt::Debug for Looks<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Looks(…)")
    }
}

/// How long an answer holds after its look began.
const HOLDS: Duration = Duration::from_secs(1);
/// The most answers that are kept.
const KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    /// A look that takes a tenth of a second, and answers with its number, or fails with it if it is odd.
    #[derive(Default)]
    struct Daemon {
        looks: Looks<&'static str, usize, usize>,
        begun: Arc<AtomicUsize>,
    }

    impl Daemon {
        async fn ask(&self, key: &'static str) -> Result<usize, usize> {
            let begun = Arc::clone(&self.begun);
            let look = async move {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(100)).await;
                if number.is_multiple_of(2) { Ok(number) } else { Err(number) }
            };
            self.looks.get(key, look).await.map(|number| *number).map_err(|number| *number)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_meanwhile_share_one_look_which_holds_for_a_second() {
        let daemon = Daemon::default();
        let answers = join_all((0..9).map(|_| daemon.ask("a"))).await;
        assert_eq!(answers, [Ok(0); 9]);
        advance(Duration::from_millis(899)).await;
        assert_eq!(daemon.ask("a").await, Ok(0));
        advance(Duration::from_millis(1)).await;
        assert_eq!(join_all([daemon.ask("a"), daemon.ask("a")]).await, [Err(1); 2]);
        assert_eq!(daemon.ask("a").await, Ok(2), "a failure is not kept");
        assert_eq!(daemon.ask("b").await, Err(3), "another question");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_not_shared_with_those_who_come_after_it() {
        let daemon = Daemon { begun: Arc::new(AtomicUsize::new(1)), ..Daemon::default() };
        let mut began = Box::pin(daemon.ask("a"));
        assert!(futures_util::poll!(&mut began).is_pending());
        // This one hears of the failure before the one who began the look.
        assert_eq!(daemon.ask("a").await, Err(1));
        assert_eq!(daemon.ask("a").await, Ok(2));
        assert_eq!(began.await, Err(1));
        assert_eq!(daemon.ask("a").await, Ok(2), "the newer answer is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_lives_as_long_as_somebody_waits() {
        let daemon = Daemon::default();
        // The one who began it goes away.
        let both = async {
            tokio::select! {
                _ = daemon.ask("a") => unreachable!("it takes longer"),
                () = sleep(Duration::from_millis(50)) => {}
            }
        };
        let ((), other) = tokio::join!(both, daemon.ask("a"));
        assert_eq!((other, daemon.begun.load(Ordering::SeqCst)), (Ok(0), 1));
        tokio::select! {
            _ = daemon.ask("b") => unreachable!("it takes longer"),
            () = sleep(Duration::from_millis(50)) => {}
        }
        // Nobody waits any more, so the next one begins anew.
        assert_eq!(daemon.ask("b").await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded() {
        let daemon = Looks::<usize, (), ()>::default();
        for key in 0..1000 {
            daemon.get(key, async { Ok(()) }).await.unwrap();
        }
        assert!(lock(&daemon.0).len() <= KEPT + 1);
    }
}
