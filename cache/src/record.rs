//! One entry with its SVID, and when a new one is due.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{Entry, X509Svid};

/// What is minted before anybody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Every authorised entry, as spire-agent does.
    All,
    /// Every one while there are at most [`Options::prefetch_limit`], else as `Live`.
    #[default]
    Auto,
    /// Entries with a live caller, and those that had one within [`Options::linger`].
    Live,
}

/// The cache's rules.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is minted before anybody asks.
    pub prefetch: Prefetch,
    /// Up to how many entries [`Prefetch::Auto`] mints all.
    pub prefetch_limit: usize,
    /// How long an identity is kept fresh after its last caller went.
    pub linger: Duration,
    /// `availability_target`: rotate at the latest when so much is left (SPIRE, `rotationutil`).
    pub availability_target: Option<Duration>,
    /// How many SVIDs of a distrusted authority are replaced in a second: a fifth of what the server signs for one address.
    pub distrusted_per_second: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefetch: Prefetch::Auto,
            prefetch_limit: 256,
            linger: Duration::from_secs(3600),
            availability_target: None,
            distrusted_per_second: 100,
        }
    }
}

impl Options {
    /// When an SVID that has just come is to be replaced: one draw per SVID (uniform in 0..1), so the time is stable,
    /// and spread over the SVIDs. Half the lifetime ± 10 % of that half is left, or the availability target + up to
    /// 10 min, whichever comes first; the target counts only where more than 12 h remain before it (SPIRE,
    /// `rotationutil`).
    ///
    /// That time can be over on arrival: our clock is ahead, the authority is about to expire, the lifetime is a few
    /// seconds and begins ten seconds ago. Then it is half of what is left, and never at once: or the server would be
    /// asked without a pause.
    #[must_use]
    pub fn renew_at<K>(&self, svid: &X509Svid<K>, draw: f64, now: SystemTime) -> SystemTime {
        let lifetime = svid.not_after.duration_since(svid.not_before).unwrap_or_default();
        let spread = 0.9 + 0.2 * draw;
        let mut left = (lifetime / 2).mul_f64(spread);
        if let Some(target) =
            self.availability_target.filter(|target| lifetime.saturating_sub(*target) > GUARD)
        {
            left = left.max(target + SPREAD.mul_f64(draw));
        }
        let planned = svid.not_after.checked_sub(left).unwrap_or(UNIX_EPOCH);
        let remaining = svid.not_after.duration_since(now).unwrap_or_default();
        if planned >= now + (remaining / 4).clamp(PAUSE, SOON) {
            return planned;
        }
        now + (remaining / 2).mul_f64(spread).max(PAUSE)
    }
}

/// An entry and the state of its SVID.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) entry: Arc<Entry>,
    pub(crate) minted: Option<Minted>,
    /// A mint is under way.
    pub(crate) in_flight: bool,
    /// What comes of it is to be replaced at once.
    pub(crate) again: bool,
    /// Not before this, after a failure.
    pub(crate) retry_at: Option<SystemTime>,
    /// Subscribers whose view holds the entry.
    pub(crate) callers: usize,
    /// When the last caller went.
    pub(crate) last_caller: Option<SystemTime>,
    /// The key under which the entry stands in the queue.
    pub(crate) queued: Option<SystemTime>,
}

/// An SVID and what it was minted for.
#[derive(Debug)]
pub(crate) struct Minted {
    pub(crate) svid: Arc<X509Svid>,
    pub(crate) revision: i64,
    pub(crate) renew_at: SystemTime,
}

impl Record {
    pub(crate) fn new(entry: Arc<Entry>) -> Self {
        Self {
            entry,
            minted: None,
            in_flight: false,
            again: false,
            retry_at: None,
            callers: 0,
            last_caller: None,
            queued: None,
        }
    }

    /// Whether the entry is to have a fresh SVID at all.
    pub(crate) fn wanted(&self, all: bool, linger: Duration, now: SystemTime) -> bool {
        let recent = || self.last_caller.is_some_and(|last| last + linger > now);
        !self.entry.store_svid
            && (self.callers > 0 || (all && !self.entry.disable_x509_svid_prefetch) || recent())
    }

    /// When a new SVID is due. Missing ones come before everything, those with callers first of all.
    pub(crate) fn due_at(&self) -> SystemTime {
        let due = match &self.minted {
            Some(minted) if minted.revision == self.entry.revision => minted.renew_at,
            None if self.callers > 0 => UNIX_EPOCH,
            _ => UNIX_EPOCH + Duration::from_secs(1),
        };
        self.retry_at.map_or(due, |retry| retry.max(due))
    }
}

const PAUSE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(30);
const GUARD: Duration = Duration::from_hours(12);
const SPREAD: Duration = Duration::from_mins(10);
