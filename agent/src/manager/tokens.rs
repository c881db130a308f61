//! The task that owns the cache of JWT-SVIDs. It shares nothing with the task of X.509-SVIDs but the server.
//!
//! A cached token is handed out without a call to the server, also while it is being refreshed, so callers do not notice an
//! outage until a token has expired. Callers that ask for the same token wait for one call.

mod follow;
mod queue;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cache::{Found, JwtCache, JwtKey};
use futures_util::future::BoxFuture;
use identity::{Bundle, Entry, JwtSvid};
use latest::Updates;
use rand::Rng as _;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Code;
use tracing::{debug, error, info, warn};

use self::follow::Followers;
use self::queue::{Asker, Queue};
use super::{Stopped, changes};
use crate::continuity::Changes;
use crate::telemetry::{Metrics, names};
use crate::upstream::backoff::{Backoff, Need};
use crate::upstream::{ServerError, failed};

/// Has the server sign a JWT-SVID for an entry and an audience.
pub(crate) type Sign = Arc<dyn Fn(JwtKey) -> BoxFuture<'static, Result<JwtSvid, ServerError>> + Send + Sync>;

/// Whether tokens of the entry with this ID may be kept: it is there, and its tokens are for more than one caller.
pub(super) type IsKept = Box<dyn Fn(&str) -> bool + Send>;

/// The handle of the task.
#[derive(Debug, Clone)]
pub(super) struct Tokens {
    mailbox: mpsc::Sender<Message>,
    count: Arc<AtomicUsize>,
}

/// Why there is no JWT-SVID.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TokenError {
    /// The server did not sign. The text is that of grpc-go (SPIRE, `client.go`).
    #[error("failed to fetch JWT SVID: {0}")]
    Server(String),
    /// Too many tokens wait for the server already.
    #[error("too many JWT-SVIDs are being signed")]
    Busy,
    /// The entry's tokens are for one use each, so they cannot be sent to a proxy that uses one again and again.
    #[error("jwt_svid_include_jti is set in the entry: its JWT-SVIDs are for one use each")]
    ForOneUse,
    /// The agent is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

type Answer = Result<Arc<JwtSvid>, TokenError>;

enum Message {
    Get(Arc<Entry>, JwtKey, oneshot::Sender<Answer>),
    Follow(Arc<Entry>, JwtKey, oneshot::Sender<Result<Following, TokenError>>),
    Signed(JwtKey, Result<JwtSvid, ServerError>),
    /// Tokens that an earlier process of the agent had.
    Restore(Vec<(JwtKey, Arc<JwtSvid>)>),
    All(oneshot::Sender<Vec<(JwtKey, Arc<JwtSvid>)>>),
}

/// The newest token; `None` until one is signed.
pub(crate) type Following = Updates<Option<Arc<JwtSvid>>>;

impl Tokens {
    /// Starts the task. It holds at most `limit` tokens, and drops those whose key `bundle` says is tainted.
    pub(super) fn start(
        (sign, metrics, changes): (Sign, Metrics, Changes),
        limit: usize,
        bundle: watch::Receiver<Arc<Bundle>>,
        is_kept: IsKept,
        clock: fn() -> SystemTime,
    ) -> Self {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let count = Arc::<AtomicUsize>::default();
        let keys = bundle.borrow().jwt_authorities.iter().map(|key| key.key_id.clone()).collect();
        let task = Task {
            cache: JwtCache::new(limit),
            followers: Followers::default(),
            count: Arc::clone(&count),
            messages,
            mailbox: mailbox.downgrade(),
            keys,
            bundle,
            is_kept,
            sign,
            clock,
            queue: Queue::default(),
            in_flight: 0,
            once: Arc::new(Semaphore::new(PARALLEL)),
            backoff: Backoff::default(),
            away: None,
            refused: HashMap::new(),
            reason: String::new(),
            metrics,
            changes,
        };
        tokio::spawn(task.run());
        Self { mailbox, count }
    }

    /// Whether the task has ended, which happens only by a bug.
    pub(super) fn is_stopped(&self) -> bool {
        self.mailbox.is_closed()
    }

    /// The number of tokens in the cache.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes tokens that an earlier process of the agent had.
    pub(super) async fn restore(&self, tokens: Vec<(JwtKey, Arc<JwtSvid>)>) {
        let _ = self.mailbox.send(Message::Restore(tokens)).await;
    }

    /// All tokens that are held.
    ///
    /// # Errors
    /// [`Stopped`].
    pub(super) async fn all(&self) -> Result<Vec<(JwtKey, Arc<JwtSvid>)>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::All(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// The JWT-SVID of an entry for an audience.
    pub(super) async fn get(&self, entry: &Arc<Entry>, audience: &[String]) -> Answer {
        let key = JwtKey::new(Arc::clone(&entry.id), audience);
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Get(Arc::clone(entry), key, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)?
    }

    /// Follows the JWT-SVID of an entry for an audience: a new one comes before half the life of the last is over.
    pub(super) async fn follow(
        &self,
        entry: &Arc<Entry>,
        audience: &[String],
    ) -> Result<Following, TokenError> {
        let key = JwtKey::new(Arc::clone(&entry.id), audience);
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Follow(Arc::clone(entry), key, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)?
    }
}

struct Task {
    cache: JwtCache,
    followers: Followers,
    count: Arc<AtomicUsize>,
    messages: mpsc::Receiver<Message>,
    mailbox: mpsc::WeakSender<Message>,
    bundle: watch::Receiver<Arc<Bundle>>,
    /// The IDs of the keys that the bundle had last.
    keys: HashSet<String>,
    is_kept: IsKept,
    sign: Sign,
    clock: fn() -> SystemTime,
    /// The tokens that the server was or will be asked for.
    queue: Queue,
    /// Calls that are under way, at most [`PARALLEL`].
    in_flight: usize,
    /// Limits the calls for tokens that are not kept.
    once: Arc<Semaphore>,
    backoff: Backoff,
    /// When the server could not be reached last, and why. Callers are told so for a moment, instead of calling again at
    /// once.
    away: Option<(Instant, TokenError)>,
    /// The same for single tokens that the server did not sign.
    refused: HashMap<JwtKey, (Instant, TokenError)>,
    /// The last reason that was logged.
    reason: String,
    metrics: Metrics,
    /// Hears of changes of what a later process of the agent needs.
    changes: Changes,
}

impl Task {
    async fn run(mut self) {
        loop {
            let alarm = self.alarm();
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(Message::Get(entry, key, reply)) => self.get(entry, key, reply),
                    Some(Message::Follow(entry, key, reply)) => self.follow(entry, key, reply),
                    Some(Message::Signed(key, signed)) => self.signed(key, signed),
                    Some(Message::Restore(tokens)) => self.restore(tokens),
                    Some(Message::All(reply)) => drop(reply.send(self.all())),
                    None => return,
                },
                Ok(()) = self.bundle.changed() => self.drop_distrusted(),
                () = tokio::time::sleep_until(alarm) => {}
            }
            for key in self.cache.take_due((self.clock)()) {
                if (self.is_kept)(key.entry_id()) {
                    self.refresh(key);
                } else {
                    self.cache.drop_where(|held, _| *held == key);
                }
            }
            for key in self.followers.take_due((self.clock)()) {
                self.refresh(key);
            }
            self.call();
            let count = self.cache.len();
            if self.count.swap(count, Ordering::Relaxed) != count {
                #[expect(clippy::cast_precision_loss, reason = "the cache has a limit")]
                self.metrics.set(&names::JWT_SVIDS, &[], count as f64);
            }
        }
    }

    fn get(&mut self, entry: Arc<Entry>, key: JwtKey, reply: oneshot::Sender<Answer>) {
        if entry.jwt_svid_include_jti {
            // A token with a `jti` is for one caller. The entry may have got the flag while it had tokens.
            self.cache.drop_where(|held, _| *held.entry_id() == entry.id);
            self.sign_once(entry, key, reply);
            return;
        }
        match self.cache.get(&key, &entry.spiffe_id, (self.clock)()) {
            Found::Fresh(svid) => {
                self.metrics.add(&names::JWT_CACHE, &["cache"], 1);
                drop(reply.send(Ok(svid)));
            }
            Found::Aging(svid) => {
                self.metrics.add(&names::JWT_CACHE, &["cache"], 1);
                drop(reply.send(Ok(svid)));
                // Its refresh may have been put off until its expiry, because nobody had asked for it.
                if !self.backoff.is_failing() {
                    self.refresh(key);
                }
            }
            Found::Missing => self.ask(entry, key, reply),
        }
    }

    fn follow(
        &mut self,
        entry: Arc<Entry>,
        key: JwtKey,
        reply: oneshot::Sender<Result<Following, TokenError>>,
    ) {
        let id = entry.spiffe_id.clone();
        let added = self.followers.add(entry, key.clone());
        let is_wanted = matches!(added, Ok((_, true)));
        let _ = reply.send(added.map(|(updates, _)| updates));
        if is_wanted {
            let now = (self.clock)();
            match self.cache.get(&key, &id, now) {
                Found::Fresh(svid) | Found::Aging(svid) => self.followers.put_cached(&key, &svid, now),
                Found::Missing => self.refresh(key),
            }
        }
    }

    /// Puts a token into the queue for a caller, unless it is there already.
    fn ask(&mut self, entry: Arc<Entry>, key: JwtKey, reply: oneshot::Sender<Answer>) {
        let failures = [self.away.as_ref(), self.refused.get(&key)];
        if let Some((_, reason)) = failures.into_iter().flatten().find(|(at, _)| at.elapsed() < PAUSE) {
            drop(reply.send(Err(reason.clone())));
        } else if let Err(reply) = self.queue.ask(key, entry, reply, &is_wanted(&self.cache, &self.followers))
        {
            drop(reply.send(Err(TokenError::Busy)));
        }
    }

    /// Puts a token that is held into the queue, unless it is there already.
    fn refresh(&mut self, key: JwtKey) {
        if !self.queue.refresh(&key, &is_wanted(&self.cache, &self.followers)) {
            self.put_off(&key, (self.clock)() + REFUSED);
        }
    }

    /// Asks for a token that is held or followed at this time instead of now.
    fn put_off(&mut self, key: &JwtKey, until: SystemTime) {
        self.cache.failed(key, until);
        self.followers.retry(key, until);
    }

    /// Calls the server for those whose turn it is.
    fn call(&mut self) {
        while self.in_flight < PARALLEL {
            let Some(mailbox) = self.mailbox.upgrade() else { return };
            let next = self.queue.next(&is_wanted(&self.cache, &self.followers));
            let Some(key) = next else { return };
            self.in_flight += 1;
            let signing = (self.sign)(key.clone());
            tokio::spawn(async move {
                // A call that panics is an answer, too.
                let signed = tokio::spawn(signing).await;
                let signed = signed.unwrap_or(Err(ServerError::Protocol("signing was interrupted")));
                let _ = mailbox.send(Message::Signed(key, signed)).await;
            });
        }
    }

    /// Calls the server for one caller. The token is not kept.
    fn sign_once(&self, entry: Arc<Entry>, key: JwtKey, mut reply: oneshot::Sender<Answer>) {
        let (sign, once) = (Arc::clone(&self.sign), Arc::clone(&self.once));
        let signing = async move {
            let _place = once.acquire().await;
            let signed = sign(key).await;
            let svid = signed.map_err(|reason| TokenError::Server(failed::rpc_error(&reason)))?;
            of_entry(&entry, &Arc::new(svid))
        };
        tokio::spawn(async move {
            tokio::select! {
                answer = signing => drop(reply.send(answer)),
                () = reply.closed() => {}
            }
        });
    }

    fn signed(&mut self, key: JwtKey, signed: Result<JwtSvid, ServerError>) {
        self.in_flight -= 1;
        let callers = self.queue.answered(&key);
        if signed.is_ok() {
            self.metrics.add(&names::JWT_CACHE, &["server"], callers.len() as u64);
        }
        let now = (self.clock)();
        match signed {
            Ok(svid) => {
                self.backoff.reset();
                self.away = None;
                self.reason.clear();
                let svid = Arc::new(svid);
                debug!(entry = %key.entry_id(), spiffe_id = %svid.id, "JWT-SVID updated");
                if self.tainted().contains(&svid.key_id) {
                    // A replica that lags behind still signs with that key.
                    self.put_off(&key, now + REFUSED);
                } else {
                    let draw = rand::rng().random();
                    self.followers.put(&key, &svid, draw, now);
                    self.cache.put(key, Arc::clone(&svid), draw, now);
                    self.changes.note();
                }
                for (entry, reply) in callers {
                    let _ = reply.send(of_entry(&entry, &svid));
                }
            }
            Err(reason) => self.not_signed(key, &reason, callers, now),
        }
    }

    /// Takes tokens that an earlier process had. They are renewed when they would have been.
    fn restore(&mut self, tokens: Vec<(JwtKey, Arc<JwtSvid>)>) {
        for (key, svid) in tokens {
            let issued_at = svid.issued_at;
            self.cache.put(key, svid, rand::rng().random(), issued_at);
        }
    }

    fn all(&self) -> Vec<(JwtKey, Arc<JwtSvid>)> {
        self.cache.iter().map(|(key, svid)| (key.clone(), Arc::clone(svid))).collect()
    }

    fn not_signed(&mut self, key: JwtKey, reason: &ServerError, callers: Vec<Asker>, now: SystemTime) {
        let asks_for = reason.retry_after().unwrap_or_default();
        let failure = TokenError::Server(failed::rpc_error(reason));
        let is_at_hand = self.cache.holds(&key) || self.followers.have(&key, now);
        self.log_failure(&key, reason, callers.is_empty() && is_at_hand);
        // What the server says of one token says nothing of the others.
        if matches!(reason.code(), None | Some(Code::Unavailable)) {
            let wait = self.backoff.wait(Need::urgent_if(!callers.is_empty() || self.followers.has(&key)));
            self.put_off(&key, now + wait.max(asks_for));
            self.away = Some((Instant::now(), failure.clone()));
        } else {
            self.put_off(&key, now + REFUSED.max(asks_for));
            self.refused.retain(|_, (at, _)| at.elapsed() < PAUSE);
            if self.refused.len() < queue::WAITING {
                self.refused.insert(key, (Instant::now(), failure.clone()));
            }
        }
        for (_, reply) in callers {
            let _ = reply.send(Err(failure.clone()));
        }
    }

    /// Logs a reason once, until another one comes or the server signs.
    fn log_failure(&mut self, key: &JwtKey, reason: &ServerError, is_refresh: bool) {
        let (entry, reason) = (key.entry_id(), failed::rpc_error(reason));
        if self.reason == reason {
            debug!(%entry, error = %reason, "Failed to mint JWT-SVID");
        } else if is_refresh {
            warn!(%entry, error = %reason, "Unable to renew JWT; the one at hand is served until it expires");
            self.reason = reason;
        } else {
            error!(%entry, error = %reason, "Failed to mint JWT-SVID");
            self.reason = reason;
        }
    }

    fn tainted(&self) -> HashSet<String> {
        let bundle = self.bundle.borrow();
        let tainted = bundle.jwt_authorities.iter().filter(|authority| authority.tainted);
        tainted.map(|authority| authority.key_id.clone()).collect()
    }

    /// Drops the tokens whose key has become tainted or has left the bundle. The next caller makes the server sign another
    /// one. A key that the bundle has not had yet is a new one of the server's.
    fn drop_distrusted(&mut self) {
        let keys: HashSet<String> =
            self.bundle.borrow_and_update().jwt_authorities.iter().map(|key| key.key_id.clone()).collect();
        let removed: HashSet<String> = self.keys.difference(&keys).cloned().collect();
        self.keys = keys;
        let tainted = self.tainted();
        let search = names::PROCESS_TAINTED_JWT.start(&self.metrics);
        let count = self.cache.drop_where(|_, svid| tainted.contains(&svid.key_id));
        if !tainted.is_empty() {
            search.end("OK");
            changes::sample(&self.metrics, &names::TAINTED_JWT, count);
        }
        if count > 0 {
            info!(
                count_jwt_svids = count,
                "JWT-SVIDs were removed from the JWT cache because they were issued by a tainted authority"
            );
        }
        self.cache.drop_where(|_, svid| removed.contains(&svid.key_id));
        self.followers.distrust(|key| tainted.contains(key) || removed.contains(key), (self.clock)());
    }

    fn alarm(&self) -> Instant {
        let due = self.cache.wake_at().into_iter().chain(self.followers.wake_at()).min();
        let due = due.map(|at| at.duration_since((self.clock)()).unwrap_or_default());
        Instant::now() + due.unwrap_or(LONGEST).min(LONGEST)
    }
}

/// Whether a token is still to be refreshed, though nobody waits for it.
fn is_wanted(cache: &JwtCache, followers: &Followers) -> impl Fn(&JwtKey) -> bool {
    |key| followers.has(key) || cache.holds(key)
}

/// The answer to a caller by this entry, which may grant another ID since the token was asked for.
fn of_entry(entry: &Entry, svid: &Arc<JwtSvid>) -> Answer {
    if entry.spiffe_id == svid.id {
        return Ok(Arc::clone(svid));
    }
    Err(TokenError::Server(format!("the server signed for {} instead of {}", svid.id, entry.spiffe_id)))
}

/// The wait before a token is refreshed that the server did not sign.
const REFUSED: Duration = Duration::from_secs(10);
/// The most calls that are under way at one time. A server signs 500 a second.
const PARALLEL: usize = 16;
/// The most messages that wait. A sender waits for room.
const MAILBOX: usize = 1024;
/// How long after a failure callers are told of it without another call.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest sleep, because the wall clock can jump.
const LONGEST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
