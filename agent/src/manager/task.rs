//! The task that owns the cache of X.509-SVIDs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use budget::Charge;
use cache::{Cache, Matched, Publish, Snapshot};
use identity::{Bundle, Bundles, Distrusted, Entry, Selectors, WorkloadUpdate};
use latest::{Publisher, Updates};
use pace::{Failure, Minting};
use rand::Rng as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::changes::{self, CACHE};
use super::{Demand, Held, HeldSvid, Message, Mint};
use crate::continuity::{Changes, Contents, Minted};
use crate::telemetry::{Metric, Metrics, names};
use crate::upstream::failed;
use crate::upstream::mint::Outcome;
use crate::upstream::sync::Synced;

/// The state of the task.
pub(super) struct Task {
    cache: Cache,
    messages: mpsc::Receiver<Message>,
    mailbox: mpsc::WeakSender<Message>,
    shared: Shared,
    /// The channel of each set of selectors that has subscribers, with the charge for keeping the set.
    subscribers: HashMap<Selectors, (Publisher<WorkloadUpdate>, Charge)>,
    /// Whether SVIDs that could not be minted are missing, or near their end.
    pressing: bool,
    demand: mpsc::Sender<Demand>,
    mint: Mint,
    clock: fn() -> SystemTime,
    /// Whether SVIDs have come or gone since [`Shared::soonest`] was computed.
    changed: bool,
    /// Why the server did not sign for an entry, by its ID, since it last did.
    refusals: HashMap<Arc<str>, String>,
    /// Calls to the server, and the waits after those that failed.
    minting: Minting,
    sweep_at: Instant,
}

/// What the task tells its handles.
pub(super) struct Shared {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    /// The bundle of the agent's own trust domain.
    pub(super) own: watch::Sender<Arc<Bundle>>,
    /// The bundles of all trust domains.
    pub(super) all: watch::Sender<Bundles>,
    /// The number of SVIDs.
    pub(super) svids: Arc<AtomicUsize>,
    /// Whether there are callers, who hear of changes late while the server is away, or SVIDs that are missing or old.
    pub(super) waited_for: Arc<AtomicBool>,
    /// When the first SVID expires.
    pub(super) soonest: Arc<ArcSwapOption<SystemTime>>,
    pub(super) metrics: Metrics,
    /// Hears of changes of what a later process of the agent needs.
    pub(super) changes: Changes,
}

impl Task {
    /// A task that reads `messages` and sends itself answers through `mailbox`.
    pub(super) fn new(
        cache: Cache,
        parts: (Mint, mpsc::Sender<Demand>, fn() -> SystemTime),
        (messages, mailbox): (mpsc::Receiver<Message>, mpsc::WeakSender<Message>),
        shared: Shared,
    ) -> Self {
        let (mint, demand, clock) = parts;
        Self {
            cache,
            messages,
            mailbox,
            shared,
            subscribers: HashMap::new(),
            pressing: false,
            demand,
            mint,
            clock,
            changed: false,
            refusals: HashMap::new(),
            minting: Minting::default(),
            sweep_at: Instant::now() + SWEEP,
        }
    }

    /// Runs until the last handle is dropped.
    pub(super) async fn run(mut self) {
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
            let svids = self.cache.svid_count();
            if self.shared.svids.swap(svids, Ordering::Relaxed) != svids {
                self.gauge(&names::SVIDS, svids);
            }
            if std::mem::take(&mut self.changed) {
                self.shared.soonest.store(self.cache.soonest_expiry().map(Arc::new));
            }
            let waited_for = self.pressing || !self.subscribers.is_empty();
            self.shared.waited_for.store(waited_for, Ordering::Relaxed);
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Subscribe(selectors, matched, charge, reply) => {
                drop(reply.send(self.subscribe(selectors, matched, charge)))
            }
            Message::Synced(synced) => self.synced(synced),
            Message::Reached => {
                self.minting.reached(self.pressing);
                self.reached(self.pressing);
            }
            Message::RenewAll => self.cache.renew_all((self.clock)()),
            Message::Minted(outcomes) => self.minted(outcomes),
            Message::MintFailed(entries, failure, reason) => {
                for entry in &entries {
                    self.refusals.insert(Arc::clone(&entry.id), reason.clone());
                }
                self.mint_failed(&entries, failure);
            }
            Message::Inspect(reply) => drop(reply.send(self.inspect())),
            Message::Restore(contents) => self.restore(*contents),
            Message::Contents(reply) => drop(reply.send(self.contents())),
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
        let now = (self.clock)();
        let update = self.cache.subscribe(&selectors, matched, now);
        if let Some(at) = self.minting.hasten(now, &mut rand::rng()) {
            // What nobody waited for may have a long wait before it.
            self.cache.hasten(&selectors, at, now);
            self.pressing |= update.identities.iter().any(|identity| identity.svid.is_none());
        }
        let publisher = Publisher::new(update);
        let updates = publisher.subscribe();
        self.subscribers.insert(selectors, (publisher, charge));
        updates
    }

    fn synced(&mut self, synced: Synced) {
        self.changed = true;
        let trusted = Arc::clone(self.cache.bundle());
        let bundles = changes::bundles(&self.cache);
        let before = self.cache.snapshot();
        let published = self.cache.sync(synced.entries, synced.bundles, (self.clock)());
        let after = self.cache.snapshot();
        if !Arc::ptr_eq(&before, &after) {
            self.shared.changes.note();
            self.shared.snapshot.store(Arc::clone(&after));
            // Logged after the snapshot is stored, so that a reader of these lines can rely on them at once.
            changes::log_entries(&before, &after, &self.shared.metrics);
        }
        changes::log_bundles(&bundles, &changes::bundles(&self.cache));
        self.gauge(&names::RECORDS, after.entries().len());
        if !self.refusals.is_empty() {
            let listed: HashSet<&str> = after.entries().iter().map(|entry| &*entry.id).collect();
            self.refusals.retain(|id, _| listed.contains(&**id));
        }
        self.replace_distrusted(&trusted);
        let bundle = self.cache.bundle();
        self.shared.own.send_if_modified(|own| {
            let changed = !Arc::ptr_eq(own, bundle);
            if changed {
                *own = Arc::clone(bundle);
            }
            changed
        });
        let own = Arc::clone(bundle);
        let mut bundles = self.cache.federated().clone();
        bundles.insert(own.trust_domain.clone(), own);
        let bundles_changed = self.shared.all.send_if_modified(|all| {
            let changed = *all != bundles;
            if changed {
                *all = bundles;
            }
            changed
        });
        if bundles_changed {
            self.shared.changes.note();
        }
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
        let search = names::PROCESS_TAINTED_X509.start(&self.shared.metrics);
        // SVIDs of authorities that were tainted before are replaced already, so only new ones count. What an authority has
        // signed that is gone is of no use to anybody, so it is replaced at once.
        let (gone, now) = (Distrusted::removed(before, bundle), (self.clock)());
        let mut count = 0;
        if !gone.is_empty() {
            let at_once = |count, _| drawn(count, Duration::ZERO);
            count += self.cache.renew_distrusted(|svid| gone.has_signed(svid), at_once, now);
        }
        let tainted = new.without(&gone);
        if !tainted.is_empty() {
            count += self.cache.renew_distrusted(|svid| tainted.has_signed(svid), drawn, now);
        }
        if !new.is_empty() {
            search.end("OK");
            changes::sample(&self.shared.metrics, &names::TAINTED_X509, count);
        }
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
        self.changed = true;
        self.shared.changes.note();
        if self.minting.answered() {
            self.reached(true);
            // The channel holds one request. If it is full, a sync is about to happen anyway.
            let _ = self.demand.try_send(Demand::Reached);
        }
        let now = (self.clock)();
        let tainted = Distrusted::tainted(self.cache.bundle());
        // One draw for all of a call: they are renewed in one call, too, which costs the server less than half.
        let draw = rand::rng().random();
        for (entry, outcome) in outcomes {
            match outcome {
                Ok(svid) => {
                    self.refusals.remove(&entry.id);
                    debug!(subsystem_name = CACHE, entry = %entry.id, spiffe_id = %svid.id, serial_num = %svid.serial, "SVID updated");
                    // It was asked for before the taint was known, or a replica that lags behind has signed it.
                    let distrusted = tainted.has_signed(&svid);
                    let published = self.cache.minted(&entry, svid, draw, now);
                    if distrusted {
                        self.cache.renew_by(&entry.id, now + Minting::refused(&mut rand::rng()), now);
                    }
                    self.publish(published);
                }
                Err(reason) => {
                    warn!(entry_id = %entry.id, spiffe_id = %entry.spiffe_id, error = %reason,
                        "Failed to mint X509 SVID");
                    self.refusals.insert(Arc::clone(&entry.id), reason);
                    self.cache.mint_failed(&entry.id, now + Minting::refused(&mut rand::rng()), now);
                }
            }
        }
    }

    /// Takes what an earlier process had, in one step: between the entries and their SVIDs nothing is asked for.
    fn restore(&mut self, contents: Contents) {
        let Contents { own: _, bundles, entries, svids, tokens: _ } = contents;
        let bundles = bundles.into_iter().map(|bundle| (bundle.trust_domain.clone(), bundle)).collect();
        let by_id: HashMap<Arc<str>, Arc<Entry>> =
            entries.iter().map(|entry| (Arc::clone(&entry.id), Arc::clone(entry))).collect();
        self.synced(Synced { entries: Some(entries), bundles });
        let now = (self.clock)();
        for Minted { entry_id, revision, svid } in svids {
            let Some(entry) = by_id.get(&entry_id) else { continue };
            // The entry as it was when the SVID was signed: a later revision makes it due.
            let signed_for = Entry { revision, ..Entry::clone(entry) };
            // As of its issuance, so that a restart does not put its renewal off.
            let issued_at = svid.not_before;
            let published = self.cache.minted(&signed_for, svid, rand::rng().random(), issued_at);
            self.publish(published);
        }
        // The process that had them may have ended before it had replaced them.
        let tainted = Distrusted::tainted(self.cache.bundle());
        self.cache.renew_distrusted(|svid| tainted.has_signed(svid), drawn, now);
    }

    /// What a later process needs.
    fn contents(&self) -> Contents {
        let own = Arc::clone(self.cache.bundle());
        let federated = self.cache.federated().values().cloned();
        let svids = self.cache.svids().map(|(entry, revision, svid)| Minted {
            entry_id: Arc::clone(&entry.id),
            revision,
            svid: Arc::clone(svid),
        });
        Contents {
            own: None,
            bundles: std::iter::once(own).chain(federated).collect(),
            entries: self.cache.snapshot().entries().to_vec(),
            svids: svids.collect(),
            tokens: Vec::new(),
        }
    }

    /// What there is to know of each entry.
    fn inspect(&self) -> Vec<Held> {
        let tainted = Distrusted::tainted(self.cache.bundle());
        self.cache
            .identities()
            .map(|(entry, svid)| Held {
                entry: Arc::clone(entry),
                svid: svid.map(|svid| HeldSvid {
                    serial: svid.serial.clone(),
                    not_before: svid.not_before,
                    not_after: svid.not_after,
                    is_tainted: tainted.has_signed(svid),
                }),
                refusal: self.refusals.get(&entry.id).cloned(),
            })
            .collect()
    }

    fn gauge(&self, gauge: &'static Metric, value: usize) {
        #[expect(clippy::cast_precision_loss, reason = "what is counted fits into memory")]
        self.shared.metrics.set(gauge, &[], value as f64);
    }

    /// The server answers. With `retry`, what failed is due at once.
    fn reached(&mut self, retry: bool) {
        self.pressing = false;
        if retry {
            self.cache.retry_failed((self.clock)());
        }
    }

    fn mint_failed(&mut self, entries: &[Arc<Entry>], failure: Failure) {
        let now = (self.clock)();
        let soonest = entries.iter().filter_map(|entry| self.cache.pressing_at(&entry.id)).min();
        let pressing_in = soonest.map(|at| at.duration_since(now).unwrap_or_default());
        self.pressing |= pressing_in.is_some_and(|left| left.is_zero());
        let retry_at = self.minting.failed(failure, pressing_in, now, &mut rand::rng());
        for entry in entries {
            self.cache.mint_failed(&entry.id, retry_at, now);
        }
    }

    fn mint_due(&mut self) {
        while self.minting.is_free((self.clock)()) {
            let due = self.cache.take_due((self.clock)(), self.minting.batch());
            let Some(mailbox) = self.mailbox.upgrade().filter(|_| !due.is_empty()) else { return };
            debug!(
                cache_type = "workload",
                count = due.len(),
                limit = self.minting.batch(),
                "Renewing stale entries"
            );
            let mut expiring = 0;
            for entry in &due {
                let (entry_id, spiffe_id) = (&entry.id, &entry.spiffe_id);
                match self.cache.svid(&entry.id) {
                    None => info!(%entry_id, %spiffe_id, "Creating X509-SVID"),
                    Some(svid) => {
                        expiring += 1;
                        let expires_at = rfc3339(svid.not_after);
                        info!(%entry_id, %spiffe_id, expires_at, "Renewing X509-SVID");
                    }
                }
            }
            if expiring > 0 {
                changes::sample(&self.shared.metrics, &names::EXPIRING, expiring);
            }
            self.minting.began();
            let minting = (self.mint)(due.clone());
            let call = names::FETCH_SVIDS.start(&self.shared.metrics);
            tokio::spawn(async move {
                let minted = minting.await;
                call.end(minted.as_ref().map_or_else(failed::code_name, |_| "OK"));
                let message = match minted {
                    Ok(outcomes) => Message::Minted(outcomes),
                    Err(reason) => {
                        failed::log("Failed to batch new X509 SVID(s)", &reason);
                        error!(count = due.len(), error = %reason, "SVID sync failed");
                        Message::MintFailed(due, reason.failure(), reason.to_string())
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
        let due = self.cache.wake_at().and_then(|due| self.minting.next(due));
        let due = due.map_or(LONGEST, |at| at.duration_since((self.clock)()).unwrap_or_default());
        let alarm = now + due.min(LONGEST);
        if self.subscribers.is_empty() { alarm } else { alarm.min(self.sweep_at.max(now)) }
    }
}

/// The delays after which so many SVIDs are replaced.
fn drawn(count: usize, within: Duration) -> Vec<Duration> {
    pace::replacements(count, within, &mut rand::rng())
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// The interval between two sweeps.
pub(super) const SWEEP: Duration = Duration::from_secs(5);
/// The longest sleep.
const LONGEST: Duration = Duration::from_secs(30);
