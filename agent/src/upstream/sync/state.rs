//! What the agent holds of earlier syncs, and how the server's answer changes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use config::Withdrawal;
use identity::{Bundle, Entry, TrustDomain};
use proto::entry::EntryRevision;
use proto::types;
use tracing::warn;

use super::doubts::Doubts;
use crate::upstream::{ServerError, convert};

/// The results of earlier syncs. The next sync compares the server's list with them, asks only for changes, and falls
/// back on them if an answer is malformed.
#[derive(Debug, Default)]
pub struct SyncState {
    /// The entries in the server's order. The order rarely changes, so a sync compares them one by one and needs no
    /// lookup.
    pub(super) entries: Vec<Arc<Entry>>,
    /// The foreign trust domains that the entries federate with.
    pub(super) federates_with: BTreeSet<TrustDomain>,
    /// Whether a [`Synced`] has handed these entries to the caller. It has not before the first sync, nor after a sync
    /// that failed half-way.
    pub(super) handed_on: bool,
    /// Malformed entries by ID, with their revision. Each revision is logged once, not at each sync.
    pub(super) refused: BTreeMap<String, i64>,
    /// Malformed bundles by trust domain, with the reason. Each reason is logged once.
    pub(super) unreadable: BTreeMap<TrustDomain, String>,
    /// Trust domains whose bundle the server does not have. Each is logged once.
    pub(super) absent: BTreeSet<TrustDomain>,
    /// Each bundle as received and as parsed. The next sync nearly always brings the same one, and parsing its
    /// certificates would be a quarter of a sync's work.
    pub(super) bundles: BTreeMap<TrustDomain, (types::Bundle, Arc<Bundle>)>,
    /// What the last sync took back; `None` if that counts at once (`experimental { withdrawal = "immediate" }`).
    pub(super) doubts: Option<Doubts>,
    /// What the last answer had.
    counts: Counts,
}

/// How the entries of a sync compare with those before it. Doubts do not count here: it is the server's answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries that the server lists.
    pub total: usize,
    /// Entries that the agent did not have.
    pub missing: usize,
    /// Entries that the agent had in another revision.
    pub stale: usize,
    /// Entries that the server lists no longer.
    pub dropped: usize,
}

impl SyncState {
    /// No results yet. With [`Withdrawal::Confirmed`], what an answer takes back counts when one agrees that comes about
    /// `sync_interval` later, at most four seconds.
    #[must_use]
    pub fn new(withdrawal: Withdrawal, sync_interval: Duration) -> Self {
        let patience = sync_interval.mul_f64(0.8).min(PATIENCE);
        let doubts = (withdrawal == Withdrawal::Confirmed).then(|| Doubts::new(patience));
        Self { doubts, ..Self::default() }
    }

    /// What the last answer had.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the last answer took back something, so that a sync soon must confirm it.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.doubts.as_ref().is_some_and(Doubts::are_pending)
    }
}

/// The server's answer to one sync of entries.
#[derive(Debug)]
pub(super) enum EntryList {
    /// All entries in full.
    Whole(Vec<types::Entry>),
    /// All entries in the server's order, and the full text of the stale ones.
    Listed { listed: Vec<Listed>, sent: Vec<types::Entry> },
}

/// An entry in the server's list of revisions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// The entry at this place of [`SyncState::entries`] is current.
    Held(usize),
    /// The entry with this ID is new or has changed, so the agent asks for it.
    Stale(String),
}

impl SyncState {
    pub(super) fn replace(&mut self, answer: EntryList) {
        let entries = match answer {
            EntryList::Whole(sent) => self.accept(sent),
            EntryList::Listed { listed, sent } => {
                let in_place = |(place, listed): (usize, &Listed)| *listed == Listed::Held(place);
                if listed.len() == self.entries.len() && listed.iter().enumerate().all(in_place) {
                    self.refused.clear();
                    self.counts = Counts { total: listed.len(), ..Counts::default() };
                    if let Some(doubts) = &mut self.doubts {
                        doubts.entries_agree();
                    }
                    return;
                }
                let mut sent: HashMap<Arc<str>, Arc<Entry>> =
                    self.accept(sent).into_iter().map(|entry| (Arc::clone(&entry.id), entry)).collect();
                let entry = |listed| match listed {
                    Listed::Held(place) => Some(Arc::clone(&self.entries[place])),
                    Listed::Stale(id) => sent.remove(&*id),
                };
                listed.into_iter().filter_map(entry).collect()
            }
        };
        self.counts = self.compare(&entries);
        let entries = match &mut self.doubts {
            Some(doubts) => doubts.entries(&self.entries, entries),
            None => entries,
        };
        if entries != self.entries {
            self.federates_with = entries.iter().flat_map(|entry| entry.federates_with.clone()).collect();
            self.entries = entries;
            self.handed_on = false;
        }
    }

    fn compare(&self, listed: &[Arc<Entry>]) -> Counts {
        let held: HashMap<&str, &Entry> = self.entries.iter().map(|entry| (&*entry.id, &**entry)).collect();
        let mut counts = Counts { total: listed.len(), ..Counts::default() };
        for entry in listed {
            match held.get(&*entry.id) {
                None => counts.missing += 1,
                Some(held) if held.revision != entry.revision || held.created_at != entry.created_at => {
                    counts.stale += 1;
                }
                Some(_) => {}
            }
        }
        counts.dropped = (held.len() + counts.missing).saturating_sub(listed.len());
        counts
    }

    /// Converts received entries. A malformed entry is replaced by the last good one with its ID, if there is one, and
    /// logged once.
    fn accept(&mut self, sent: Vec<types::Entry>) -> Vec<Arc<Entry>> {
        let mut accepted = Vec::with_capacity(sent.len());
        let mut refused = BTreeMap::new();
        for wire in sent {
            let (id, revision) = (wire.id.clone(), wire.revision_number);
            match convert::entry(wire) {
                Ok(entry) => accepted.push(Arc::new(entry)),
                Err(reason) => {
                    if self.refused.get(&id) != Some(&revision) {
                        warn!(entry_id = %id, error = %reason, kept = "the last good one",
                            "Received malformed entry from SPIRE server; are the server and agent versions compatible?");
                    }
                    accepted.extend(self.entries.iter().find(|held| *held.id == *id).cloned());
                    refused.insert(id, revision);
                }
            }
        }
        self.refused = refused;
        accepted
    }

    /// Converts a bundle. A malformed bundle is replaced by the last good one, if there is one, and each new reason is
    /// logged.
    pub(super) fn bundle(&mut self, wire: types::Bundle) -> Result<Arc<Bundle>, ServerError> {
        if let Some((_, bundle)) = self.bundles.get(&*wire.trust_domain).filter(|(same, _)| *same == wire) {
            if let Some(doubts) = &mut self.doubts {
                doubts.bundle_agrees(&wire.trust_domain);
            }
            return Ok(Arc::clone(bundle));
        }
        match convert::bundle(&wire) {
            Ok(bundle) => {
                if let Some(((_, held), doubts)) =
                    self.bundles.get(&bundle.trust_domain).zip(self.doubts.as_mut())
                    && doubts.bundle(held, bundle.sequence_number)
                {
                    return Ok(Arc::clone(held));
                }
                let bundle = Arc::new(bundle);
                self.unreadable.remove(&bundle.trust_domain);
                if bundle.x509_authorities.is_empty() {
                    warn!(trust_domain = %bundle.trust_domain,
                        "Bundle has no X.509 authorities; SDS leaves its trust domain out of the resource of all bundles");
                }
                self.bundles.insert(bundle.trust_domain.clone(), (wire, Arc::clone(&bundle)));
                Ok(bundle)
            }
            Err(reason) => {
                let (domain, last) = match self.bundles.get_key_value(&*wire.trust_domain) {
                    Some((domain, (_, last))) => (domain.clone(), Arc::clone(last)),
                    None => return Err(reason),
                };
                self.name_unreadable(&domain, &reason);
                Ok(last)
            }
        }
    }

    /// The bundle that stays for now, although the server says that it has none for this trust domain.
    pub(super) fn doubted_absence(&mut self, domain: &TrustDomain) -> Option<Arc<Bundle>> {
        let ((_, held), doubts) = self.bundles.get(domain).zip(self.doubts.as_mut())?;
        doubts.bundle_is_absent(held).then(|| Arc::clone(held))
    }

    pub(super) fn last_good(&self, domain: &TrustDomain) -> Option<(TrustDomain, Arc<Bundle>)> {
        self.bundles.get(domain).map(|(_, bundle)| (domain.clone(), Arc::clone(bundle)))
    }

    pub(super) fn name_unreadable(&mut self, domain: &TrustDomain, reason: &ServerError) {
        let reason = reason.to_string();
        if self.unreadable.get(domain) != Some(&reason) {
            warn!(trust_domain = %domain, error = %reason, kept = "the last good one",
                "Received malformed bundle from SPIRE server; are the server and agent versions compatible?");
            self.unreadable.insert(domain.clone(), reason);
        }
    }
}

/// Compares the server's list with the entries that are held, in one pass while their order is the same.
pub(super) struct Comparison<'a> {
    pub(super) held: &'a [Arc<Entry>],
    /// The place of the entry that should come next.
    next: usize,
    /// The place of each entry by ID. Filled when the first entry is not at its expected place.
    places: HashMap<&'a str, usize>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(held: &'a [Arc<Entry>]) -> Self {
        Self { held, next: 0, places: HashMap::new() }
    }

    pub(super) fn listed(&mut self, revision: EntryRevision) -> Listed {
        let Some(place) = self.place(&revision.id) else { return Listed::Stale(revision.id) };
        self.next = place + 1;
        if is_stale(&self.held[place], &revision) { Listed::Stale(revision.id) } else { Listed::Held(place) }
    }

    fn place(&mut self, id: &str) -> Option<usize> {
        if self.held.get(self.next).is_some_and(|held| *held.id == *id) {
            return Some(self.next);
        }
        if self.places.is_empty() {
            self.places = self.held.iter().enumerate().map(|(place, held)| (&*held.id, place)).collect();
        }
        self.places.get(id).copied()
    }
}

/// Whether the entry that is held is outdated. A creation time of 0 means that the server did not send one.
fn is_stale(held: &Entry, revision: &EntryRevision) -> bool {
    held.revision != revision.revision_number
        || (revision.created_at != 0 && held.created_at != revision.created_at)
}

/// The longest patience. A server reads its entries from its database every five seconds.
const PATIENCE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests;
