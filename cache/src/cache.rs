//! The cache itself: takes changes, and returns what must be published.

mod due;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use identity::{Bundle, Bundles, Entry, Identity, Selectors, WorkloadUpdate, X509Svid};

use crate::record::Record;
use crate::{Matched, Options, Snapshot};

/// Everything that the agent holds for its workloads. The crate's documentation explains its layers.
#[derive(Debug)]
pub struct Cache {
    options: Options,
    bundle: Arc<Bundle>,
    federated: Bundles,
    records: BTreeMap<Arc<str>, Record>,
    snapshot: Arc<Snapshot>,
    views: HashMap<Ids, View>,
    subscribers: HashMap<Selectors, Ids>,
    /// (due time, entry ID) of the records that need an SVID and are not in flight.
    queue: BTreeSet<(SystemTime, Arc<str>)>,
}

/// An update for the callers with one selector set.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Every caller whose attested selectors are exactly these receives the update.
    pub selectors: Selectors,
    /// The identities and bundles that these callers may have now.
    pub update: Arc<WorkloadUpdate>,
}

type Ids = Arc<[Arc<str>]>;

#[derive(Debug)]
struct View {
    update: Arc<WorkloadUpdate>,
    subscribers: HashSet<Selectors>,
}

impl Cache {
    /// A cache without entries, whose only bundle is that of the agent's own trust domain.
    #[must_use]
    pub fn new(options: Options, bundle: Arc<Bundle>) -> Self {
        Self {
            options,
            bundle,
            federated: Bundles::new(),
            records: BTreeMap::new(),
            snapshot: Arc::default(),
            views: HashMap::new(),
            subscribers: HashMap::new(),
            queue: BTreeSet::new(),
        }
    }

    /// The index of the present entries.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// The bundle of the agent's own trust domain.
    #[must_use]
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The bundles of federated trust domains.
    #[must_use]
    pub fn federated(&self) -> &Bundles {
        &self.federated
    }

    /// All entries, by ascending ID, each with its SVID, if it has one.
    pub fn identities(&self) -> impl Iterator<Item = (&Arc<Entry>, Option<&Arc<X509Svid>>)> {
        self.records.values().map(|record| (&record.entry, record.minted.as_ref().map(|minted| &minted.svid)))
    }

    /// All SVIDs, by ascending entry ID, each with its entry and the revision of the entry that it was signed for.
    pub fn svids(&self) -> impl Iterator<Item = (&Arc<Entry>, i64, &Arc<X509Svid>)> {
        self.records.values().filter_map(|record| {
            let minted = record.minted.as_ref()?;
            Some((&record.entry, minted.revision, &minted.svid))
        })
    }

    /// When the first of the SVIDs expires; `None` if there is none.
    #[must_use]
    pub fn soonest_expiry(&self) -> Option<SystemTime> {
        self.records.values().filter_map(|record| Some(record.minted.as_ref()?.svid.not_after)).min()
    }

    /// The number of entries that have an SVID.
    #[must_use]
    pub fn svid_count(&self) -> usize {
        self.records.values().filter(|record| record.minted.is_some()).count()
    }

    /// The present SVID of an entry; `None` if the entry is unknown or has none yet.
    #[must_use]
    pub fn svid(&self, entry_id: &str) -> Option<&Arc<X509Svid>> {
        Some(&self.records.get(entry_id)?.minted.as_ref()?.svid)
    }

    /// Takes a sync with the server: all authorized entries (`None` if they are those of the last sync) and all
    /// bundles. An SVID stays until its successor is there, unless its entry is gone or now grants another SPIFFE ID.
    /// The own bundle is never dropped.
    pub fn sync(
        &mut self,
        entries: Option<Vec<Arc<Entry>>>,
        mut bundles: Bundles,
        now: SystemTime,
    ) -> Vec<Publish> {
        let own = bundles.remove(&self.bundle.trust_domain);
        let bundles_changed = self.replace_bundles(own, bundles);
        let entries_changed = entries.is_some_and(|entries| self.replace_entries(entries));
        if entries_changed {
            let generation = self.snapshot.generation() + 1;
            let entries = self.records.values().map(|record| Arc::clone(&record.entry));
            self.snapshot = Arc::new(Snapshot::new(generation, entries));
        }
        let published = if entries_changed || bundles_changed { self.rebuild(now) } else { Vec::new() };
        if entries_changed {
            self.requeue_all(now);
        }
        published
    }

    /// Adds a subscriber for a selector set and returns its first update. `matched` may come from an older snapshot.
    pub fn subscribe(
        &mut self,
        selectors: &Selectors,
        matched: Matched,
        now: SystemTime,
    ) -> Arc<WorkloadUpdate> {
        if let Some(ids) = self.subscribers.get(selectors) {
            return Arc::clone(&self.views[ids].update);
        }
        let current = matched.generation == self.snapshot.generation();
        let ids = if current { matched.ids } else { self.snapshot.matching(selectors).ids };
        self.attach(selectors.clone(), &ids);
        for id in ids.iter() {
            self.requeue(id, now);
        }
        Arc::clone(&self.views[&ids].update)
    }

    /// Removes the subscriber of a selector set.
    pub fn unsubscribe(&mut self, selectors: &Selectors, now: SystemTime) {
        let Some(ids) = self.subscribers.remove(selectors) else { return };
        self.detach(selectors, &ids, now);
    }

    fn replace_bundles(&mut self, own: Option<Arc<Bundle>>, mut federated: Bundles) -> bool {
        let mut changed = false;
        if let Some(own) = own.filter(|own| *own != self.bundle) {
            self.bundle = own;
            changed = true;
        }
        // An equal bundle keeps its old `Arc`, so that views can be compared by pointer.
        for (trust_domain, bundle) in &mut federated {
            if let Some(held) = self.federated.get(trust_domain).filter(|held| *held == bundle) {
                *bundle = Arc::clone(held);
            }
        }
        changed |= federated != self.federated;
        self.federated = federated;
        changed
    }

    fn replace_entries(&mut self, entries: Vec<Arc<Entry>>) -> bool {
        let mut changed = false;
        let mut gone: BTreeSet<Arc<str>> = self.records.keys().cloned().collect();
        for entry in entries {
            gone.remove(&entry.id);
            match self.records.get_mut(&entry.id) {
                Some(record) if record.entry == entry => {}
                Some(record) => {
                    changed = true;
                    if record.entry.spiffe_id != entry.spiffe_id {
                        record.minted = None;
                    }
                    record.retry_at = None;
                    record.entry = entry;
                }
                None => {
                    changed = true;
                    self.records.insert(Arc::clone(&entry.id), Record::new(entry));
                }
            }
        }
        for id in &gone {
            if let Some(due) = self.records.remove(id).and_then(|record| record.queued) {
                self.queue.remove(&(due, Arc::clone(id)));
            }
        }
        changed || !gone.is_empty()
    }

    /// Matches all subscribers and builds all views again; returns updates for those whose view differs.
    fn rebuild(&mut self, now: SystemTime) -> Vec<Publish> {
        let old_views = std::mem::take(&mut self.views);
        let subscribers = std::mem::take(&mut self.subscribers);
        let mut had: HashMap<Arc<str>, usize> = HashMap::new();
        for record in self.records.values_mut().filter(|record| record.callers > 0) {
            had.insert(Arc::clone(&record.entry.id), std::mem::take(&mut record.callers));
        }
        let mut published = Vec::new();
        for (selectors, old_ids) in subscribers {
            let ids = self.snapshot.matching(&selectors).ids;
            self.attach(selectors.clone(), &ids);
            let update = &self.views[&ids].update;
            if !same(&old_views[&old_ids].update, update) {
                published.push(Publish { selectors, update: Arc::clone(update) });
            }
        }
        for id in had.into_keys() {
            if let Some(record) = self.records.get_mut(&id).filter(|record| record.callers == 0) {
                record.last_caller = Some(now);
            }
        }
        published
    }

    fn rebuild_views_with(&mut self, entry_id: &Arc<str>) -> Vec<Publish> {
        let keys: Vec<Ids> =
            self.views.keys().filter(|ids| ids.binary_search(entry_id).is_ok()).cloned().collect();
        let mut published = Vec::new();
        for ids in keys {
            let update = self.build(&ids);
            if let Some(view) = self.views.get_mut(&ids) {
                view.update = Arc::clone(&update);
                let all = view.subscribers.iter();
                published.extend(
                    all.map(|selectors| Publish {
                        selectors: selectors.clone(),
                        update: Arc::clone(&update),
                    }),
                );
            }
        }
        published
    }

    fn attach(&mut self, selectors: Selectors, ids: &Ids) {
        if !self.views.contains_key(ids) {
            let view = View { update: self.build(ids), subscribers: HashSet::new() };
            self.views.insert(Arc::clone(ids), view);
        }
        for id in ids.iter() {
            self.records.get_mut(id).expect("what matches has a record").callers += 1;
        }
        let view = self.views.get_mut(ids).expect("made above");
        view.subscribers.insert(selectors.clone());
        self.subscribers.insert(selectors, Arc::clone(ids));
    }

    fn detach(&mut self, selectors: &Selectors, ids: &Ids, now: SystemTime) {
        let view = self.views.get_mut(ids).expect("a subscriber has a view");
        view.subscribers.remove(selectors);
        if view.subscribers.is_empty() {
            self.views.remove(ids);
        }
        for id in ids.iter() {
            let record = self.records.get_mut(id).expect("what matches has a record");
            record.callers -= 1;
            if record.callers == 0 {
                record.last_caller = Some(now);
            }
        }
    }

    fn build(&self, ids: &Ids) -> Arc<WorkloadUpdate> {
        let records: Vec<&Record> = ids.iter().filter_map(|id| self.records.get(id)).collect();
        let foreign = records.iter().flat_map(|record| &record.entry.federates_with);
        let federated = foreign
            .filter_map(|trust_domain| {
                Some((trust_domain.clone(), Arc::clone(self.federated.get(trust_domain)?)))
            })
            .collect();
        let identities = records
            .iter()
            .map(|record| Identity {
                entry: Arc::clone(&record.entry),
                svid: record.minted.as_ref().map(|minted| Arc::clone(&minted.svid)),
            })
            .collect();
        Arc::new(WorkloadUpdate::new(identities, Arc::clone(&self.bundle), federated))
    }
}

/// Whether two updates are equal. SVIDs and bundles are compared by pointer, because equal content keeps its `Arc`.
fn same(a: &WorkloadUpdate, b: &WorkloadUpdate) -> bool {
    let same_identity = |(a, b): (&Identity, &Identity)| {
        let same_svid = match (&a.svid, &b.svid) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        same_svid && (Arc::ptr_eq(&a.entry, &b.entry) || a.entry == b.entry)
    };
    Arc::ptr_eq(&a.bundle, &b.bundle)
        && a.identities.len() == b.identities.len()
        && a.identities.iter().zip(&b.identities).all(same_identity)
        && a.federated.len() == b.federated.len()
        && a.federated.iter().zip(&b.federated).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
}
