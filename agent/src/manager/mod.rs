//! The task that owns the cache, and the handle by which the rest of the process reaches it.
//!
//! The task awaits only its mailbox and its alarm. Calls to the server and key generation run elsewhere and return as
//! messages. Callers are matched against a snapshot before they send a message. Each distinct set of selectors has one
//! channel of updates. A caller unsubscribes by dropping its receiver, which the next sweep notices.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use budget::Charge;
use cache::{Cache, Matched, Publish, Snapshot};
use futures_util::future::BoxFuture;
use identity::{Bundle, Bundles, Distrusted, Entry, Selectors, WorkloadUpdate};
use latest::{Publisher, Updates};
use rand::Rng as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use self::changes::CACHE;
use crate::upstream::backoff::{Backoff, Need, jitter};
use crate::upstream::mint::Outcome;
use crate::upstream::sync::Synced;
use crate::upstream::{ServerError, failed};

mod changes;
#[cfg(test)]
mod tests;

/// The handle of the task. Cheap to clone. The task ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Manager {
    mailbox: mpsc::Sender<Message>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    bundle: watch::Receiver<Arc<Bundle>>,
    /// The bundles of the own trust domain and of all that the entries federate with.
    bundles: watch::Receiver<Bundles>,
    svids: Arc<AtomicUsize>,
    /// Whether callers wait for the server.
    waited_for: Arc<AtomicBool>,
    /// Asks the life for an early sync.
    demand: mpsc::Sender<Demand>,
}

/// Why the life should sync earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// A new process matched no entry, and its entry may be younger than the last sync.
    Unmatched,
    /// The server signs again after it failed to.
    Reached,
}

enum Message {
    Subscribe(Selectors, Matched, Charge, oneshot::Sender<Updates<WorkloadUpdate>>),
    Synced(Synced),
    /// The server has answered a sync after it failed to.
    Reached,
    RenewAll,
    Minted(Vec<Outcome>),
    /// A call failed as a whole. The duration is the wait that the server asks for.
    MintFailed(Vec<Arc<Entry>>, Option<Duration>),
}

/// The task has ended because the agent is stopping.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("agent is shutting down")]
pub struct Stopped;

/// What lets its holder listen for identities. The door's proofs are the only ones.
pub trait Proof {
    /// The selectors that entries are matched with.
    fn selectors(&self) -> &Selectors;
}

/// Has the server sign an X.509-SVID for each of these entries.
pub(crate) type Mint =
    Arc<dyn Fn(Vec<Arc<Entry>>) -> BoxFuture<'static, Result<Vec<Outcome>, ServerError>> + Send + Sync>;

/// The inputs of the task.
pub(crate) struct Parts {
    pub(crate) rules: cache::Options,
    /// The bundle of the agent's own trust domain.
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) mint: Mint,
    /// Receives requests for an early sync.
    pub(crate) demand: mpsc::Sender<Demand>,
    /// The wall clock, by which SVIDs expire.
    pub(crate) clock: fn() -> SystemTime,
}

impl Manager {
    /// Starts the task.
    #[must_use]
    pub(crate) fn start(parts: Parts) -> Self {
        let Parts { rules, bundle, mint, demand, clock } = parts;
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let cache = Cache::new(rules, Arc::clone(&bundle));
        let snapshot = Arc::new(ArcSwap::new(cache.snapshot()));
        let (own, bundle) = watch::channel(bundle);
        let (all, bundles) = watch::channel(Bundles::new());
        let svids = Arc::<AtomicUsize>::default();
        let waited_for = Arc::<AtomicBool>::default();
        let task = Task {
            all,
            svids: Arc::clone(&svids),
            waited_for: Arc::clone(&waited_for),
            pressing: false,
            demand: demand.clone(),
            snapshot: Arc::clone(&snapshot),
            cache,
            messages,
            mailbox: mailbox.downgrade(),
            subscribers: HashMap::new(),
            own,
            mint,
            clock,
            batch: BATCH,
            in_flight: 0,
            backoff: Backoff::default(),
            sweep_at: Instant::now() + SWEEP,
        };
        tokio::spawn(task.run());
        Self { mailbox, snapshot, bundle, bundles, svids, waited_for, demand }
    }

    /// Subscribes to the identities of a proof's selectors. `matched` is their match against a snapshot, which may be
    /// outdated. `charge` pays for the selectors as long as the task keeps them.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn subscribe(
        &self,
        proof: &impl Proof,
        matched: Matched,
        charge: Charge,
    ) -> Result<Updates<WorkloadUpdate>, Stopped> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Subscribe(proof.selectors().clone(), matched, charge, reply);
        self.mailbox.send(message).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// The present entries, for matching selectors against them.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Watches the bundle of the agent's own trust domain.
    #[must_use]
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.clone()
    }

    /// Watches the bundles of all trust domains, including the agent's own.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Bundles> {
        self.bundles.clone()
    }

    /// The number of X.509-SVIDs in the cache.
    #[must_use]
    pub fn svid_count(&self) -> usize {
        self.svids.load(Ordering::Relaxed)
    }

    /// Requests an early sync, because a new process matched no entry and its entry may be younger than the last sync.
    pub fn unmatched(&self) {
        // The channel holds one request. If it is full, a sync is about to happen anyway.
        let _ = self.demand.try_send(Demand::Unmatched);
    }

    /// How much callers need a server that does not answer.
    pub(crate) fn need(&self) -> Need {
        Need::urgent_if(self.waited_for.load(Ordering::Relaxed))
    }

    /// Tells the task that the server answers again.
    pub(crate) async fn reached(&self) {
        let _ = self.mailbox.send(Message::Reached).await;
    }

    /// Replaces every SVID, because the server no longer has the authority that signed them.
    pub(crate) async fn renew_all(&self) {
        let _ = self.mailbox.send(Message::RenewAll).await;
    }

    /// Whether the task has ended, which happens only by a bug.
    pub(crate) fn is_stopped(&self) -> bool {
        self.mailbox.is_closed()
    }

    /// Passes the outcome of a sync to the task.
    pub(crate) async fn synced(&self, synced: Synced) {
        let _ = self.mailbox.send(Message::Synced(synced)).await;
    }
}

struct Task {
    cache: Cache,
    messages: mpsc::Receiver<Message>,
    mailbox: mpsc::WeakSender<Message>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// The channel of each set of selectors that has subscribers, with the charge for keeping the set.
    subscribers: HashMap<Selectors, (Publisher<WorkloadUpdate>, Charge)>,
    own: watch::Sender<Arc<Bundle>>,
    all: watch::Sender<Bundles>,
    svids: Arc<AtomicUsize>,
    waited_for: Arc<AtomicBool>,
    /// Whether SVIDs that could not be minted are missing, or near their end.
    pressing: bool,
    demand: mpsc::Sender<Demand>,
    mint: Mint,
    clock: fn() -> SystemTime,
    /// The most entries of one call. It is halved when a call fails and doubled when one succeeds.
    batch: usize,
    /// Calls to the server that are under way, at most [`PARALLEL`].
    in_flight: usize,
    backoff: Backoff,
    sweep_at: Instant,
}

impl Task {
    async fn run(mut self) {
        loop {
            let alarm = self.alarm();
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return,
                },
                () = tokio::time::sleep_until(alarm) => self.sweep(),
            }
            self.mint_due();
            self.svids.store(self.cache.svid_count(), Ordering::Relaxed);
            self.waited_for.store(self.pressing || self.cache.has_unmatched(), Ordering::Relaxed);
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Subscribe(selectors, matched, charge, reply) => {
                drop(reply.send(self.subscribe(selectors, matched, charge)))
            }
            Message::Synced(synced) => self.synced(synced),
            Message::Reached => {
                self.reached();
            }
            Message::RenewAll => self.cache.renew_all((self.clock)()),
            Message::Minted(outcomes) => self.minted(outcomes),
            Message::MintFailed(entries, wait) => self.mint_failed(&entries, wait),
        }
    }

    fn subscribe(
        &mut self,
        selectors: Selectors,
        matched: Matched,
        charge: Charge,
    ) -> Updates<WorkloadUpdate> {
        if let Some((publisher, _)) = self.subscribers.get(&selectors) {
            return publisher.subscribe();
        }
        let update = self.cache.subscribe(&selectors, matched, (self.clock)());
        if self.backoff.is_failing() {
            // What nobody waited for may have a long wait before it.
            let now = (self.clock)();
            self.cache.hasten(&selectors, now + Need::Urgent.jittered(), now);
            self.pressing |= update.identities.iter().any(|identity| identity.svid.is_none());
        }
        let publisher = Publisher::new(update);
        let updates = publisher.subscribe();
        self.subscribers.insert(selectors, (publisher, charge));
        updates
    }

    fn synced(&mut self, synced: Synced) {
        let trusted = Arc::clone(self.cache.bundle());
        let bundles = changes::bundles(&self.cache);
        let before = self.cache.snapshot();
        let published = self.cache.sync(synced.entries, synced.bundles, (self.clock)());
        let after = self.cache.snapshot();
        if !Arc::ptr_eq(&before, &after) {
            self.snapshot.store(Arc::clone(&after));
            // Logged after the snapshot is stored, so that a reader of these lines can rely on them at once.
            changes::log_entries(&before, &after);
        }
        changes::log_bundles(&bundles, &changes::bundles(&self.cache));
        self.replace_distrusted(&trusted);
        let bundle = self.cache.bundle();
        self.own.send_if_modified(|own| {
            let changed = !Arc::ptr_eq(own, bundle);
            if changed {
                *own = Arc::clone(bundle);
            }
            changed
        });
        let own = Arc::clone(bundle);
        let mut bundles = self.cache.federated().clone();
        bundles.insert(own.trust_domain.clone(), own);
        self.all.send_if_modified(|all| {
            let changed = *all != bundles;
            if changed {
                *all = bundles;
            }
            changed
        });
        self.publish(published);
    }

    /// Replaces the SVIDs that were signed by an authority that has become tainted, or has left the bundle, since
    /// `before`.
    fn replace_distrusted(&mut self, before: &Arc<Bundle>) {
        let bundle = self.cache.bundle();
        if Arc::ptr_eq(before, bundle) {
            return;
        }
        let tainted = Distrusted::tainted(bundle);
        let new = tainted.without(&Distrusted::tainted(before));
        if !new.is_empty() {
            debug!(subject_key_ids = %new, "New tainted X.509 authorities found");
        }
        // SVIDs of authorities that were tainted before are replaced already, so only new ones count.
        let lost = new.with(&Distrusted::removed(before, bundle));
        let count = self.cache.renew_distrusted(|svid| lost.has_signed(svid), (self.clock)());
        if count > 0 {
            debug!(
                subsystem_name = CACHE,
                count, "Scheduled rotation for SVID entries due to tainted X.509 authorities"
            );
            info!(subsystem_name = CACHE, tainted_x509_svids = count, "Tainted X.509 SVIDs");
            info!(subsystem_name = CACHE, "Finished processing all tainted entries");
        }
    }

    fn minted(&mut self, outcomes: Vec<Outcome>) {
        self.in_flight -= 1;
        self.batch = (self.batch * 2).min(BATCH);
        if self.reached() {
            // The channel holds one request. If it is full, a sync is about to happen anyway.
            let _ = self.demand.try_send(Demand::Reached);
        }
        let now = (self.clock)();
        let tainted = Distrusted::tainted(self.cache.bundle());
        for (entry, outcome) in outcomes {
            match outcome {
                Ok(svid) => {
                    debug!(subsystem_name = CACHE, entry = %entry.id, spiffe_id = %svid.id, serial_num = %svid.serial, "SVID updated");
                    // It was asked for before the taint was known, or a replica that lags behind has signed it.
                    let distrusted = tainted.has_signed(&svid);
                    let published = self.cache.minted(&entry, svid, rand::rng().random(), now);
                    if distrusted {
                        self.cache.renew_by(&entry.id, now + jitter(ENTRY_RETRY, 0.3), now);
                    }
                    self.publish(published);
                }
                Err(reason) => {
                    warn!(entry_id = %entry.id, spiffe_id = %entry.spiffe_id, error = %reason,
                        "Failed to mint X509 SVID");
                    self.cache.mint_failed(&entry.id, now + jitter(ENTRY_RETRY, 0.3), now);
                }
            }
        }
    }

    /// The server answers. What failed before is due at once. Returns whether something had failed.
    fn reached(&mut self) -> bool {
        self.pressing = false;
        let failed = self.backoff.reset();
        if failed {
            self.cache.retry_failed((self.clock)());
        }
        failed
    }

    fn mint_failed(&mut self, entries: &[Arc<Entry>], wait: Option<Duration>) {
        self.in_flight -= 1;
        self.batch = (self.batch / 2).max(1);
        let now = (self.clock)();
        let idle = self.backoff.wait(Need::Idle);
        let urgent = idle.min(Need::Urgent.jittered());
        for entry in entries {
            let pressing = self.cache.pressing_at(&entry.id);
            self.pressing |= pressing.is_some_and(|at| at <= now);
            let retry_at = match pressing {
                Some(at) => (now + idle).min(at.max(now + urgent)),
                None => now + idle,
            };
            self.cache.mint_failed(&entry.id, retry_at.max(now + wait.unwrap_or_default()), now);
        }
    }

    fn mint_due(&mut self) {
        while self.in_flight < PARALLEL {
            let due = self.cache.take_due((self.clock)(), self.batch);
            let Some(mailbox) = self.mailbox.upgrade().filter(|_| !due.is_empty()) else { return };
            debug!(cache_type = "workload", count = due.len(), limit = self.batch, "Renewing stale entries");
            for entry in &due {
                let (entry_id, spiffe_id) = (&entry.id, &entry.spiffe_id);
                match self.cache.svid(&entry.id) {
                    None => info!(%entry_id, %spiffe_id, "Creating X509-SVID"),
                    Some(svid) => {
                        let expires_at = rfc3339(svid.not_after);
                        info!(%entry_id, %spiffe_id, expires_at, "Renewing X509-SVID");
                    }
                }
            }
            self.in_flight += 1;
            let minting = (self.mint)(due.clone());
            tokio::spawn(async move {
                let message = match minting.await {
                    Ok(outcomes) => Message::Minted(outcomes),
                    Err(reason) => {
                        failed::log("Failed to batch new X509 SVID(s)", &reason);
                        error!(count = due.len(), error = %reason, "SVID sync failed");
                        Message::MintFailed(due, reason.retry_after())
                    }
                };
                let _ = mailbox.send(message).await;
            });
        }
    }

    fn publish(&mut self, published: Vec<Publish>) {
        for publish in published {
            if let Some((publisher, _)) = self.subscribers.get(&publish.selectors) {
                publisher.publish(publish.update);
            }
        }
    }

    /// Drops the sets of selectors that have no subscriber any more.
    fn sweep(&mut self) {
        if Instant::now() < self.sweep_at {
            return;
        }
        self.sweep_at = Instant::now() + SWEEP;
        let now = (self.clock)();
        let cache = &mut self.cache;
        self.subscribers.retain(|selectors, (publisher, _)| {
            let live = publisher.has_listeners();
            if !live {
                cache.unsubscribe(selectors, now);
            }
            live
        });
    }

    /// The time of the next turn without a message: an SVID is due, or a sweep is. The wall clock can jump, so no sleep
    /// is longer than [`LONGEST`].
    fn alarm(&self) -> Instant {
        let now = Instant::now();
        let due = self.cache.wake_at().filter(|_| self.in_flight < PARALLEL);
        let due = due.map_or(LONGEST, |at| at.duration_since((self.clock)()).unwrap_or_default());
        let alarm = now + due.min(LONGEST);
        if self.subscribers.is_empty() { alarm } else { alarm.min(self.sweep_at.max(now)) }
    }
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// The most entries of one call. A SPIRE server signs at most 500 in one call and 500 a second.
const BATCH: usize = 500;
/// The most calls that are under way at one time.
const PARALLEL: usize = 2;
/// The most messages that wait. A sender waits for room.
const MAILBOX: usize = 1024;
/// The interval between two sweeps.
const SWEEP: Duration = Duration::from_secs(5);
/// The longest sleep.
const LONGEST: Duration = Duration::from_secs(30);
/// The wait, ± 30 %, before the server is asked again for an entry that it refused to sign.
const ENTRY_RETRY: Duration = Duration::from_secs(10);
