//! Those who are sent a JWT-SVID whenever a new one comes (`jwt-svid?…` over SDS).
//!
//! A token that is followed has a schedule of its own: it is asked for again at 40–50 % of its life, whether or not the
//! cache still has it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cache::JwtKey;
use identity::{Entry, JwtSvid};
use latest::Publisher;

use super::{Following, REFUSED, TokenError};

/// All tokens that are followed.
#[derive(Debug, Default)]
pub(super) struct Followers(HashMap<JwtKey, Followed>);

#[derive(Debug)]
struct Followed {
    /// The entry as it is now. A token of another SPIFFE ID is not sent.
    entry: Arc<Entry>,
    newest: Publisher<Option<Arc<JwtSvid>>>,
    /// The ID of the key that signed the newest.
    key_id: String,
    /// When the newest expires.
    expires_at: SystemTime,
    /// When the server is asked again; `None` while it is asked.
    next: Option<SystemTime>,
    /// The longest that `next` can be away. More means that the clock was set back.
    longest: Duration,
}

impl Followers {
    /// Adds a follower. Returns its subscription, and whether a token must be looked for.
    pub(super) fn add(&mut self, entry: Arc<Entry>, key: JwtKey) -> Result<(Following, bool), TokenError> {
        if entry.jwt_svid_include_jti {
            return Err(TokenError::ForOneUse);
        }
        if !self.0.contains_key(&key) {
            self.forget_unheard();
            let of_entry = self.0.keys().filter(|other| other.entry_id() == key.entry_id()).count();
            if self.0.len() >= FOLLOWED || of_entry >= FOLLOWED_OF_ENTRY {
                return Err(TokenError::Busy);
            }
        }
        match self.0.entry(key) {
            Place::Occupied(place) => {
                let followed = place.into_mut();
                let is_other = followed.entry.spiffe_id != entry.spiffe_id;
                followed.entry = entry;
                if is_other {
                    followed.newest.publish(Arc::new(None));
                    followed.next = None;
                }
                Ok((followed.newest.subscribe(), is_other))
            }
            Place::Vacant(place) => {
                let newest = Publisher::new(Arc::new(None));
                let updates = newest.subscribe();
                place.insert(Followed {
                    entry,
                    newest,
                    key_id: String::new(),
                    expires_at: SystemTime::UNIX_EPOCH,
                    next: None,
                    longest: Duration::MAX,
                });
                Ok((updates, true))
            }
        }
    }

    /// Whether somebody follows this token.
    pub(super) fn has(&self, key: &JwtKey) -> bool {
        self.0.get(key).is_some_and(|followed| followed.newest.has_listeners())
    }

    /// Whether those who follow this token have one that is valid.
    pub(super) fn have(&self, key: &JwtKey, now: SystemTime) -> bool {
        self.0.get(key).is_some_and(|followed| followed.expires_at > now)
    }

    /// Sends a token that came now. `draw` (uniform in 0..1) decides when the next one is asked for.
    pub(super) fn put(&mut self, key: &JwtKey, svid: &Arc<JwtSvid>, draw: f64, now: SystemTime) {
        let Some(followed) = self.0.get_mut(key) else { return };
        let life = svid.expires_at.duration_since(now).unwrap_or_default();
        if svid.id != followed.entry.spiffe_id || life.is_zero() {
            // The entry was changed while the server was asked, or a clock is wrong.
            followed.next = Some(now + REFUSED);
            return;
        }
        followed.next = Some(now + life.mul_f64(0.4 + 0.1 * draw).max(SOONEST));
        (followed.longest, followed.expires_at) = (life, svid.expires_at);
        followed.key_id.clone_from(&svid.key_id);
        followed.newest.publish(Arc::new(Some(Arc::clone(svid))));
    }

    /// Sends a token of the cache, which is as old as it is.
    pub(super) fn put_cached(&mut self, key: &JwtKey, svid: &Arc<JwtSvid>, now: SystemTime) {
        self.put(key, svid, 0.0, now);
        if let Some(followed) = self.0.get_mut(key).filter(|followed| followed.entry.spiffe_id == svid.id) {
            let life = svid.expires_at.duration_since(svid.issued_at).unwrap_or_default();
            followed.next = Some((svid.issued_at + life.mul_f64(0.4)).max(now));
        }
    }

    /// Asks again at this time, because there was no token.
    pub(super) fn retry(&mut self, key: &JwtKey, at: SystemTime) {
        if let Some(followed) = self.0.get_mut(key) {
            followed.next = Some(at);
            followed.longest = Duration::MAX;
        }
    }

    /// Asks now for those whose newest token was signed by one of these keys, and gives it to nobody any more.
    pub(super) fn distrust(&mut self, is_distrusted: impl Fn(&str) -> bool, now: SystemTime) {
        for followed in self.0.values_mut().filter(|followed| is_distrusted(&followed.key_id)) {
            followed.next = Some(now);
            // Whoever has it keeps it until the next one comes. It is given to nobody else.
            followed.newest.publish(Arc::new(None));
        }
    }

    /// The tokens that the server must be asked for now. They are not named again until [`Followers::put`] or
    /// [`Followers::retry`].
    pub(super) fn take_due(&mut self, now: SystemTime) -> Vec<JwtKey> {
        if !self.0.values().any(|followed| followed.is_due(now)) {
            return Vec::new();
        }
        self.forget_unheard();
        let due = self.0.iter_mut().filter(|(_, followed)| followed.is_due(now));
        let due = due.map(|(key, followed)| {
            followed.next = None;
            key.clone()
        });
        due.collect()
    }

    /// When [`Followers::take_due`] may next have something to do.
    pub(super) fn wake_at(&self) -> Option<SystemTime> {
        self.0.values().filter_map(|followed| followed.next).min()
    }

    fn forget_unheard(&mut self) {
        self.0.retain(|_, followed| followed.newest.has_listeners());
    }
}

impl Followed {
    fn is_due(&self, now: SystemTime) -> bool {
        let was_set_back = |at: SystemTime| at.duration_since(now).is_ok_and(|wait| wait > self.longest);
        self.next.is_some_and(|at| at <= now || was_set_back(at))
    }
}

/// The most tokens that are followed, in all and of one entry.
const FOLLOWED: usize = 4096;
const FOLLOWED_OF_ENTRY: usize = 64;
/// The server is not asked more often, even if its tokens live for a moment.
const SOONEST: Duration = Duration::from_secs(1);
