//! The agent's own SVID and the time of its renewal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{TrustDomain, X509Svid};
use rand::Rng as _;

use crate::keys::{AgentSvid, Keys};
use crate::store::Data;

/// The agent's own SVID.
#[derive(Debug, Clone)]
pub(super) struct OwnSvid {
    pub(super) svid: Arc<AgentSvid>,
    /// When the SVID is renewed, or attested again.
    pub(super) renew_at: SystemTime,
    /// Whether its authority is tainted or removed, so that a forced renewal is under way or was in vain.
    pub(super) distrusted: bool,
}

impl OwnSvid {
    /// An SVID that the server has signed just now.
    pub(super) fn new(svid: Arc<AgentSvid>, rules: &cache::Options) -> Self {
        let renew_at = rules.renew_at(&svid, rand::rng().random(), SystemTime::now());
        Self { svid, renew_at, distrusted: false }
    }

    /// An SVID from the disk. Its renewal is computed from its issuance, so an overdue one is renewed at once.
    pub(super) fn stored(svid: Arc<AgentSvid>, rules: &cache::Options) -> Self {
        let renew_at = rules.renew_at(&svid, rand::rng().random(), svid.not_before);
        Self { svid, renew_at, distrusted: false }
    }

    /// When a renewal that fails becomes urgent: at three quarters of its life.
    pub(super) fn old_at(&self) -> SystemTime {
        pace::old_at(&(self.svid.not_before..self.svid.not_after))
    }

    /// The time until the renewal; zero if it is due.
    pub(super) fn until_renewal(&self) -> Duration {
        self.renew_at.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

/// The stored SVID; `None` if there is none, its trust domain is another, it has expired or its key is missing.
pub(super) fn stored_svid(data: &Data, keys: &Keys, trust_domain: &TrustDomain) -> Option<Arc<AgentSvid>> {
    let key = keys.key_of(data.svid.first()?)?;
    let svid = X509Svid::new(data.svid.clone(), key).ok()?;
    let usable = !svid.expired(SystemTime::now() + SKEW) && svid.id.is_member_of(trust_domain);
    usable.then(|| Arc::new(svid))
}

/// An SVID counts as expired this long before it expires.
const SKEW: Duration = Duration::from_secs(1);
