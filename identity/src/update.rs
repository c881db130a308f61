//! What a caller hears.

use std::sync::Arc;
use std::time::SystemTime;

use crate::{Bundle, Bundles, Entry, X509Svid};

/// An entry and the SVID that was minted for it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The entry that grants it.
    pub entry: Arc<Entry>,
    /// `None` until the first one is minted.
    pub svid: Option<Arc<X509Svid>>,
}

impl Identity {
    /// The SVID, where there is one that has not expired: an expired one is never sent anew.
    #[must_use]
    pub fn live(&self, now: SystemTime) -> Option<&Arc<X509Svid>> {
        self.svid.as_ref().filter(|svid| !svid.expired(now))
    }
}

/// Everything that a caller may have: always the whole state, never a difference (Workload API §4.3).
/// Shared by all callers that match the same set of entries.
#[derive(Debug, Clone)]
pub struct WorkloadUpdate {
    /// One for each matching entry, by ascending entry ID; the first is the default identity.
    pub identities: Vec<Identity>,
    /// The agent's own trust domain.
    pub bundle: Arc<Bundle>,
    /// Foreign bundles of the trust domains that the entries federate with, where the agent has them.
    pub federated: Bundles,
}
