//! JWT-SVIDs by entry and audience. It has an owner task of its own and knows nothing of X.509-SVIDs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use identity::{JwtSvid, SpiffeId};

/// What a JWT-SVID is for: an entry, and a set of audiences in one order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwtKey {
    entry_id: Arc<str>,
    audience: Arc<[String]>,
}

impl JwtKey {
    /// The key of an entry and its audiences, in any order.
    #[must_use]
    pub fn new(entry_id: Arc<str>, audience: &[String]) -> Self {
        let audience: BTreeSet<&String> = audience.iter().collect();
        Self { entry_id, audience: audience.into_iter().cloned().collect() }
    }

    /// The ID of the entry.
    #[must_use]
    pub fn entry_id(&self) -> &Arc<str> {
        &self.entry_id
    }

    /// The audiences, ascending and each once.
    #[must_use]
    pub fn audience(&self) -> &Arc<[String]> {
        &self.audience
    }
}

/// The tokens that are held. When it is full, the entry with most tokens, or bytes, loses the one that nobody has asked for the
/// longest, so that a workload with ever new audiences displaces its own.
#[derive(Debug)]
pub struct JwtCache {
    limit: usize,
    held: HashMap<JwtKey, Held>,
    by_entry: HashMap<Arc<str>, OfEntry>,
    /// When tokens are refreshed or dropped, with the number of their last change.
    queue: BTreeMap<(SystemTime, u64), JwtKey>,
    /// What the tokens and their keys take, in bytes.
    bytes: usize,
    /// Counts uses and changes, so that each has its own number.
    ticks: u64,
}

/// What is held for one entry.
#[derive(Debug, Default)]
struct OfEntry {
    /// By the moment of their last use.
    keys: BTreeMap<u64, JwtKey>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    svid: Arc<JwtSvid>,
    refresh_at: SystemTime,
    /// Its place in [`JwtCache::by_entry`].
    used: u64,
    /// Its place in [`JwtCache::queue`]; `None` while it is being refreshed.
    queued: Option<(SystemTime, u64)>,
    /// Somebody has asked for it since it came. One that nobody asks for is not refreshed.
    wanted: bool,
}

/// The answer of the cache.
#[derive(Debug, Clone)]
pub enum Found {
    /// A token in the first half of its life.
    Fresh(Arc<JwtSvid>),
    /// A token that is valid, but should be refreshed.
    Aging(Arc<JwtSvid>),
    /// None that is valid.
    Missing,
}

impl JwtCache {
    /// An empty cache for this many tokens.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            held: HashMap::new(),
            by_entry: HashMap::new(),
            queue: BTreeMap::new(),
            bytes: 0,
            ticks: 0,
        }
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All tokens, valid or not, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&JwtKey, &Arc<JwtSvid>)> {
        self.held.iter().map(|(key, held)| (key, &held.svid))
    }

    /// Whether a token is held, valid or not.
    #[must_use]
    pub fn holds(&self, key: &JwtKey) -> bool {
        self.held.contains_key(key)
    }

    /// Looks a token up. `id` is what the entry grants now: a token of another SPIFFE ID is dropped.
    pub fn get(&mut self, key: &JwtKey, id: &SpiffeId, now: SystemTime) -> Found {
        let Some(held) = self.held.get(key) else { return Found::Missing };
        if held.svid.expired(now) || held.svid.id != *id {
            self.remove(key);
            return Found::Missing;
        }
        let used = self.tick();
        let Some(held) = self.held.get_mut(key) else { return Found::Missing };
        if let Some(of_entry) = self.by_entry.get_mut(&key.entry_id) {
            of_entry.keys.remove(&held.used);
            of_entry.keys.insert(used, key.clone());
        }
        (held.used, held.wanted) = (used, true);
        let svid = Arc::clone(&held.svid);
        if now < held.refresh_at { Found::Fresh(svid) } else { Found::Aging(svid) }
    }

    /// Takes a token that came now. `draw` (uniform in 0..1) decides when it is refreshed: at 40–50 % of its life.
    pub fn put(&mut self, key: JwtKey, svid: Arc<JwtSvid>, draw: f64, now: SystemTime) {
        self.remove(&key);
        let life = svid.expires_at.duration_since(now).unwrap_or_default();
        let size = weight(&key, &svid);
        if life.is_zero() || size > LARGEST {
            return;
        }
        let refresh_at = now + life.mul_f64(0.4 + 0.1 * draw);
        let (used, change) = (self.tick(), self.tick());
        let queued = Some((refresh_at, change));
        self.bytes += size;
        let of_entry = self.by_entry.entry(Arc::clone(&key.entry_id)).or_default();
        of_entry.keys.insert(used, key.clone());
        of_entry.bytes += size;
        self.queue.insert((refresh_at, change), key.clone());
        self.held.insert(key, Held { svid, refresh_at, used, queued, wanted: false });
        while self.held.len() > self.limit || self.bytes > BYTES {
            self.evict();
        }
    }

    /// The keys whose token must be refreshed now. They are not named again until [`JwtCache::put`] or
    /// [`JwtCache::failed`]. A token that nobody has asked for is dropped when it expires.
    pub fn take_due(&mut self, now: SystemTime) -> Vec<JwtKey> {
        let mut due = Vec::new();
        while let Some((&(time, change), _)) =
            self.queue.first_key_value().filter(|((time, _), _)| *time <= now)
        {
            let Some(key) = self.queue.remove(&(time, change)) else { break };
            let Some(held) = self.held.get_mut(&key) else { continue };
            held.queued = None;
            if held.svid.expired(now) {
                self.remove(&key);
            } else if held.wanted {
                due.push(key);
            } else {
                let at = held.svid.expires_at;
                self.requeue(&key, at);
            }
        }
        due
    }

    /// Notes that the server did not sign. The token is refreshed at this time instead, or dropped when it expires.
    pub fn failed(&mut self, key: &JwtKey, retry_at: SystemTime) {
        if let Some(expires_at) = self.held.get(key).map(|held| held.svid.expires_at) {
            self.requeue(key, retry_at.min(expires_at));
        }
    }

    /// When [`JwtCache::take_due`] may next have something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<SystemTime> {
        self.queue.first_key_value().map(|((time, _), _)| *time)
    }

    /// Drops the tokens for which this is true, and returns how many there were.
    pub fn drop_where(&mut self, mut gone: impl FnMut(&JwtKey, &JwtSvid) -> bool) -> usize {
        let keys: Vec<JwtKey> = self
            .held
            .iter()
            .filter(|(key, held)| gone(key, &held.svid))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &keys {
            self.remove(key);
        }
        keys.len()
    }

    fn requeue(&mut self, key: &JwtKey, at: SystemTime) {
        let change = self.tick();
        let Some(held) = self.held.get_mut(key) else { return };
        if let Some(old) = held.queued.replace((at, change)) {
            self.queue.remove(&old);
        }
        self.queue.insert((at, change), key.clone());
    }

    /// Drops the oldest token of the entry that has most of what is short.
    fn evict(&mut self) {
        let by_bytes = self.bytes > BYTES;
        let share = |of: &&OfEntry| if by_bytes { of.bytes } else { of.keys.len() };
        let most = self.by_entry.values().max_by_key(share);
        let Some(key) = most.and_then(|of| of.keys.values().next()).cloned() else { return };
        self.remove(&key);
    }

    fn remove(&mut self, key: &JwtKey) {
        let Some(held) = self.held.remove(key) else { return };
        let size = weight(key, &held.svid);
        self.bytes -= size;
        if let Some(queued) = held.queued {
            self.queue.remove(&queued);
        }
        if let Some(of_entry) = self.by_entry.get_mut(&key.entry_id) {
            of_entry.keys.remove(&held.used);
            of_entry.bytes -= size;
            if of_entry.keys.is_empty() {
                self.by_entry.remove(&key.entry_id);
            }
        }
    }

    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }
}

/// What a token and its key take, in bytes.
fn weight(key: &JwtKey, svid: &JwtSvid) -> usize {
    let audience: usize = key.audience.iter().map(|audience| audience.len() + OVERHEAD).sum();
    svid.token().len() + 2 * audience + OVERHEAD
}

/// What a string and its places in the maps take besides, in bytes.
const OVERHEAD: usize = 64;
/// The largest token that is kept, with its audiences.
const LARGEST: usize = 32 * 1024;
/// What all tokens may take.
const BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
