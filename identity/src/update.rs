//! What a caller gets: its identities, and the bundles that it needs.

use std::sync::Arc;
use std::time::SystemTime;

use crate::{Bundle, Bundles, Entry, X509Svid};

/// An entry and the SVID that was minted for it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The entry that grants the identity.
    pub entry: Arc<Entry>,
    /// The SVID that was minted for it last; `None` until the first one comes.
    pub svid: Option<Arc<X509Svid>>,
}

impl Identity {
    /// The SVID, if there is one that has not expired. Expired SVIDs are not sent to callers.
    #[must_use]
    pub fn live(&self, now: SystemTime) -> Option<&Arc<X509Svid>> {
        self.svid.as_ref().filter(|svid| !svid.expired(now))
    }
}

/// Everything that a caller may have. It is always the whole state, never a difference (Workload API §4.3). All
/// callers that match the same set of entries share one.
#[derive(Debug, Clone)]
pub struct WorkloadUpdate {
    /// One identity for each matching entry, by ascending entry ID. The first is the default identity.
    pub identities: Vec<Identity>,
    /// The bundle of the agent's own trust domain.
    pub bundle: Arc<Bundle>,
    /// The bundles of the trust domains that the entries federate with, as far as the agent has them.
    pub federated: Bundles,
    /// Places in `identities`, ordered by SPIFFE ID and then by entry ID. [`WorkloadUpdate::granting`] searches it.
    by_spiffe_id: Box<[u32]>,
}

impl WorkloadUpdate {
    /// Makes the update of callers that match these entries. `identities` are by ascending entry ID.
    #[must_use]
    pub fn new(identities: Vec<Identity>, bundle: Arc<Bundle>, federated: Bundles) -> Self {
        let mut by_spiffe_id: Box<[u32]> = (0u32..).take(identities.len()).collect();
        by_spiffe_id.sort_by_key(|place| identities[*place as usize].entry.spiffe_id.as_str());
        Self { identities, bundle, federated, by_spiffe_id }
    }

    /// The identities with this SPIFFE ID, by ascending entry ID: several entries may grant the same ID. It is a
    /// binary search that allocates nothing.
    pub fn granting(&self, spiffe_id: &str) -> impl Iterator<Item = &Identity> + Clone {
        let id_of = |place: &u32| self.identities[*place as usize].entry.spiffe_id.as_str();
        let first = self.by_spiffe_id.partition_point(|place| id_of(place) < spiffe_id);
        let granting = self.by_spiffe_id[first..].iter().take_while(move |place| id_of(place) == spiffe_id);
        granting.map(|place| &self.identities[*place as usize])
    }
}
