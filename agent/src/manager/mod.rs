//! The task that owns the cache, and the handle by which the rest of the process reaches it.
//!
//! The task awaits only its mailbox and its alarm. Calls to the server and key generation run elsewhere and return as
//! messages. Callers are matched against a snapshot before they send a message. Each distinct set of selectors has one
//! channel of updates. A caller unsubscribes by dropping its receiver, which the next sweep notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use budget::Charge;
use cache::{Cache, Matched, Snapshot};
use futures_util::future::BoxFuture;
use identity::{Bundle, Bundles, Entry, JwtSvid, Selectors, WorkloadUpdate};
use latest::Updates;
use tokio::sync::{mpsc, oneshot, watch};

use self::task::{Shared, Task};
use self::tokens::Tokens;
pub(crate) use self::tokens::{Following, Sign, TokenError};
use crate::continuity::{Changes, Contents};
use crate::telemetry::Metrics;
use crate::upstream::ServerError;
use crate::upstream::backoff::Need;
use crate::upstream::mint::Outcome;
use crate::upstream::sync::Synced;

mod changes;
mod task;
#[cfg(test)]
mod tests;
mod tokens;

/// The handle of the task. Cheap to clone. The task ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Manager {
    mailbox: mpsc::Sender<Message>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    bundle: watch::Receiver<Arc<Bundle>>,
    /// The bundles of the own trust domain and of all that the entries federate with.
    bundles: watch::Receiver<Bundles>,
    svids: Arc<AtomicUsize>,
    soonest: Arc<ArcSwapOption<SystemTime>>,
    tokens: Tokens,
    /// Whether there are callers, or SVIDs that are missing or old.
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
    /// A call failed as a whole: what that says of the server, and the reason.
    MintFailed(Vec<Arc<Entry>>, pace::Failure, String),
    Inspect(oneshot::Sender<Vec<Held>>),
    /// What an earlier process of the agent had, before the first sync of this one.
    Restore(Box<Contents>),
    /// Asks for what a later process needs.
    Contents(oneshot::Sender<Contents>),
}

/// An entry, and what the cache has for it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) entry: Arc<Entry>,
    pub(crate) svid: Option<HeldSvid>,
    /// Why the server did not sign when it was last asked.
    pub(crate) refusal: Option<String>,
}

/// What is public of an X.509-SVID in the cache.
#[derive(Debug, Clone)]
pub(crate) struct HeldSvid {
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Whether a tainted authority has signed it.
    pub(crate) is_tainted: bool,
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

/// An entry that matches the selectors of a proof. Only the manager makes it.
#[derive(Debug, Clone)]
pub(crate) struct Granted(Arc<Entry>);

impl Granted {
    /// The identity of the entry with this ID in an update, which goes only to those who match its entries.
    #[must_use]
    pub(crate) fn by(update: &WorkloadUpdate, entry_id: &str) -> Option<Self> {
        let place = update.identities.binary_search_by(|identity| (*identity.entry.id).cmp(entry_id)).ok()?;
        Some(Self(Arc::clone(&update.identities[place].entry)))
    }

    /// The registration entry that grants the identity.
    #[must_use]
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.0
    }
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
    pub(crate) sign: Sign,
    /// The most JWT-SVIDs that are kept.
    pub(crate) jwt_limit: usize,
    /// Receives requests for an early sync.
    pub(crate) demand: mpsc::Sender<Demand>,
    /// The wall clock, by which SVIDs expire.
    pub(crate) clock: fn() -> SystemTime,
    pub(crate) metrics: Metrics,
    /// Hears of changes of what a later process needs.
    pub(crate) changes: Changes,
}

impl Manager {
    /// Starts the task.
    #[must_use]
    pub(crate) fn start(parts: Parts) -> Self {
        let Parts { rules, bundle, mint, sign, jwt_limit, demand, clock, metrics, changes } = parts;
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let cache = Cache::new(rules, Arc::clone(&bundle));
        let snapshot = Arc::new(ArcSwap::new(cache.snapshot()));
        let (own, bundle) = watch::channel(bundle);
        let (all, bundles) = watch::channel(Bundles::new());
        let svids = Arc::<AtomicUsize>::default();
        let waited_for = Arc::<AtomicBool>::default();
        let soonest = Arc::<ArcSwapOption<SystemTime>>::default();
        let shared = Shared {
            snapshot: Arc::clone(&snapshot),
            own,
            all,
            svids: Arc::clone(&svids),
            waited_for: Arc::clone(&waited_for),
            soonest: Arc::clone(&soonest),
            metrics: metrics.clone(),
            changes: changes.clone(),
        };
        let ends = (messages, mailbox.downgrade());
        let task = Task::new(cache, (mint, demand.clone(), clock), ends, shared);
        tokio::spawn(task.run());
        let entries = Arc::clone(&snapshot);
        let is_kept = Box::new(move |id: &str| {
            let entries = entries.load();
            let place = entries.entries().binary_search_by(|entry| (*entry.id).cmp(id));
            place.is_ok_and(|place| !entries.entries()[place].jwt_svid_include_jti)
        });
        let tokens = Tokens::start((sign, metrics, changes), jwt_limit, bundle.clone(), is_kept, clock);
        Self { mailbox, snapshot, bundle, bundles, svids, soonest, tokens, waited_for, demand }
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

    /// When the first of the X.509-SVIDs in the cache expires; `None` if there is none.
    pub(crate) fn soonest_expiry(&self) -> Option<SystemTime> {
        self.soonest.load().as_deref().copied()
    }

    /// The number of JWT-SVIDs in the cache.
    #[must_use]
    pub(crate) fn jwt_svid_count(&self) -> usize {
        self.tokens.count()
    }

    /// The entries that a proof's selectors match, by ascending ID.
    #[must_use]
    pub(crate) fn granted(&self, proof: &impl Proof) -> Vec<Granted> {
        let snapshot = self.snapshot();
        let matched = snapshot.matching(proof.selectors());
        snapshot.of(&matched).map(|entry| Granted(Arc::clone(entry))).collect()
    }

    /// The JWT-SVID of a granted entry for an audience.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) async fn jwt_svid(
        &self,
        granted: &Granted,
        audience: &[String],
    ) -> Result<Arc<JwtSvid>, TokenError> {
        self.tokens.get(&granted.0, audience).await
    }

    /// Follows the JWT-SVID of a granted entry for an audience.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) async fn follow_jwt_svid(
        &self,
        granted: &Granted,
        audience: &[String],
    ) -> Result<Following, TokenError> {
        self.tokens.follow(&granted.0, audience).await
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
        self.mailbox.is_closed() || self.tokens.is_stopped()
    }

    /// All entries, by ascending ID, and what the cache has for them.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) async fn inspect(&self) -> Result<Vec<Held>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Inspect(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Takes what an earlier process of the agent had. The first sync corrects it.
    pub(crate) async fn restore(&self, mut contents: Contents) {
        self.tokens.restore(std::mem::take(&mut contents.tokens)).await;
        let _ = self.mailbox.send(Message::Restore(Box::new(contents))).await;
    }

    /// What a later process of the agent needs. The agent's own identity is not among it.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(crate) async fn contents(&self) -> Result<Contents, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Contents(reply)).await.map_err(|_| Stopped)?;
        let mut contents = answer.await.map_err(|_| Stopped)?;
        contents.tokens = self.tokens.all().await?;
        Ok(contents)
    }

    /// Passes the outcome of a sync to the task.
    pub(crate) async fn synced(&self, synced: Synced) {
        let _ = self.mailbox.send(Message::Synced(synced)).await;
    }
}

/// The most messages that wait. A sender waits for room.
const MAILBOX: usize = 1024;
