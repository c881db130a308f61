//! The task that owns the cache, and the handle by which the rest of the process reaches it.
//!
//! The task awaits nothing but its mailbox and its alarm: RPCs and key generation run elsewhere and come back as
//! messages. Callers are matched against a snapshot before they write; what they hear is a channel, one for each
//! distinct selector set. Dropping its listeners is the unsubscribe: it is noticed at the next sweep.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

use crate::upstream::ServerError;
use crate::upstream::backoff::{Backoff, jitter};
use crate::upstream::mint::Outcome;
use crate::upstream::sync::Synced;

#[cfg(test)]
mod tests;

/// The handle. Cheap to clone; the task ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Manager {
    mailbox: mpsc::Sender<Message>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    bundle: watch::Receiver<Arc<Bundle>>,
    /// Those of all trust domains that entries name, the own one included.
    bundles: watch::Receiver<Bundles>,
    svids: Arc<AtomicUsize>,
    demand: mpsc::Sender<()>,
}

enum Message {
    Subscribe(Selectors, Matched, Charge, oneshot::Sender<Updates<WorkloadUpdate>>),
    Synced(Synced),
    RenewAll,
    Minted(Vec<Outcome>),
    /// With the time for which the server wants to be left alone.
    MintFailed(Vec<Arc<Entry>>, Option<Duration>),
}

/// The task is gone: the agent is stopping.
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

/// What the task needs to start.
pub(crate) struct Parts {
    pub(crate) rules: cache::Options,
    /// The own trust domain's bundle.
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) mint: Mint,
    /// Is told when a new process matched nothing.
    pub(crate) demand: mpsc::Sender<()>,
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
        let task = Task {
            all,
            svids: Arc::clone(&svids),
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
        Self { mailbox, snapshot, bundle, bundles, svids, demand }
    }

    /// Listens for what the holder of a proof may have; `matched` is its match against a snapshot, which may be old. `charge` is
    /// for its selectors, as long as they are remembered.
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

    /// The present entries, for matching.
    #[must_use]
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The own trust domain's bundle, now and later.
    #[must_use]
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.clone()
    }

    /// The bundles of all trust domains, now and later.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Bundles> {
        self.bundles.clone()
    }

    /// How many X.509-SVIDs are held.
    #[must_use]
    pub fn svid_count(&self) -> usize {
        self.svids.load(Ordering::Relaxed)
    }

    /// A new process matched nothing: its entry may be younger than the last sync.
    pub fn unmatched(&self) {
        // One that waits already is as good as many.
        let _ = self.demand.try_send(());
    }

    /// Has every SVID replaced: the server is another one than the one that signed them.
    pub(crate) async fn renew_all(&self) {
        let _ = self.mailbox.send(Message::RenewAll).await;
    }

    /// Whether the task has ended; it never should.
    pub(crate) fn is_stopped(&self) -> bool {
        self.mailbox.is_closed()
    }

    /// Takes a sync's outcome.
    pub(crate) async fn synced(&self, synced: Synced) {
        let _ = self.mailbox.send(Message::Synced(synced)).await;
    }
}

struct Task {
    cache: Cache,
    messages: mpsc::Receiver<Message>,
    mailbox: mpsc::WeakSender<Message>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Who listens, by what is known of it; with the charge for remembering that.
    subscribers: HashMap<Selectors, (Publisher<WorkloadUpdate>, Charge)>,
    own: watch::Sender<Arc<Bundle>>,
    all: watch::Sender<Bundles>,
    svids: Arc<AtomicUsize>,
    mint: Mint,
    clock: fn() -> SystemTime,
    /// How many entries go into one call: halved when one fails, doubled when one works.
    batch: usize,
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
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Subscribe(selectors, matched, charge, reply) => {
                drop(reply.send(self.subscribe(selectors, matched, charge)))
            }
            Message::Synced(synced) => self.synced(synced),
            Message::RenewAll => self.cache.renew_all((self.clock)()),
            Message::Minted(outcomes) => self.minted(outcomes),
            Message::MintFailed(entries, hold) => self.mint_failed(&entries, hold),
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
        let publisher = Publisher::new(update);
        let updates = publisher.subscribe();
        self.subscribers.insert(selectors, (publisher, charge));
        updates
    }

    fn synced(&mut self, synced: Synced) {
        let trusted = Arc::clone(self.cache.bundle());
        let before = self.cache.snapshot();
        let published = self.cache.sync(synced.entries, synced.bundles, (self.clock)());
        let after = self.cache.snapshot();
        if !Arc::ptr_eq(&before, &after) {
            self.snapshot.store(Arc::clone(&after));
            // Whoever reads these lines may rely on them at once.
            log_changes(&before, &after);
        }
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

    /// Has replaced what was signed by an authority that is tainted, or gone from the bundle, since `before`.
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
        // What was tainted is replaced already, but for what came since.
        let lost = new.with(&Distrusted::removed(before, bundle));
        let count = self.cache.renew_distrusted(|svid| lost.has_signed(svid), (self.clock)());
        if count > 0 {
            debug!(count, "Scheduled rotation for SVID entries due to tainted X.509 authorities");
            info!(tainted_x509_svids = count, "Tainted X.509 SVIDs");
        }
    }

    fn minted(&mut self, outcomes: Vec<Outcome>) {
        self.in_flight -= 1;
        self.batch = (self.batch * 2).min(BATCH);
        self.backoff.reset();
        let now = (self.clock)();
        for (entry, outcome) in outcomes {
            match outcome {
                Ok(svid) => {
                    debug!(entry = %entry.id, spiffe_id = %svid.id, serial_num = %svid.serial, "SVID updated");
                    let published = self.cache.minted(&entry, svid, rand::rng().random(), now);
                    self.publish(published);
                }
                Err(reason) => {
                    warn!(entry_id = %entry.id, spiffe_id = %entry.spiffe_id, error = %reason,
                        "Server did not sign an X.509-SVID; the others go on");
                    self.cache.mint_failed(&entry.id, now + jitter(ENTRY_RETRY, 0.3), now);
                }
            }
        }
    }

    fn mint_failed(&mut self, entries: &[Arc<Entry>], hold: Option<Duration>) {
        self.in_flight -= 1;
        self.batch = (self.batch / 2).max(1);
        let now = (self.clock)();
        let retry_at = now + self.backoff.wait().max(hold.unwrap_or_default());
        for entry in entries {
            self.cache.mint_failed(&entry.id, retry_at, now);
        }
    }

    fn mint_due(&mut self) {
        while self.in_flight < PARALLEL {
            let due = self.cache.take_due((self.clock)(), self.batch);
            let Some(mailbox) = self.mailbox.upgrade().filter(|_| !due.is_empty()) else { return };
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
                        error!(count = due.len(), error = %reason, "Failed to mint X.509-SVIDs");
                        Message::MintFailed(due, reason.hold())
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

    /// Forgets the selector sets that nobody listens for any more.
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

    /// When to look again without a message: something is due, or there is somebody to sweep away. The wall clock can
    /// jump, so no sleep is long.
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

/// Says at debug level what the server changed; scripts look for these lines.
fn log_changes(before: &Snapshot, after: &Snapshot) {
    info!(count = after.entries().len(), "Authorized entries updated");
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let old: HashMap<&str, &Arc<Entry>> = before.entries().iter().map(|entry| (&*entry.id, entry)).collect();
    let new: HashMap<&str, &Arc<Entry>> = after.entries().iter().map(|entry| (&*entry.id, entry)).collect();
    for entry in after.entries() {
        match old.get(&*entry.id) {
            None => debug!(entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry created"),
            Some(held) if held != &entry => {
                debug!(entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry updated")
            }
            Some(_) => {}
        }
    }
    for entry in before.entries().iter().filter(|entry| !new.contains_key(&*entry.id)) {
        debug!(entry = %entry.id, spiffe_id = %entry.spiffe_id, "Entry removed");
    }
}

/// The server signs at most 500 in one call and 500 a second.
const BATCH: usize = 500;
const PARALLEL: usize = 2;
const MAILBOX: usize = 1024;
const SWEEP: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(30);
/// After the server refused one entry.
const ENTRY_RETRY: Duration = Duration::from_secs(10);
