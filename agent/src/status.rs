//! What the agent says of itself to whoever asks: one value, written by those who know and read by all.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

/// The published value.
#[derive(Debug)]
pub(crate) struct Status {
    started: Instant,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    last_sync: Option<SystemTime>,
    chain: Vec<Bytes>,
}

impl Status {
    /// Of an agent that starts now.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), told: Mutex::default() }
    }

    /// Since the start, in whole seconds.
    pub(crate) fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// The last sync that succeeded; `None` before the first.
    pub(crate) fn last_sync(&self) -> Option<SystemTime> {
        self.told().last_sync
    }

    /// The agent's own certificate and those that it was signed by, in DER; empty before attestation.
    pub(crate) fn chain(&self) -> Vec<Bytes> {
        self.told().chain.clone()
    }

    /// A sync has succeeded.
    pub(crate) fn synced(&self) {
        self.told().last_sync = Some(SystemTime::now());
    }

    /// The agent has another certificate.
    pub(crate) fn certified(&self, chain: &[Bytes]) {
        self.told().chain = chain.to_vec();
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
