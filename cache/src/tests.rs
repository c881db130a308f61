//! The cache against a naive model that recomputes everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use identity::{
    Bundle, Bundles, Entry, PrivateKey, Selector, Selectors, SpiffeId, TrustDomain, WorkloadUpdate, X509Svid,
};
use proptest::prelude::*;

use crate::{Cache, Options, Prefetch, Publish};

fn own() -> TrustDomain {
    TrustDomain::parse("td").unwrap()
}

fn foreign() -> TrustDomain {
    TrustDomain::parse("other").unwrap()
}

fn bundle(trust_domain: TrustDomain, sequence_number: u64) -> Arc<Bundle> {
    Arc::new(Bundle { sequence_number, ..Bundle::of_x509(trust_domain, [Bytes::from_static(b"ca")]) })
}

fn selectors(mask: u8) -> Selectors {
    (0..6)
        .filter(|bit| mask & (1 << bit) != 0)
        .map(|bit| Selector::new("t", &format!("s:{bit}")).unwrap())
        .collect()
}

fn entry(id: u8, mask: u8, revision: i64, path: u8, federates: bool) -> Entry {
    Entry {
        id: format!("e{id}").into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://td/{path}")).unwrap(),
        selectors: selectors(mask),
        federates_with: if federates { vec![foreign()] } else { vec![] },
        admin: false,
        downstream: false,
        revision,
        store_svid: id == 7,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: id == 6,
        jwt_svid_include_jti: false,
    }
}

fn svid(id: &SpiffeId, now: SystemTime, ttl: u64) -> Arc<X509Svid> {
    Arc::new(X509Svid {
        id: id.clone(),
        chain: vec![Bytes::from_static(b"leaf")],
        key: PrivateKey::from_pkcs8(vec![1]),
        not_before: now,
        not_after: now + Duration::from_secs(ttl),
        serial: String::new(),
    })
}

#[derive(Debug, Clone)]
enum Op {
    Sync { entries: Vec<(u8, u8, i64, u8, bool)>, own: u64, foreign: Option<u64> },
    Subscribe(u8, bool),
    Unsubscribe(u8),
    Take(usize),
    Finish { which: usize, outcome: u8 },
    Advance(u64),
    RenewAll,
}

fn op() -> impl Strategy<Value = Op> {
    let entry = (0u8..8, 1u8..16, 0i64..3, 0u8..4, any::<bool>());
    prop_oneof![
        3 => (prop::collection::vec(entry, 0..8), 0u64..3, prop::option::of(0u64..3))
            .prop_map(|(entries, own, foreign)| Op::Sync { entries, own, foreign }),
        3 => (0u8..64, any::<bool>()).prop_map(|(mask, stale)| Op::Subscribe(mask, stale)),
        2 => (0u8..64).prop_map(Op::Unsubscribe),
        4 => (1usize..5).prop_map(Op::Take),
        6 => (0usize..8, 0u8..4).prop_map(|(which, outcome)| Op::Finish { which, outcome }),
        3 => (1u64..4000).prop_map(Op::Advance),
        1 => Just(Op::RenewAll),
    ]
}

/// The specification of the cache, computed from scratch each time.
struct Model {
    options: Options,
    now: SystemTime,
    entries: BTreeMap<Arc<str>, Entry>,
    own: Arc<Bundle>,
    foreign: Option<Arc<Bundle>>,
    minted: BTreeMap<Arc<str>, (Arc<X509Svid>, i64, SystemTime)>,
    in_flight: BTreeMap<Arc<str>, Entry>,
    retry: BTreeMap<Arc<str>, SystemTime>,
    subscribed: BTreeSet<Selectors>,
    left: BTreeMap<Arc<str>, SystemTime>,
    again: BTreeSet<Arc<str>>,
}

impl Model {
    fn matching(&self, caller: &Selectors) -> Vec<&Entry> {
        let fits = |entry: &&Entry| {
            !entry.store_svid && entry.selectors.iter().all(|s| caller.iter().any(|c| c == s))
        };
        self.entries.values().filter(fits).collect()
    }

    fn callers(&self, entry: &Entry) -> usize {
        self.subscribed.iter().filter(|s| self.matching(s).iter().any(|e| e.id == entry.id)).count()
    }

    fn wanted(&self, entry: &Entry) -> bool {
        let all = match self.options.prefetch {
            Prefetch::All => true,
            Prefetch::Auto => self.entries.len() <= self.options.prefetch_limit,
            Prefetch::Live => false,
        };
        let recent = self.left.get(&entry.id).is_some_and(|t| *t + self.options.linger > self.now);
        !entry.store_svid && (self.callers(entry) > 0 || recent || (all && !entry.disable_x509_svid_prefetch))
    }

    fn due(&self) -> BTreeSet<Arc<str>> {
        let due = |entry: &&Entry| {
            let stale = match self.minted.get(&entry.id) {
                Some((_, revision, renew)) => *revision != entry.revision || *renew <= self.now,
                None => true,
            };
            stale
                && self.wanted(entry)
                && !self.in_flight.contains_key(&entry.id)
                && self.retry.get(&entry.id).is_none_or(|t| *t <= self.now)
        };
        self.entries.values().filter(due).map(|entry| Arc::clone(&entry.id)).collect()
    }

    /// Makes a change and records which entries have lost their last caller.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let before: BTreeSet<_> =
            self.entries.values().filter(|e| self.callers(e) > 0).map(|e| Arc::clone(&e.id)).collect();
        change(self);
        for id in before {
            if self.entries.get(&id).is_some_and(|entry| self.callers(entry) == 0) {
                self.left.insert(id, self.now);
            }
        }
    }

    fn agrees(&self, caller: &Selectors, update: &WorkloadUpdate) {
        let matching = self.matching(caller);
        assert_eq!(
            update.identities.iter().map(|i| &*i.entry).collect::<Vec<_>>(),
            matching,
            "entries of {caller:?}"
        );
        for identity in &update.identities {
            let model = self.minted.get(&identity.entry.id).map(|(svid, ..)| Arc::as_ptr(svid));
            assert_eq!(identity.svid.as_ref().map(Arc::as_ptr), model, "SVID of {}", identity.entry.id);
        }
        assert_eq!(update.bundle, self.own);
        let wants_foreign = matching.iter().any(|e| !e.federates_with.is_empty());
        let foreign = self.foreign.as_ref().filter(|_| wants_foreign);
        assert_eq!(update.federated.values().next(), foreign);
    }
}

struct Run {
    model: Model,
    cache: Cache,
    heard: BTreeMap<Selectors, Arc<WorkloadUpdate>>,
}

impl Run {
    fn new(options: Options) -> Self {
        let own = bundle(own(), 0);
        Self {
            cache: Cache::new(options.clone(), Arc::clone(&own)),
            heard: BTreeMap::new(),
            model: Model {
                options,
                now: UNIX_EPOCH + Duration::from_secs(1_000_000),
                entries: BTreeMap::new(),
                own,
                foreign: None,
                minted: BTreeMap::new(),
                in_flight: BTreeMap::new(),
                retry: BTreeMap::new(),
                subscribed: BTreeSet::new(),
                left: BTreeMap::new(),
                again: BTreeSet::new(),
            },
        }
    }

    fn hear(&mut self, published: Vec<Publish>) {
        for publish in published {
            assert!(self.model.subscribed.contains(&publish.selectors), "nobody listens");
            self.heard.insert(publish.selectors, publish.update);
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Sync { entries, own: sequence, foreign: other } => self.sync(entries, sequence, other),
            Op::Subscribe(mask, stale) => {
                let set = selectors(mask);
                let matched = if stale {
                    crate::Snapshot::default().matching(&set)
                } else {
                    self.cache.snapshot().matching(&set)
                };
                let update = self.cache.subscribe(&set, matched, self.model.now);
                self.model.subscribed.insert(set.clone());
                self.heard.insert(set, update);
            }
            Op::Unsubscribe(mask) => {
                let set = selectors(mask);
                self.cache.unsubscribe(&set, self.model.now);
                self.model.change(|model| {
                    model.subscribed.remove(&set);
                });
                self.heard.remove(&set);
            }
            Op::Take(limit) => self.take(limit),
            Op::Finish { which, outcome } => self.finish(which, outcome),
            Op::Advance(seconds) => self.model.now += Duration::from_secs(seconds),
            Op::RenewAll => {
                self.cache.renew_all(self.model.now);
                self.model.again = self.model.in_flight.keys().cloned().collect();
                for (_, _, renew) in self.model.minted.values_mut() {
                    *renew = self.model.now;
                }
            }
        }
        for (caller, update) in &self.heard {
            self.model.agrees(caller, update);
        }
    }

    fn sync(&mut self, entries: Vec<(u8, u8, i64, u8, bool)>, sequence: u64, other: Option<u64>) {
        let entries: BTreeMap<Arc<str>, Entry> = entries
            .into_iter()
            .map(|(id, mask, revision, path, federates)| entry(id, mask, revision, path, federates))
            .map(|entry| (Arc::clone(&entry.id), entry))
            .collect();
        let mut bundles = Bundles::from([(own(), bundle(own(), sequence))]);
        bundles.extend(other.map(|n| (foreign(), bundle(foreign(), n))));
        // A sync may leave out entries that have not changed.
        let untold = sequence > 0 && entries == self.model.entries;
        let told = (!untold).then(|| entries.values().cloned().map(Arc::new).collect());
        let published = self.cache.sync(told, bundles, self.model.now);
        self.model.change(|model| {
            for (id, old) in std::mem::take(&mut model.entries) {
                let new = entries.get(&id);
                if new.is_none_or(|new| new.spiffe_id != old.spiffe_id) {
                    model.minted.remove(&id);
                }
                if new.is_none() {
                    model.left.remove(&id);
                    model.in_flight.remove(&id);
                    model.again.remove(&id);
                }
                if new != Some(&old) {
                    model.retry.remove(&id);
                }
            }
            model.entries = entries;
            model.own = bundle(own(), sequence);
            model.foreign = other.map(|n| bundle(foreign(), n));
        });
        self.hear(published);
    }

    fn take(&mut self, limit: usize) {
        let expected = self.model.due();
        let got = self.cache.take_due(self.model.now, limit);
        let ids: BTreeSet<_> = got.iter().map(|entry| Arc::clone(&entry.id)).collect();
        assert!(ids.is_subset(&expected), "{ids:?} of {expected:?}");
        assert_eq!(got.len(), expected.len().min(limit), "due: {expected:?}");
        let taken = got.len();
        for entry in got {
            self.model.in_flight.insert(Arc::clone(&entry.id), (*entry).clone());
        }
        if taken < limit {
            assert!(self.cache.wake_at().is_none_or(|time| time > self.model.now));
        }
    }

    fn finish(&mut self, which: usize, outcome: u8) {
        let Some((id, taken)) =
            self.model.in_flight.iter().nth(which).map(|(id, e)| (Arc::clone(id), e.clone()))
        else {
            return;
        };
        self.model.in_flight.remove(&id);
        let now = self.model.now;
        let again = self.model.again.remove(&id);
        if outcome == 0 {
            let retry = now + Duration::from_secs(5);
            self.model.retry.insert(Arc::clone(&id), retry);
            self.cache.mint_failed(&id, retry, now);
            return;
        }
        let svid = svid(&taken.spiffe_id, now, 3600);
        let draw = f64::from(outcome) / 4.0;
        if self.model.entries[&id].spiffe_id == taken.spiffe_id {
            let renew = if again { now } else { self.model.options.renew_at(&svid, draw, now) };
            self.model.minted.insert(Arc::clone(&id), (Arc::clone(&svid), taken.revision, renew));
        }
        self.model.retry.remove(&id);
        let published = self.cache.minted(&taken, svid, draw, now);
        self.hear(published);
    }
}

fn run(options: Options, ops: Vec<Op>) {
    let mut run = Run::new(options);
    for op in ops {
        run.step(op);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_model_prefetching_all(ops in prop::collection::vec(op(), 1..60)) {
        run(Options { prefetch: Prefetch::All, ..Options::default() }, ops);
    }

    #[test]
    fn agrees_with_the_model_prefetching_few(ops in prop::collection::vec(op(), 1..60)) {
        run(Options { prefetch_limit: 3, ..Options::default() }, ops);
    }

    #[test]
    fn agrees_with_the_model_minting_for_callers_only(ops in prop::collection::vec(op(), 1..60)) {
        run(Options { prefetch: Prefetch::Live, ..Options::default() }, ops);
    }

    #[test]
    fn renewal_is_within_the_formula(ttl in 60u64..1_000_000, draw in 0.0f64..1.0) {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let svid = svid(&SpiffeId::parse("spiffe://td/a").unwrap(), now, ttl);
        let at = Options::default().renew_at(&svid, draw, now);
        let left = svid.not_after.duration_since(at).unwrap().as_secs_f64();
        let half = ttl as f64 / 2.0;
        prop_assert!(left >= half * 0.9 - 1e-3 && left <= half * 1.1 + 1e-3);
    }
}

#[test]
fn availability_target_moves_the_renewal_forward() {
    let day = Duration::from_hours(24);
    let now = UNIX_EPOCH + day;
    let svid = svid(&SpiffeId::parse("spiffe://td/a").unwrap(), now, 4 * 24 * 3600);
    let options = |target| Options { availability_target: Some(target), ..Options::default() };
    assert_eq!(options(3 * day).renew_at(&svid, 0.5, now), svid.not_after - 3 * day - Duration::from_mins(5));
    // A target too close to the lifetime is ignored.
    assert_eq!(options(Duration::from_hours(90)).renew_at(&svid, 0.5, now), svid.not_after - 2 * day);
}

#[test]
fn an_outage_budget_is_left_when_the_server_goes() {
    let minutes = Duration::from_mins;
    let now = UNIX_EPOCH + minutes(100);
    let svid = svid(&SpiffeId::parse("spiffe://td/a").unwrap(), now, 3600);
    let left = |budget, draw| {
        let options = Options { outage_budget: Some(budget), ..Options::default() };
        svid.not_after.duration_since(options.renew_at(&svid, draw, now)).unwrap()
    };
    for draw in [0.0, 0.5, 1.0] {
        assert!(left(minutes(40), draw) > minutes(41) && left(minutes(40), draw) < minutes(47), "{draw}");
        assert!(left(minutes(10), draw) <= minutes(33), "half of its life is more");
        let most = left(minutes(500), draw);
        assert!(most >= minutes(45) && most <= minutes(48), "an SVID must have some life before its renewal");
    }
}

proptest! {
    /// With any clock a fresh SVID is not due at once, and one that has time left is renewed before its end.
    #[test]
    fn a_fresh_svid_is_never_due_at_once(ttl in 0u64..100_000, late in 0u64..200_000, draw in 0.0f64..1.0) {
        let issued = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let now = issued + Duration::from_secs(late);
        let svid = svid(&SpiffeId::parse("spiffe://td/a").unwrap(), issued, ttl);
        let at = Options::default().renew_at(&svid, draw, now);
        prop_assert!(at >= now + Duration::from_secs(1));
        prop_assert!(at < svid.not_after || svid.not_after <= now + Duration::from_secs(2));
    }
}

#[test]
fn those_with_callers_are_minted_first() {
    let mut run = Run::new(Options::default());
    run.sync((0..6).map(|id| (id, 1 << (id % 4), 0, 0, false)).collect(), 0, None);
    run.step(Op::Subscribe(0b1000, false));
    let due = run.cache.take_due(run.model.now, 1);
    assert_eq!(&*due[0].id, "e3");
}

#[test]
fn svids_of_a_distrusted_authority_are_replaced_paced_and_those_with_callers_first() {
    let mut now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let half_a_minute = Duration::from_secs(30);
    let mut cache = Cache::new(Options::default(), bundle(own(), 0));
    let entries: Vec<_> = (0..5).map(|id| Arc::new(entry(id, 1 << id, 0, id, false))).collect();
    cache.sync(Some(entries.clone()), Bundles::new(), now);
    for due in cache.take_due(now, 10) {
        cache.minted(&due, svid(&due.spiffe_id, now, 3600), 0.5, now);
    }
    let matched = cache.snapshot().matching(&selectors(1 << 4));
    cache.subscribe(&selectors(1 << 4), matched, now);
    assert!(cache.take_due(now, 10).is_empty());
    let is_distrusted = |svid: &X509Svid| svid.id != entries[0].spiffe_id;
    let delays = |count, within| {
        assert_eq!((count, within), (4, half_a_minute));
        [0, 0, 1, 1].map(Duration::from_secs).to_vec()
    };
    assert_eq!(cache.renew_distrusted(is_distrusted, delays, now), 4);
    // Callers keep the old SVIDs until the new ones are there.
    assert_eq!(cache.svid_count(), 5);
    let mut taken = Vec::new();
    for _ in 0..3 {
        let due: Vec<_> = cache.take_due(now, 10).iter().map(|entry| entry.id.to_string()).collect();
        taken.push(due);
        now += Duration::from_secs(1);
    }
    assert_eq!(taken[0].len(), 2);
    assert!(taken[0].contains(&"e4".to_owned()), "it has a caller: {taken:?}");
    assert_eq!((taken[1].len(), taken[2].len()), (2, 0));
}

#[test]
fn what_failed_is_due_sooner_for_a_caller_and_at_once_when_the_server_is_back() {
    let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
    let later = |seconds| now + Duration::from_secs(seconds);
    let mut cache = Cache::new(Options::default(), bundle(own(), 0));
    let entries: Vec<_> = (0..3).map(|id| Arc::new(entry(id, 1 << id, 0, id, false))).collect();
    cache.sync(Some(entries.clone()), Bundles::new(), now);
    assert_eq!(cache.take_due(now, 10).len(), 3);
    cache.minted(&entries[0], svid(&entries[0].spiffe_id, now, 100), 0.5, now);
    assert_eq!(cache.pressing_at("e0"), Some(later(75)), "at three quarters of its life");
    assert_eq!(cache.pressing_at("e1"), None, "nobody asks for it");
    for id in ["e1", "e2"] {
        cache.mint_failed(id, later(240), now);
    }
    let matched = cache.snapshot().matching(&selectors(1 << 1));
    cache.subscribe(&selectors(1 << 1), matched, now);
    assert!(cache.pressing_at("e1").is_some_and(|at| at <= now));
    cache.hasten(&selectors(1 << 1), later(5), now);
    assert_eq!(cache.wake_at(), Some(later(5)));
    assert_eq!(cache.take_due(later(6), 10).len(), 1);
    cache.retry_failed(later(6));
    assert_eq!(cache.take_due(later(6), 10), [Arc::clone(&entries[2])]);
    cache.renew_by(&entries[0].id, later(10), now);
    assert_eq!(cache.wake_at(), Some(later(10)));
}
