//! Requests and connects, all the time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use harness::Envoy;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What came of the traffic so far.
#[derive(Debug, Default)]
pub struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    connects: AtomicU64,
    refused: AtomicU64,
    /// The first failures, in words.
    words: Mutex<Vec<String>>,
}

/// Sends a request through both Envoys every 100 ms, and connects to the agent's socket every 10 ms. Dropping it ends it.
#[derive(Debug)]
pub struct Traffic([JoinHandle<()>; 2]);

impl Counts {
    /// Requests, failed ones, connects, and refused ones.
    #[must_use]
    pub fn all(&self) -> [u64; 4] {
        [&self.requests, &self.failed, &self.connects, &self.refused]
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// The first failures, in words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failure(&self, count: &AtomicU64, words: String) {
        count.fetch_add(1, Ordering::Relaxed);
        let mut all = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < WORDS {
            all.push(words);
        }
    }
}

impl Traffic {
    /// Starts the traffic to the port of an Envoy and to an agent's socket.
    #[must_use]
    pub fn start(port: u16, socket: PathBuf, counts: &Arc<Counts>) -> Self {
        let requests = Arc::clone(counts);
        let connects = Arc::clone(counts);
        let requesting = tokio::spawn(async move {
            loop {
                match Envoy::get(port).await {
                    Ok((200, _)) => {}
                    Ok((status, body)) => {
                        requests.failure(&requests.failed, format!("status {status}: {body}"));
                    }
                    Err(reason) => requests.failure(&requests.failed, reason),
                }
                requests.requests.fetch_add(1, Ordering::Relaxed);
                sleep(BETWEEN_REQUESTS).await;
            }
        });
        let connecting = tokio::spawn(async move {
            loop {
                if let Err(reason) = UnixStream::connect(&socket).await {
                    connects.failure(&connects.refused, format!("connect: {reason}"));
                }
                connects.connects.fetch_add(1, Ordering::Relaxed);
                sleep(BETWEEN_CONNECTS).await;
            }
        });
        Self([requesting, connecting])
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

const BETWEEN_REQUESTS: Duration = Duration::from_millis(100);
const BETWEEN_CONNECTS: Duration = Duration::from_millis(10);
/// The most failures that are told in words.
const WORDS: usize = 10;
