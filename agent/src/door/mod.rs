//! Admission of callers. Every call on either socket that asks for identities passes here, whatever its API. The door
//! checks that the agent is ready, attests the caller, and checks that the process is still alive and has the
//! credentials that it connected with. Only then may the caller subscribe to updates.

mod proof;
mod rates;
pub(crate) mod shares;

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::hash::BuildHasher as _;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use attestors::workload::{self, Attestor, Examined, WorkloadSelectors};
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
use crate::manager::{Granted, Manager, Proof};
use crate::record::Record;
use crate::telemetry::{Metrics, names};

/// Admits callers and makes the proofs that the APIs ask for.
#[derive(Debug)]
pub struct Admission {
    attestors: ArcSwap<Vec<Arc<Attestor>>>,
    manager: watch::Receiver<Option<Manager>>,
    rates: Rates,
    proc: PathBuf,
    /// Processes for which an early sync was requested, by pid and start time, because they matched no entry or asked
    /// for an SDS name that no entry grants. The value holds hashes of those names.
    strangers: Mutex<HashMap<(i32, u64), HashSet<u64>>>,
    hasher: RandomState,
    no_news: watch::Sender<u64>,
    metrics: Metrics,
    record: Record,
}

/// Why a caller is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The agent has not attested itself or has no entries yet.
    #[error("agent is starting: it has not synchronized with the SPIRE server yet")]
    Starting,
    /// All attestors failed, or the process has exited or changed its credentials.
    #[error("workload attestation failed")]
    Attestation,
    /// The agent is stopping.
    #[error("agent is shutting down")]
    Stopped,
    /// The caller or its group has used up its share of the memory budget.
    #[error(transparent)]
    NoRoom(Refused),
    /// Processes with these selectors call more often than `experimental { ratelimit { } }` allows.
    #[error("rate limit exceeded for {0}")]
    TooOften(Rate),
}

/// How long a call waits while the agent is starting.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// Waits without limit, because an error would start Envoy's backoff.
    Endless,
    /// Waits this long, then fails with [`Denied::Starting`].
    Limited(Duration),
}

/// Why a caller of the admin socket may not ask for the identities of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDelegate {
    /// No entry matches the caller, or the agent is not ready.
    #[error("no identity issued")]
    NoIdentity,
    /// None of the caller's SPIFFE IDs is among `authorized_delegates`.
    #[error("caller not configured as an authorized delegate")]
    NotListed,
}

impl Admission {
    /// A door with these attestors. `manager` holds `None` until the agent is ready. `proc` is the folder in which
    /// procfs is mounted.
    #[must_use]
    pub(crate) fn new(
        attestors: Vec<Attestor>,
        manager: watch::Receiver<Option<Manager>>,
        rates: RateLimits,
        proc: PathBuf,
        metrics: Metrics,
        record: Record,
    ) -> Self {
        Self {
            attestors: ArcSwap::from_pointee(attestors.into_iter().map(Arc::new).collect()),
            manager,
            rates: Rates::new(rates),
            proc,
            strangers: Mutex::default(),
            hasher: RandomState::new(),
            no_news: watch::Sender::new(0),
            metrics,
            record,
        }
    }

    /// Where callers are counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where it is recorded what callers were given.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// The proof for methods that anybody may call.
    #[must_use]
    pub fn anyone(&self) -> Anonymous {
        Anonymous
    }

    /// Attests the process on the other end of a connection. Counts the call against `rate`, if the method has a limit.
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
        let WorkloadSelectors { selectors, is_complete, .. } = self.attest(&peer, rate).await?;
        let caller = Caller { peer, selectors, is_complete };
        match rate {
            Some(rate) if !self.is_within(rate, &caller) => {
                self.metrics.add(&names::RATE_LIMITED, &[&rate.to_string()], 1);
                Err(Denied::TooOften(rate))
            }
            _ => Ok(caller),
        }
    }

    /// Counts a call, and tells whether it is within its rate limit. Calls of the agent's own process have none.
    fn is_within(&self, rate: Rate, caller: &Caller) -> bool {
        let ours = u32::try_from(caller.peer.process.pid) == Ok(std::process::id());
        ours || self.rates.admit(rate, &caller.selectors)
    }

    /// Subscribes to the identities of a caller. If it has none yet, the server is asked for changes.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn subscribe(&self, caller: &Caller) -> Result<Updates<WorkloadUpdate>, Denied> {
        let (peer, manager) = (&caller.peer, self.ready(Patience::Limited(Duration::ZERO)).await?);
        let matched = manager.snapshot().matching(&caller.selectors);
        if matched.is_empty() {
            self.unmatched(&manager, peer);
        }
        listen(&manager, peer, caller, matched).await
    }

    /// The entries that a caller matches, and the manager that knows them. If there is none yet, the server is asked for
    /// changes.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) fn granted(&self, caller: &Caller) -> Result<(Manager, Vec<Granted>), Denied> {
        let manager = self.manager().ok_or(Denied::Starting)?;
        let granted = manager.granted(caller);
        if granted.is_empty() {
            self.unmatched(&manager, &caller.peer);
        }
        Ok((manager, granted))
    }

    /// Requests an early sync for a process that is seen for the first time and matches no entry.
    fn unmatched(&self, manager: &Manager, peer: &Peer) {
        if self.is_new(&peer.process, std::iter::empty()) {
            debug!(pid = peer.process.pid, "A new process matches no entry; asking the server for changes");
            manager.unmatched();
        }
    }

    /// Subscribes to the identities of a delegate. The memory is charged to `caller`, which asks for them.
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

    /// Requests an early sync if a stream of this caller waits for names that no entry grants: their entry may be
    /// younger than the last sync. A process causes one request for each name, and at most [`NAMES_KEPT`].
    pub(crate) fn sought<'a>(
        &self,
        peer: &Peer,
        method: &'static str,
        names: impl Iterator<Item = &'a str> + Clone,
    ) {
        peer.account().work(shares::SOUGHT);
        self.record.held(peer, method, names.clone());
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

    /// Checks that one of the caller's present SPIFFE IDs is among `delegates`.
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

    /// The proof for an authorised caller that asks for the identities of these selectors. The caller vouches for them:
    /// it has attested their owner itself.
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

    /// Attests the process with this pid as if it had called, and returns its selectors. The memory is charged to
    /// `caller`.
    ///
    /// # Errors
    /// [`Denied::Attestation`], also when there is no such process.
    pub async fn attest_pid(&self, caller: &Caller, pid: i32) -> Result<Selectors, Denied> {
        let peer = &caller.peer;
        let credentials = attestors::proc::read_credentials_of(&self.proc, pid, peer.group()).await;
        let subject = credentials.and_then(|found| peer.on_behalf(pid, found.uid, found.gid));
        match subject {
            Ok(subject) => Ok(self.attest(&subject, None).await?.selectors),
            Err(reason) => {
                if peer.complain("attestation") {
                    error!(pid, error = %reason, "Workload attestation failed");
                }
                Err(Denied::Attestation)
            }
        }
    }

    /// Puts an attestor with another configuration in the place of the one with its name. Attestations that are under way
    /// end with the old one.
    pub(crate) fn replace(&self, attestor: Attestor) {
        let attestor = Arc::new(attestor);
        self.attestors.rcu(|attestors| {
            let mut attestors = Vec::clone(attestors);
            if let Some(place) = attestors.iter().position(|held| held.name() == attestor.name()) {
                attestors[place] = Arc::clone(&attestor);
            }
            attestors
        });
    }

    /// Asks each attestor about a process, for an operator who asks on the connection `asker`. Nothing is remembered and
    /// nothing is logged.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) async fn examine(&self, asker: &Peer, pid: i32) -> io::Result<Vec<Examined>> {
        let found = attestors::proc::read_credentials_of(&self.proc, pid, asker.group()).await?;
        let subject = asker.on_behalf(pid, found.uid, found.gid)?;
        let examined = workload::examine(&self.attestors.load_full(), &subject, EXAMINATION).await;
        if subject.process.is_alive() { Ok(examined) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// The manager; `None` until the agent is ready.
    pub(crate) fn manager(&self) -> Option<Manager> {
        self.manager.borrow().clone()
    }

    /// A counter that grows when a new attestation of a process may find more selectors than before.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        // At most one attestor has such a counter: plugins of one name are not configured twice.
        let attestors = self.attestors.load();
        attestors.iter().find_map(|attestor| attestor.news()).unwrap_or_else(|| self.no_news.subscribe())
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

    /// Attests a process. `called` is the method that it calls, if that can have a rate limit.
    async fn attest(&self, peer: &Peer, called: Option<Rate>) -> Result<WorkloadSelectors, Denied> {
        let attestation = names::ATTESTATION.start(&self.metrics);
        let found = workload::attest(&self.attestors.load_full(), peer, |attestor, began, status| {
            names::ATTESTOR.record(&self.metrics, &[attestor, status], began);
        })
        .await;
        attestation.end(found.as_ref().map_or_else(|failed| failed.status, |_| "OK"));
        // The attestors read facts by pid. The facts are the caller's only if it has not exited meanwhile and still has
        // the credentials that it connected with: a setuid program may run in it by now while its child holds the
        // connection.
        let from_one_read = found.as_ref().is_ok_and(|found| found.from_one_read);
        let same_user = from_one_read || self.has_credentials_of(peer).await;
        if !peer.process.is_alive() || !same_user {
            let reason = if same_user { "the process has exited" } else { "its credentials have changed" };
            if peer.complain("changed") {
                attestation_failed(
                    peer.process.pid,
                    called,
                    &format_args!("{reason}; closing its connection"),
                );
            }
            peer.hang_up();
            return Err(Denied::Attestation);
        }
        match found {
            Ok(found) => {
                #[expect(clippy::cast_precision_loss, reason = "selectors are few")]
                self.metrics.observe(&names::DISCOVERED_SELECTORS, &[], found.selectors.len() as f64);
                peer.account().work(shares::ATTESTATION + shares::SELECTOR * found.selectors.len() as u64);
                let selectors = workload::Logged(&found.selectors);
                debug!(pid = peer.process.pid, ?selectors, "PID attested to have selectors");
                Ok(found)
            }
            Err(reason) => {
                if peer.complain("attestation") {
                    attestation_failed(peer.process.pid, called, &reason);
                }
                Err(Denied::Attestation)
            }
        }
    }

    async fn has_credentials_of(&self, peer: &Peer) -> bool {
        let (pid, credentials) = (peer.process.pid, (peer.uid, peer.gid));
        attestors::proc::has_credentials(&self.proc, pid, credentials, peer.group()).await
    }

    /// Whether a process is seen for the first time, or asks for one of these names for the first time. An unregistered
    /// process that calls again is not new.
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
            // A process that makes up names must not cause syncs without end.
            new |= sought.len() < NAMES_KEPT && sought.insert(self.hasher.hash_one(name));
        }
        new
    }
}

/// Logs in the words of the API that was called (SPIRE, `workload/handler.go`, `sdsv3/handler.go`).
fn attestation_failed(pid: i32, called: Option<Rate>, reason: &dyn fmt::Display) {
    let subsystem_name = "endpoints";
    match called.map(Rate::names) {
        Some((service @ "SDS.v3", method)) => {
            error!(subsystem_name, service, method, pid, error = %reason, "Failed to attest the workload");
        }
        Some((service, method)) => {
            error!(subsystem_name, service, method, pid, error = %reason, "Workload attestation failed");
        }
        None => error!(subsystem_name, pid, error = %reason, "Workload attestation failed"),
    }
}

/// Subscribes on behalf of a proof. The copy of its selectors that the manager keeps is charged to `peer`'s connection.
async fn listen(
    manager: &Manager,
    peer: &Peer,
    proof: &impl Proof,
    matched: cache::Matched,
) -> Result<Updates<WorkloadUpdate>, Denied> {
    let charge = peer.account().charge(shares::remembered(proof.selectors())).map_err(Denied::NoRoom)?;
    manager.subscribe(proof, matched, charge).await.map_err(|_| Denied::Stopped)
}

/// How long each attestor may take to tell an operator of a process.
const EXAMINATION: Duration = Duration::from_secs(3);
/// The most processes in `strangers`. A full table is cleared.
const STRANGERS_KEPT: usize = 2048;
/// The most names of one process that cause a sync.
const NAMES_KEPT: usize = 16;

#[cfg(test)]
mod tests;
