//! The task that owns the cache of JWT-SVIDs. It shares nothing with the task of X.509-SVIDs but the server.
//!
//! A cached token is handed out without a call to the server, also while it is being refreshed, so callers do not notice an
//! outage until a token has expired. Callers that ask for the same token wait for one call.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use cache::{Found, JwtCache, JwtKey};
use futures_util::future::BoxFuture;
use identity::{Bundle, Entry, JwtSvid};
use rand::Rng as _;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::Stopped;
use crate::upstream::backoff::{Backoff, Need};
use crate::upstream::{ServerError, failed};

/// Has the server sign a JWT-SVID for an entry and an audience.
pub(crate) type Sign = Arc<dyn Fn(JwtKey) -> BoxFuture<'static, Result<JwtSvid, ServerError>> + Send + Sync>;

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
    /// The agent is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

type Answer = Result<Arc<JwtSvid>, TokenError>;

enum Message {
    Get(Arc<Entry>, JwtKey, oneshot::Sender<Answer>),
    Signed(JwtKey, Result<JwtSvid, ServerError>),
}

impl Tokens {
    /// Starts the task. It holds at most `limit` tokens, and drops those whose key `bundle` says is tainted.
    pub(super) fn start(
        sign: Sign,
        limit: usize,
        bundle: watch::Receiver<Arc<Bundle>>,
        clock: fn() -> SystemTime,
    ) -> Self {
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let count = Arc::<AtomicUsize>::default();
        let task = Task {
            cache: JwtCache::new(limit),
            count: Arc::clone(&count),
            messages,
            mailbox: mailbox.downgrade(),
            bundle,
            sign,
            clock,
            asked: HashMap::new(),
            queue: VecDeque::new(),
            in_flight: 0,
            once: Arc::new(Semaphore::new(PARALLEL)),
            backoff: Backoff::default(),
            last_failure: None,
        };
        tokio::spawn(task.run());
        Self { mailbox, count }
    }

    /// The number of tokens in the cache.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The JWT-SVID of an entry for an audience.
    pub(super) async fn get(&self, entry: &Arc<Entry>, audience: &[String]) -> Answer {
        let key = JwtKey::new(Arc::clone(&entry.id), audience);
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Get(Arc::clone(entry), key, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)?
    }
}

/// Callers of a token that the server has been asked for. There is none if it is only refreshed.
#[derive(Default)]
struct Asked {
    callers: Vec<(Arc<Entry>, oneshot::Sender<Answer>)>,
}

struct Task {
    cache: JwtCache,
    count: Arc<AtomicUsize>,
    messages: mpsc::Receiver<Message>,
    mailbox: mpsc::WeakSender<Message>,
    bundle: watch::Receiver<Arc<Bundle>>,
    sign: Sign,
    clock: fn() -> SystemTime,
    /// The tokens that the server was or will be asked for.
    asked: HashMap<JwtKey, Asked>,
    /// Those of them that wait for their turn: entries take turns, so that nobody waits for a workload with many audiences.
    queue: VecDeque<(Arc<str>, VecDeque<JwtKey>)>,
    /// Calls that are under way, at most [`PARALLEL`].
    in_flight: usize,
    /// Limits the calls for tokens that are not kept.
    once: Arc<Semaphore>,
    backoff: Backoff,
    /// When a call failed last, and why. Callers are told so for a moment, instead of calling again at once.
    last_failure: Option<(Instant, TokenError)>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let alarm = self.alarm();
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(Message::Get(entry, key, reply)) => self.get(entry, key, reply),
                    Some(Message::Signed(key, signed)) => self.signed(key, signed),
                    None => return,
                },
                Ok(()) = self.bundle.changed() => self.drop_tainted(),
                () = tokio::time::sleep_until(alarm) => {}
            }
            for key in self.cache.take_due((self.clock)()) {
                self.ask(key, None);
            }
            self.call();
            self.count.store(self.cache.len(), Ordering::Relaxed);
        }
    }

    fn get(&mut self, entry: Arc<Entry>, key: JwtKey, reply: oneshot::Sender<Answer>) {
        match self.cache.get(&key, &entry.spiffe_id, (self.clock)()) {
            Found::Fresh(svid) => drop(reply.send(Ok(svid))),
            Found::Aging(svid) => {
                drop(reply.send(Ok(svid)));
                // Its refresh may have been put off until its expiry, because nobody had asked for it.
                if !self.backoff.is_failing() {
                    self.ask(key, None);
                }
            }
            Found::Missing => match &self.last_failure {
                Some((at, reason)) if at.elapsed() < PAUSE => drop(reply.send(Err(reason.clone()))),
                _ => self.ask(key, Some((entry, reply))),
            },
        }
    }

    /// Puts a token into the queue, unless it is there already.
    fn ask(&mut self, key: JwtKey, caller: Option<(Arc<Entry>, oneshot::Sender<Answer>)>) {
        // A token with a `jti` is for one caller, so each caller has a call of its own.
        if let Some((entry, reply)) = caller {
            if entry.jwt_svid_include_jti {
                self.sign_once(key, reply);
                return;
            }
            let asked = self.asked.entry(key.clone());
            let is_new = matches!(asked, std::collections::hash_map::Entry::Vacant(_));
            asked.or_default().callers.push((entry, reply));
            if is_new {
                self.enqueue(key);
            }
        } else if !self.asked.contains_key(&key) {
            self.asked.insert(key.clone(), Asked::default());
            self.enqueue(key);
        }
    }

    fn enqueue(&mut self, key: JwtKey) {
        match self.queue.iter_mut().find(|(entry_id, _)| entry_id == key.entry_id()) {
            Some((_, keys)) => keys.push_back(key),
            None => self.queue.push_back((Arc::clone(key.entry_id()), [key].into())),
        }
    }

    /// Calls the server for those whose turn it is.
    fn call(&mut self) {
        while self.in_flight < PARALLEL {
            let Some((entry_id, mut keys)) = self.queue.pop_front() else { return };
            let key = keys.pop_front();
            if !keys.is_empty() {
                self.queue.push_back((entry_id, keys));
            }
            let (Some(key), Some(mailbox)) = (key, self.mailbox.upgrade()) else { return };
            self.in_flight += 1;
            let signing = (self.sign)(key.clone());
            tokio::spawn(async move {
                let signed = signing.await;
                let _ = mailbox.send(Message::Signed(key, signed)).await;
            });
        }
    }

    /// Calls the server for one caller. The token is not kept.
    fn sign_once(&self, key: JwtKey, mut reply: oneshot::Sender<Answer>) {
        let (sign, once) = (Arc::clone(&self.sign), Arc::clone(&self.once));
        let signing = async move {
            let _place = once.acquire().await;
            sign(key).await
        };
        tokio::spawn(async move {
            tokio::select! {
                signed = signing => {
                    let answer = signed.map(Arc::new).map_err(|reason| TokenError::Server(failed::rpc_error(&reason)));
                    let _ = reply.send(answer);
                }
                () = reply.closed() => {}
            }
        });
    }

    fn signed(&mut self, key: JwtKey, signed: Result<JwtSvid, ServerError>) {
        self.in_flight -= 1;
        let callers = self.asked.remove(&key).unwrap_or_default().callers;
        let now = (self.clock)();
        match signed {
            Ok(svid) => {
                self.backoff.reset();
                self.last_failure = None;
                let svid = Arc::new(svid);
                debug!(entry = %key.entry_id(), spiffe_id = %svid.id, "JWT-SVID updated");
                if !self.tainted().contains(&svid.key_id) {
                    self.cache.put(key, Arc::clone(&svid), rand::rng().random(), now);
                }
                for (entry, reply) in callers {
                    // The entry may grant another ID since the token was asked for.
                    let answer = if entry.spiffe_id == svid.id {
                        Ok(Arc::clone(&svid))
                    } else {
                        Err(TokenError::Server(format!(
                            "the server signed for {} instead of {}",
                            svid.id, entry.spiffe_id
                        )))
                    };
                    let _ = reply.send(answer);
                }
            }
            Err(reason) => {
                let wait = self.backoff.wait(Need::urgent_if(!callers.is_empty()));
                let wait = wait.max(reason.retry_after().unwrap_or_default());
                self.cache.failed(&key, now + wait);
                let reason = failed::rpc_error(&reason);
                if callers.is_empty() {
                    warn!(entry = %key.entry_id(), error = %reason, "Unable to renew JWT; the one at hand is served until it expires");
                } else {
                    error!(entry = %key.entry_id(), error = %reason, "Failed to mint JWT-SVID");
                }
                let failure = TokenError::Server(reason);
                for (_, reply) in callers {
                    let _ = reply.send(Err(failure.clone()));
                }
                self.last_failure = Some((Instant::now(), failure));
            }
        }
    }

    fn tainted(&self) -> HashSet<String> {
        let bundle = self.bundle.borrow();
        let tainted = bundle.jwt_authorities.iter().filter(|authority| authority.tainted);
        tainted.map(|authority| authority.key_id.clone()).collect()
    }

    /// Drops the tokens whose key has become tainted. The next caller makes the server sign another one.
    fn drop_tainted(&mut self) {
        self.bundle.borrow_and_update();
        let tainted = self.tainted();
        let count = self.cache.drop_where(|_, svid| tainted.contains(&svid.key_id));
        if count > 0 {
            info!(
                count_jwt_svids = count,
                "JWT-SVIDs were removed from the JWT cache because they were issued by a tainted authority"
            );
        }
    }

    fn alarm(&self) -> Instant {
        let due = self.cache.wake_at().map(|at| at.duration_since((self.clock)()).unwrap_or_default());
        Instant::now() + due.unwrap_or(LONGEST).min(LONGEST)
    }
}

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
