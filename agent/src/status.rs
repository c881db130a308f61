//! Facts about the agent that the admin API reports. The life with the server writes them, and the Debug service reads
//! them.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::Instant;

/// The agent's uptime, last sync and own certificate chain.
#[derive(Debug)]
pub(crate) struct Status {
    started: Instant,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    last_sync: Option<SystemTime>,
    chain: Vec<Bytes>,
}

impl Status {
    /// The status of an agent that starts now.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), facts: Mutex::default() }
    }

    /// Whole seconds since the start.
    pub(crate) fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// The time of the last call of [`Self::synced`]; `None` before the first.
    pub(crate) fn last_sync(&self) -> Option<SystemTime> {
        self.lock().last_sync
    }

    /// The certificate chain of the agent's own SVID, DER, leaf first; empty before attestation.
    pub(crate) fn chain(&self) -> Vec<Bytes> {
        self.lock().chain.clone()
    }

    /// Notes that the server has answered now. The life calls it after each attestation.
    pub(crate) fn synced(&self) {
        self.lock().last_sync = Some(SystemTime::now());
    }

    /// Notes the certificate chain of the agent's new SVID.
    pub(crate) fn certified(&self, chain: &[Bytes]) {
        self.lock().chain = chain.to_vec();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
