//! One entry with its SVID, and when a new one is due.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{Entry, X509Svid};

/// Which entries get an SVID before a caller asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefetch {
    /// Every authorized entry, as with spire-agent.
    All,
    /// As `All` while there are at most [`Options::prefetch_limit`] entries, otherwise as `Live`.
    #[default]
    Auto,
    /// Only entries with a live caller, and those that had one within [`Options::linger`].
    Live,
}

/// The settings of a [`crate::Cache`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Which entries get an SVID before a caller asks.
    pub prefetch: Prefetch,
    /// The most entries with which [`Prefetch::Auto`] mints all.
    pub prefetch_limit: usize,
    /// How long an SVID is renewed after its last caller has gone.
    pub linger: Duration,
    /// `availability_target`: an SVID is renewed at the latest when this much of its lifetime is left (SPIRE,
    /// `rotationutil`).
    pub availability_target: Option<Duration>,
    /// An SVID is renewed at the latest when this much of its lifetime is left, or four fifths of it if that is less.
    pub outage_budget: Option<Duration>,
    /// The time over which the SVIDs of a tainted authority are replaced.
    pub tainted_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefetch: Prefetch::Auto,
            prefetch_limit: 256,
            linger: Duration::from_secs(3600),
            availability_target: None,
            outage_budget: None,
            tainted_within: pace::spread_of_replacements(Duration::from_secs(5)),
        }
    }
}

impl Options {
    /// When an SVID that has just come must be renewed ([`pace::renew_at`]). `draw` is uniform in 0..1.
    #[must_use]
    pub fn renew_at<K>(&self, svid: &X509Svid<K>, draw: f64, now: SystemTime) -> SystemTime {
        let early = pace::Early { target: self.availability_target, budget: self.outage_budget };
        pace::renew_at(&(svid.not_before..svid.not_after), early, draw, now)
    }
}

/// An entry and the state of its SVID.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) entry: Arc<Entry>,
    pub(crate) minted: Option<Minted>,
    /// The server was asked for an SVID and has not answered.
    pub(crate) in_flight: bool,
    /// The SVID that is in flight must be replaced as soon as it comes.
    pub(crate) again: bool,
    /// After a failure: no new attempt before this time.
    pub(crate) retry_at: Option<SystemTime>,
    /// How many subscribers have the entry in their view.
    pub(crate) callers: usize,
    /// When the last of them went.
    pub(crate) last_caller: Option<SystemTime>,
    /// The entry's time in [`crate::Cache`]'s queue; `None` if it is not there.
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

    /// Whether the entry should have a fresh SVID. With `all`, entries without callers should, too.
    pub(crate) fn wanted(&self, all: bool, linger: Duration, now: SystemTime) -> bool {
        let recent = || self.last_caller.is_some_and(|last| last + linger > now);
        !self.entry.store_svid
            && (self.callers > 0 || (all && !self.entry.disable_x509_svid_prefetch) || recent())
    }

    /// When a new SVID is due. Missing SVIDs come before all others, and among them those with callers.
    pub(crate) fn due_at(&self) -> SystemTime {
        let due = match &self.minted {
            Some(minted) if minted.revision == self.entry.revision => minted.renew_at,
            None if self.callers > 0 => UNIX_EPOCH,
            _ => UNIX_EPOCH + Duration::from_secs(1),
        };
        self.retry_at.map_or(due, |retry| retry.max(due))
    }
}
