//! Decides when to ask the kubelet: one request at a time, shared by all attestations that wait for it.
//!
//! - A list answers only while its request began at most `poll_retry_interval` ago. A request that is under way
//!   answers all who have come to wait for it.
//! - Each outcome, good or bad, has a number; a caller that has seen one waits for a later one. A failure is passed
//!   to all who wait, and is not kept.
//! - A request runs on when those who wanted it are gone; the next ones profit from it.
//! - There are never more than [`REQUESTS_PER_SECOND`], however many callers there are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::kubelet::{Kubelet, KubeletError, KubeletOptions};
use super::pods::Pods;
use crate::lock;

/// The kubelet's pod lists, requested when needed.
#[derive(Debug)]
pub(super) struct Lists {
    shared: Arc<Shared>,
}

/// The outcome of one request.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// The number of the request, from 1; 0 before the first.
    pub(super) number: u64,
    /// The list, or why there is none.
    pub(super) result: Result<Arc<Pods>, Arc<KubeletError>>,
    /// How long the request took.
    pub(super) took: Duration,
    began: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    /// How long a list answers after its request began.
    interval: Duration,
    kubelet: tokio::sync::Mutex<Kubelet>,
    requests: Mutex<Requests>,
    outcome: watch::Sender<Outcome>,
    /// The latest good list, also after a failure. The next list shares its unchanged pods.
    kept: Mutex<Arc<Pods>>,
    /// A counter that grows when a list differs from the one before.
    news: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Requests {
    in_flight: bool,
    /// When the latest requests began, at most [`REQUESTS_PER_SECOND`] of them.
    began: VecDeque<Instant>,
}

impl Lists {
    pub(super) fn new(options: KubeletOptions, interval: Duration, news: watch::Sender<u64>) -> Self {
        let none = Outcome { number: 0, result: Ok(Arc::default()), took: Duration::ZERO, began: None };
        Self {
            shared: Arc::new(Shared {
                interval,
                kubelet: tokio::sync::Mutex::new(Kubelet::new(options)),
                requests: Mutex::default(),
                outcome: watch::Sender::new(none),
                kept: Mutex::default(),
                news,
            }),
        }
    }

    /// Returns the first outcome after `seen`: a fresh list if there is one; else the outcome of another caller's
    /// request within `patience`; else that of a new request.
    pub(super) async fn after(&self, seen: u64, patience: Duration) -> Outcome {
        let mut outcomes = self.shared.outcome.subscribe();
        let latest = outcomes.borrow_and_update().clone();
        if latest.number > seen && latest.result.is_ok() && self.shared.is_fresh(&latest) {
            return latest;
        }
        let mut later = outcomes.clone();
        let another = later.wait_for(|outcome| outcome.number > latest.number);
        if let Ok(Ok(outcome)) = timeout(patience, another).await {
            return outcome.clone();
        }
        Arc::clone(&self.shared).request();
        let outcome = outcomes.wait_for(|outcome| outcome.number > latest.number).await;
        outcome.expect("the sender is in self").clone()
    }
}

impl Shared {
    fn is_fresh(&self, outcome: &Outcome) -> bool {
        outcome.began.is_some_and(|began| began.elapsed() <= self.interval)
    }

    /// Begins a request, unless one is under way.
    fn request(self: Arc<Self>) {
        let mut requests = lock(&self.requests);
        if std::mem::replace(&mut requests.in_flight, true) {
            return;
        }
        let begin = requests.next_start(Instant::now());
        drop(requests);
        tokio::spawn(async move {
            sleep_until(begin).await;
            let before = Arc::clone(&lock(&self.kept));
            let shared = Arc::clone(&self);
            let share = Arc::clone(&before);
            // A task of its own: if it panics, the next request can still be made.
            let work = tokio::spawn(async move { shared.kubelet.lock().await.pods(&share).await });
            let result = work.await.unwrap_or(Err(KubeletError::Interrupted));
            self.done(begin, &before, result);
        });
    }

    fn done(&self, began: Instant, before: &Pods, result: Result<Pods, KubeletError>) {
        let result = result.map(Arc::new).map_err(Arc::new);
        let changed = result.as_ref().is_ok_and(|pods| !pods.same_as(before));
        if let (Ok(pods), true) = (&result, changed) {
            *lock(&self.kept) = Arc::clone(pods);
        }
        let mut requests = lock(&self.requests);
        requests.in_flight = false;
        self.outcome.send_modify(|outcome| {
            let (number, took) = (outcome.number + 1, began.elapsed());
            *outcome = Outcome { number, result, took, began: Some(began) };
        });
        drop(requests);
        // After the outcome is published, so that a woken caller finds it.
        if changed {
            self.news.send_modify(|version| *version += 1);
        }
    }
}

impl Requests {
    /// The first time, not before `now`, at which one more request keeps the rate.
    fn next_start(&mut self, now: Instant) -> Instant {
        let begin = match self.began.front() {
            Some(oldest) if self.began.len() == REQUESTS_PER_SECOND => now.max(*oldest + ONE_SECOND),
            _ => now,
        };
        if self.began.len() == REQUESTS_PER_SECOND {
            self.began.pop_front();
        }
        self.began.push_back(begin);
        begin
    }
}

const REQUESTS_PER_SECOND: usize = 10;
const ONE_SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_ten_a_second() {
        let mut requests = Requests::default();
        let now = Instant::now();
        let mut starts: Vec<Instant> = Vec::new();
        for i in 0..100 {
            // Requested every 30 ms, or as soon as the request before has begun.
            let asked = starts.last().map_or(now, |last| (*last).max(now + Duration::from_millis(30) * i));
            starts.push(requests.next_start(asked));
        }
        for window in starts.windows(REQUESTS_PER_SECOND + 1) {
            assert!(window[REQUESTS_PER_SECOND] - window[0] >= ONE_SECOND);
        }
    }
}
