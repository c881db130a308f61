//! The one door. Every call on the public socket passes here once, whatever its API: the agent is ready, the caller is
//! attested, still alive and still who connected; then it may listen.

mod proof;
mod rates;
pub(crate) mod shares;

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use attestors::workload::{self, Attestor};
use budget::Refused;
use config::RateLimits;
use identity::{Selectors, WorkloadUpdate};
use latest::Updates;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, error};
use transport::{Peer, Process};

pub use self::proof::{Anonymous, Caller, Delegate};
pub use self::rates::Rate;
use self::rates::Rates;
use crate::manager::{Manager, Proof};

/// The door.
#[derive(Debug)]
pub struct Admission {
    attestors: Vec<Attestor>,
    manager: watch::Receiver<Option<Manager>>,
    rates: Rates,
    proc: PathBuf,
    /// Processes for which the server was asked for changes, because they matched nothing or asked for a name that nothing
    /// granted; with the hashes of those names.
    strangers: Mutex<HashMap<(i32, u64), HashSet<u64>>>,
    hasher: RandomState,
    no_news: watch::Sender<u64>,
}

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Not attested to the server yet, or no entries yet.
    #[error("agent is starting: it has not synchronized with the SPIRE server yet")]
    Starting,
    /// All attestors failed, or the process is gone.
    #[error("workload attestation failed")]
    Attestation,
    /// The agent is stopping.
    #[error("agent is shutting down")]
    Stopped,
    /// The caller, or its group, holds as much as it may.
    #[error(transparent)]
    NoRoom(Refused),
    /// Processes with these selectors call more often than `experimental { ratelimit { } }` allows.
    #[error("rate limit exceeded for {0}")]
    TooOften(Rate),
}

/// How long a call waits while the agent is starting.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// As long as it takes: an error would start Envoy's backoff.
    Endless,
    /// This long, then [`Denied::Starting`].
    Limited(Duration),
}

/// Why a caller of the admin socket may not ask for others' identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDelegate {
    /// No entry matches it.
    #[error("no identity issued")]
    NoIdentity,
    /// None of its SPIFFE IDs is among `authorized_delegates`.
    #[error("caller not configured as an authorized delegate")]
    NotListed,
}

impl Admission {
    /// A door with these attestors; `manager` appears when the agent is ready.
    #[must_use]
    pub fn new(
        attestors: Vec<Attestor>,
        manager: watch::Receiver<Option<Manager>>,
        rates: RateLimits,
        proc: PathBuf,
    ) -> Self {
        Self {
            attestors,
            manager,
            rates: Rates::new(rates),
            proc,
            strangers: Mutex::default(),
            hasher: RandomState::new(),
            no_news: watch::Sender::new(0),
        }
    }

    /// Lets anybody in, for what asks for no more.
    #[must_use]
    pub fn anyone(&self) -> Anonymous {
        Anonymous
    }

    /// Attests who is on the other end of a connection, and counts the call where it has a limit.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn caller(
        &self,
        peer: Arc<Peer>,
        patience: Patience,
        rate: Option<Rate>,
    ) -> Result<Caller, Denied> {
        self.ready(patience).await?;
        let selectors = self.attest(&peer).await?;
        let caller = Caller { peer, selectors };
        match rate {
            Some(rate) if !self.is_within(rate, &caller) => Err(Denied::TooOften(rate)),
            _ => Ok(caller),
        }
    }

    /// Whether a call keeps to its limit. The agent's own calls have none.
    fn is_within(&self, rate: Rate, caller: &Caller) -> bool {
        let ours = u32::try_from(caller.peer.process.pid) == Ok(std::process::id());
        ours || self.rates.admit(rate, &caller.selectors)
    }

    /// Listens for what a caller may have, now and later. Where that is nothing yet, the server is asked for changes.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn subscribe(&self, caller: &Caller) -> Result<Updates<WorkloadUpdate>, Denied> {
        let (peer, manager) = (&caller.peer, self.ready(Patience::Limited(Duration::ZERO)).await?);
        let matched = manager.snapshot().matching(&caller.selectors);
        if matched.is_empty() && self.is_new(&peer.process, std::iter::empty()) {
            debug!(pid = peer.process.pid, "A new process matches no entry; asking the server for changes");
            manager.unmatched();
        }
        listen(&manager, peer, caller, matched).await
    }

    /// Listens for what a delegate may have; it is charged to `caller`, who asks for it.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn subscribe_for(
        &self,
        caller: &Caller,
        delegate: &Delegate,
    ) -> Result<Updates<WorkloadUpdate>, Denied> {
        let manager = self.ready(Patience::Limited(Duration::ZERO)).await?;
        let matched = manager.snapshot().matching(&delegate.selectors);
        listen(&manager, &caller.peer, delegate, matched).await
    }

    /// A stream of a caller waits for these names: their entry may be younger than the last sync.
    pub(crate) fn sought<'a>(&self, peer: &Peer, names: impl Iterator<Item = &'a str>) {
        peer.account().work(shares::SOUGHT);
        if let Some(manager) = self.manager()
            && self.is_new(&peer.process, names)
        {
            debug!(
                pid = peer.process.pid,
                "A process asks for a name that nothing grants; asking the server for changes"
            );
            manager.unmatched();
        }
    }

    /// Whether a caller may ask for others' identities now: one of its own is on the list.
    ///
    /// # Errors
    /// [`NoDelegate`].
    pub fn authorize(&self, caller: &Caller, delegates: &[String]) -> Result<(), NoDelegate> {
        let manager = self.manager.borrow().clone().ok_or(NoDelegate::NoIdentity)?;
        let snapshot = manager.snapshot();
        let matched = snapshot.matching(&caller.selectors);
        if matched.is_empty() {
            return Err(NoDelegate::NoIdentity);
        }
        let listed = snapshot.of(&matched).any(|entry| delegates.contains(&entry.spiffe_id.to_string()));
        if listed { Ok(()) } else { Err(NoDelegate::NotListed) }
    }

    /// What an authorised caller asks for, by the selectors of somebody whom it has attested itself.
    ///
    /// # Errors
    /// [`NoDelegate`].
    pub fn delegate(
        &self,
        caller: &Caller,
        delegates: &[String],
        selectors: Selectors,
    ) -> Result<Delegate, NoDelegate> {
        self.authorize(caller, delegates).map(|()| Delegate { selectors })
    }

    /// The selectors of a process by its pid, attested as if it had called; it is charged to `caller`, who asks for it.
    ///
    /// # Errors
    /// [`Denied::Attestation`] also where there is no such process.
    pub async fn attest_pid(&self, caller: &Caller, pid: i32) -> Result<Selectors, Denied> {
        let peer = &caller.peer;
        let credentials = attestors::proc::read_credentials_of(&self.proc, pid, peer.group()).await;
        let subject = credentials.and_then(|found| peer.on_behalf(pid, found.uid, found.gid));
        match subject {
            Ok(subject) => self.attest(&subject).await,
            Err(reason) => {
                if peer.complain("attestation") {
                    error!(pid, error = %reason, "Workload attestation failed");
                }
                Err(Denied::Attestation)
            }
        }
    }

    /// The manager, when the agent is ready.
    pub(crate) fn manager(&self) -> Option<Manager> {
        self.manager.borrow().clone()
    }

    /// Grows when who was attested before may be found to be more than it was.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        // At most one attestor has any: plugins of one name are not configured twice.
        self.attestors.iter().find_map(Attestor::news).unwrap_or_else(|| self.no_news.subscribe())
    }

    async fn ready(&self, patience: Patience) -> Result<Manager, Denied> {
        let mut manager = self.manager.clone();
        let appears = async {
            let manager = manager.wait_for(Option::is_some).await.map_err(|_| Denied::Stopped)?;
            manager.clone().ok_or(Denied::Starting)
        };
        match patience {
            Patience::Endless => appears.await,
            Patience::Limited(limit) => timeout(limit, appears).await.unwrap_or(Err(Denied::Starting)),
        }
    }

    async fn attest(&self, peer: &Peer) -> Result<Selectors, Denied> {
        let found = workload::attest(&self.attestors, peer).await;
        // Facts were read by pid. They are the caller's only if it still has the credentials that it connected with (a
        // setuid program may run in it by now, and its child may hold the connection), and has not exited meanwhile.
        let same_user = self.has_credentials_of(peer).await;
        if !peer.process.is_alive() || !same_user {
            let reason = if same_user { "the process has exited" } else { "its credentials have changed" };
            if peer.complain("changed") {
                error!(
                    pid = peer.process.pid,
                    reason, "Failed to attest the workload; closing its connection"
                );
            }
            peer.hang_up();
            return Err(Denied::Attestation);
        }
        match found {
            Ok(found) => {
                peer.account().work(shares::ATTESTATION + shares::SELECTOR * found.selectors.len() as u64);
                debug!(pid = peer.process.pid, selectors = ?found.selectors, "PID attested to have selectors");
                Ok(found.selectors)
            }
            Err(reason) => {
                if peer.complain("attestation") {
                    error!(pid = peer.process.pid, error = %reason, "Failed to attest the workload");
                }
                Err(Denied::Attestation)
            }
        }
    }

    async fn has_credentials_of(&self, peer: &Peer) -> bool {
        let (pid, credentials) = (peer.process.pid, (peer.uid, peer.gid));
        attestors::proc::has_credentials(&self.proc, pid, credentials, peer.group()).await
    }

    /// Whether a process is seen for the first time, or asks for one of these names for the first time. One that stays
    /// unregistered and calls again is not new.
    fn is_new<'a>(&self, process: &Process, names: impl Iterator<Item = &'a str>) -> bool {
        let stat = self.proc.join(process.pid.to_string()).join("stat");
        let text = fs::read(stat).unwrap_or_default();
        let started = attestors::proc::start_time(&String::from_utf8_lossy(&text));
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() >= STRANGERS_KEPT {
            strangers.clear();
        }
        let key = (process.pid, started.unwrap_or_default());
        let (mut new, sought) = match strangers.entry(key) {
            Entry::Vacant(place) => (true, place.insert(HashSet::new())),
            Entry::Occupied(place) => (false, place.into_mut()),
        };
        for name in names.take(NAMES_KEPT) {
            // A process that makes up names does not have the server asked without end.
            new |= sought.len() < NAMES_KEPT && sought.insert(self.hasher.hash_one(name));
        }
        new
    }
}

/// What is remembered of whom the identities are for is charged to the connection that listens.
async fn listen(
    manager: &Manager,
    peer: &Peer,
    proof: &impl Proof,
    matched: cache::Matched,
) -> Result<Updates<WorkloadUpdate>, Denied> {
    let charge = peer.account().charge(shares::remembered(proof.selectors())).map_err(Denied::NoRoom)?;
    manager.subscribe(proof, matched, charge).await.map_err(|_| Denied::Stopped)
}

const STRANGERS_KEPT: usize = 2048;
/// Names of one process for which the server is asked.
const NAMES_KEPT: usize = 16;

#[cfg(test)]
mod tests;
