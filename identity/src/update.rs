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
    /// Places in `identities`, by SPIFFE ID and then by entry ID: what [`WorkloadUpdate::granting`] searches.
    by_spiffe_id: Box<[u32]>,
}

impl WorkloadUpdate {
    /// What there is for a caller whose matching entries are these, by ascending entry ID.
    #[must_use]
    pub fn new(identities: Vec<Identity>, bundle: Arc<Bundle>, federated: Bundles) -> Self {
        let mut by_spiffe_id: Box<[u32]> = (0u32..).take(identities.len()).collect();
        by_spiffe_id.sort_by_key(|place| identities[*place as usize].entry.spiffe_id.as_str());
        Self { identities, bundle, federated, by_spiffe_id }
    }

    /// The identities whose X.509-SVID has this URI SAN, by ascending entry ID: several entries may grant one ID.
    /// A binary search: nothing is allocated, and nothing scanned but what is returned.
    pub fn granting(&self, spiffe_id: &str) -> impl Iterator<Item = &Identity> + Clone {
        let id_of = |place: &u32| self.identities[*place as usize].entry.spiffe_id.as_str();
        let first = self.by_spiffe_id.partition_point(|place| id_of(place) < spiffe_id);
        let granting = self.by_spiffe_id[first..].iter().take_while(move |place| id_of(place) == spiffe_id);
        granting.map(|place| &self.identities[*place as usize])
    }
}
