//! The calls: twenty a second through the whole chain, alternately to the database and to the cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::http;

/// The task that makes the calls. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Traffic {
    tally: Arc<Mutex<Tally>>,
    task: JoinHandle<()>,
}

/// The results of the calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// The last failure.
    pub(crate) failure: Option<String>,
}

impl Traffic {
    /// Starts calling the frontend's listener.
    pub(crate) fn start(port: u16) -> Self {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let task = tokio::spawn(call_on(port, Arc::clone(&tally)));
        Self { tally, task }
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call_on(port: u16, tally: Arc<Mutex<Tally>>) {
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for (path, expected) in CALLS.iter().cycle() {
        tick.tick().await;
        let outcome = call(port, path, expected).await;
        let mut tally = lock(&tally);
        match outcome {
            Ok(()) => tally.ok += 1,
            Err(reason) => {
                tally.failed += 1;
                tally.failure = Some(format!("GET {path}: {reason}"));
            }
        }
    }
}

/// Makes one call and checks that the answer is the expected one.
///
/// # Errors
/// A text with the answer or error that came instead.
pub(crate) async fn call(port: u16, path: &str, expected: &str) -> Result<(), String> {
    let answer = http::get(port, path).await.map_err(|reason| reason.to_string())?;
    match (answer.status, answer.body.trim_end()) {
        (200, body) if body == expected => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The paths of the calls, and the workload that answers each.
pub(crate) const CALLS: [(&str, &str); 2] = [("/db", "yelbdb"), ("/cache", "redis")];
/// The time between two calls.
const PERIOD: Duration = Duration::from_millis(50);
