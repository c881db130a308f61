//! The agent's own SVID.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{TrustDomain, X509Svid};
use rand::Rng as _;

use crate::keys::{AgentSvid, Keys};
use crate::store::Data;

/// The agent's SVID, and when it is replaced.
#[derive(Debug, Clone)]
pub(super) struct OwnSvid {
    pub(super) svid: Arc<AgentSvid>,
    pub(super) renew_at: SystemTime,
    /// Its authority is no longer relied on, and it is being replaced for that.
    pub(super) distrusted: bool,
}

impl OwnSvid {
    pub(super) fn new(svid: Arc<AgentSvid>, rules: &cache::Options) -> Self {
        let renew_at = rules.renew_at(&svid, rand::rng().random(), SystemTime::now());
        Self { svid, renew_at, distrusted: false }
    }

    /// One that was stored may be overdue, and is then renewed at once.
    pub(super) fn stored(svid: Arc<AgentSvid>, rules: &cache::Options) -> Self {
        let renew_at = rules.renew_at(&svid, rand::rng().random(), svid.not_before);
        Self { svid, renew_at, distrusted: false }
    }

    pub(super) fn until_renewal(&self) -> Duration {
        self.renew_at.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

/// The stored SVID, if it is ours, has not expired and its key is at hand.
pub(super) fn stored_svid(data: &Data, keys: &Keys, trust_domain: &TrustDomain) -> Option<Arc<AgentSvid>> {
    let key = keys.key_of(data.svid.first()?)?;
    let svid = X509Svid::new(data.svid.clone(), key).ok()?;
    let usable = !svid.expired(SystemTime::now() + SKEW) && svid.id.is_member_of(trust_domain);
    usable.then(|| Arc::new(svid))
}

const SKEW: Duration = Duration::from_secs(1);
