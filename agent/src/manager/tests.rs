//! Time is paused, and the wall clock runs with tokio's.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use budget::{Account, Limits};
use bytes::Bytes;
use identity::{PrivateKey, Selector, SpiffeId, TrustDomain, X509Svid};
use pace::BATCH;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::task::SWEEP;
use super::*;

thread_local! {
    static BEGAN: OnceCell<(SystemTime, Instant)> = const { OnceCell::new() };
}

/// A wall clock that advances with the paused one.
fn clock() -> SystemTime {
    BEGAN.with(|began| {
        let (wall, instant) = began.get_or_init(|| (SystemTime::now(), Instant::now()));
        *wall + instant.elapsed()
    })
}

/// A caller with the selector `unix:uid:N`.
struct Uid(u32);

impl Uid {
    fn set(&self) -> Selectors {
        [Selector::new("unix", &format!("uid:{}", self.0)).unwrap()].into_iter().collect()
    }
}

/// A proof of any selectors, for these tests.
struct Shown(Selectors);

impl Proof for Shown {
    fn selectors(&self) -> &Selectors {
        &self.0
    }
}

fn entry(id: &str, uid: &Uid) -> Arc<Entry> {
    Arc::new(Entry {
        id: id.into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://td/{id}")).unwrap(),
        selectors: uid.set(),
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        revision: 1,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    })
}

/// An SVID that is valid for a minute from now.
fn svid(entry: &Entry) -> Arc<X509Svid> {
    let now = clock();
    Arc::new(X509Svid {
        id: entry.spiffe_id.clone(),
        chain: vec![Bytes::from_static(b"leaf")],
        key: PrivateKey::from_pkcs8(b"key".to_vec()),
        not_before: now,
        not_after: now + MINUTE,
        serial: "1".to_owned(),
    })
}

/// A server that signs everything, unless [`Signer::fails`] was called. Records the calls.
#[derive(Default)]
struct Signer {
    /// The time since the start and the entry IDs of each call.
    asked: Mutex<Vec<(Duration, Vec<String>)>>,
    /// The failures of the next calls, the last element first.
    answers: Mutex<Vec<Result<BTreeMap<String, &'static str>, ServerError>>>,
}

impl Signer {
    /// Adds the failure of a later call, in the order of `fails`: the whole call, or the entries that the map names.
    fn fails(&self, answer: Result<BTreeMap<String, &'static str>, ServerError>) {
        self.answers.lock().unwrap().insert(0, answer);
    }

    fn sign(&self, began: Instant, entries: &[Arc<Entry>]) -> Result<Vec<Outcome>, ServerError> {
        let ids = entries.iter().map(|entry| entry.id.to_string()).collect();
        self.asked.lock().unwrap().push((began.elapsed(), ids));
        let refused = self.answers.lock().unwrap().pop().unwrap_or_else(|| Ok(BTreeMap::new()))?;
        let outcome = |entry: &Arc<Entry>| {
            let outcome = match refused.get(&*entry.id) {
                Some(words) => Err((*words).to_owned()),
                None => Ok(svid(entry)),
            };
            (Arc::clone(entry), outcome)
        };
        Ok(entries.iter().map(outcome).collect())
    }

    /// The seconds at which the server was asked for an entry.
    fn times(&self, id: &str) -> Vec<f64> {
        let asked = self.asked.lock().unwrap();
        let of_entry = asked.iter().filter(|(_, ids)| ids.iter().any(|asked| asked == id));
        of_entry.map(|(at, _)| at.as_secs_f64()).collect()
    }

    /// The number of entries in each call.
    fn sizes(&self) -> Vec<usize> {
        self.asked.lock().unwrap().iter().map(|(_, ids)| ids.len()).collect()
    }
}

struct Fixture {
    manager: Manager,
    signer: Arc<Signer>,
    demand: mpsc::Receiver<Demand>,
    bytes: Account,
}

impl Fixture {
    fn new(rules: cache::Options) -> Self {
        let (signer, began) = (Arc::<Signer>::default(), Instant::now());
        let server = Arc::clone(&signer);
        let mint: Mint = Arc::new(move |entries| {
            let server = Arc::clone(&server);
            Box::pin(async move { server.sign(began, &entries) })
        });
        let (heard, demand) = mpsc::channel(1);
        let bundle = Arc::new(Bundle::of_x509(TrustDomain::parse("td").unwrap(), []));
        let manager = Manager::start(Parts {
            changes: Changes::default(),
            rules,
            bundle,
            mint,
            sign: never(),
            jwt_limit: 1,
            demand: heard,
            clock,
            metrics: Metrics::default(),
        });
        let limits = Limits { whole: MUCH, spare: 0, group: MUCH, account: MUCH, work: u64::MAX };
        let bytes = budget::Budget::new(limits).group("uid:0").account();
        Self { manager, signer, demand, bytes }
    }

    async fn sync(&self, entries: impl IntoIterator<Item = Arc<Entry>>) {
        let entries = Some(entries.into_iter().collect());
        self.manager.synced(Synced { entries, bundles: Bundles::new() }).await;
    }

    async fn listen(&self, uid: &Uid) -> Updates<WorkloadUpdate> {
        let matched = self.manager.snapshot().matching(&uid.set());
        let charge = self.bytes.charge(100).unwrap();
        self.manager.subscribe(&Shown(uid.set()), matched, charge).await.unwrap()
    }
}

fn never() -> Sign {
    Arc::new(|_| Box::pin(std::future::pending()))
}

/// A manager that mints before anybody asks.
fn prefetching() -> Fixture {
    Fixture::new(cache::Options::default())
}

/// A manager that mints only for callers.
fn lazy() -> Fixture {
    Fixture::new(cache::Options { prefetch: cache::Prefetch::Live, ..cache::Options::default() })
}

/// Lets all tasks run until they wait.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

fn has_svid(updates: &mut Updates<WorkloadUpdate>) -> bool {
    updates.latest().identities.iter().all(|identity| identity.svid.is_some())
}

#[tokio::test(start_paused = true)]
async fn what_is_synced_is_minted_and_published() {
    let fixture = prefetching();
    fixture.sync([entry("a", &Uid(1)), entry("b", &Uid(2))]).await;
    settle().await;
    assert_eq!(fixture.signer.sizes(), [2], "in one call");
    assert_eq!(fixture.manager.svid_count(), 2);
    let mut updates = fixture.listen(&Uid(1)).await;
    assert_eq!(updates.latest().identities[0].entry.id, "a".into());
    assert!(has_svid(&mut updates));
}

#[tokio::test(start_paused = true)]
async fn a_caller_makes_its_identity_minted_now() {
    let fixture = lazy();
    fixture.sync([entry("a", &Uid(1)), entry("b", &Uid(2))]).await;
    settle().await;
    assert_eq!(fixture.signer.sizes(), [0; 0]);
    let mut updates = fixture.listen(&Uid(2)).await;
    settle().await;
    assert!(has_svid(&mut updates));
    assert_eq!(fixture.signer.times("a"), [0.0; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_replaced_in_the_middle_of_its_life() {
    let fixture = prefetching();
    fixture.sync([entry("a", &Uid(1))]).await;
    sleep(Duration::from_secs(100)).await;
    let times = fixture.signer.times("a");
    assert!(times.len() >= 3, "{times:?}");
    for pair in times.windows(2) {
        let life = pair[1] - pair[0];
        assert!((27.0..33.1).contains(&life), "half a minute and a tenth of it either way: {times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_is_halved_and_made_again() {
    let fixture =
        Fixture::new(cache::Options { prefetch: cache::Prefetch::All, ..cache::Options::default() });
    // The first two calls are under way at the same time.
    for _ in 0..2 {
        fixture.signer.fails(Err(ServerError::Timeout(MINUTE)));
    }
    fixture.sync((0..2 * BATCH).map(|n| entry(&format!("e{n}"), &Uid(1)))).await;
    sleep(MINUTE / 4).await;
    assert_eq!(fixture.manager.svid_count(), 2 * BATCH);
    let sizes = fixture.signer.sizes();
    assert_eq!((sizes[0], sizes[1]), (BATCH, BATCH));
    assert!(sizes[2] <= BATCH / 2, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_server_is_left_alone_for_as_long_as_it_wants() {
    let fixture = prefetching();
    let mut status = Status::resource_exhausted("later");
    status.metadata_mut().insert("grpc-retry-pushback-ms", "20000".parse().unwrap());
    fixture.signer.fails(Err(ServerError::of(status)));
    fixture.sync([entry("a", &Uid(1))]).await;
    sleep(Duration::from_secs(25)).await;
    let times = fixture.signer.times("a");
    assert!(times[1] - times[0] >= 20.0, "{times:?}");
}

fn away() -> Result<BTreeMap<String, &'static str>, ServerError> {
    Err(ServerError::Unreachable("away".into()))
}

fn failing() -> Result<BTreeMap<String, &'static str>, ServerError> {
    Err(ServerError::Status(Box::new(Status::internal("no authority"))))
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_keeps_its_wait_when_the_server_is_back() {
    let mut fixture = prefetching();
    for _ in 0..12 {
        fixture.signer.fails(away());
    }
    fixture.sync([entry("a", &Uid(1)), entry("b", &Uid(2))]).await;
    sleep(MINUTE).await;
    assert_eq!(fixture.manager.need(), Need::Idle);
    let before = fixture.signer.times("a").len();
    assert!(before < 12, "the waits grow");
    fixture.signer.answers.lock().unwrap().clear();
    fixture.manager.reached().await;
    settle().await;
    assert_eq!(fixture.signer.times("a").len(), before, "a fleet would ask in one moment");
    sleep(MINUTE).await;
    assert_eq!(fixture.manager.svid_count(), 2, "a minute is the longest wait");
    assert!(fixture.demand.try_recv().is_err(), "it was the sync that told it");
}

#[tokio::test(start_paused = true)]
async fn a_caller_has_what_failed_as_soon_as_the_server_is_back() {
    for comes_later in [false, true] {
        let fixture = prefetching();
        for _ in 0..1000 {
            fixture.signer.fails(away());
        }
        fixture.sync([entry("a", &Uid(1))]).await;
        sleep(MINUTE).await;
        let early = if comes_later { None } else { Some(fixture.listen(&Uid(1)).await) };
        sleep(MINUTE).await;
        assert_eq!(fixture.manager.need(), Need::urgent_if(!comes_later), "then its syncs find the server");
        fixture.signer.answers.lock().unwrap().clear();
        fixture.manager.reached().await;
        let late = fixture.listen(&Uid(1)).await;
        settle().await;
        assert_eq!(fixture.manager.svid_count(), 1);
        drop((early, late));
    }
}

#[tokio::test(start_paused = true)]
async fn many_svids_that_fail_are_one_call_at_a_time() {
    let fixture = prefetching();
    for _ in 0..1000 {
        fixture.signer.fails(away());
    }
    fixture.sync((0..20).map(|n| entry(&format!("e{n}"), &Uid(1)))).await;
    let _updates = fixture.listen(&Uid(1)).await;
    sleep(10 * MINUTE).await;
    let sizes = fixture.signer.sizes();
    assert!(sizes.len() < 25 && sizes.iter().all(|size| *size == 20), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_keeps_the_waits_short() {
    let mut fixture = prefetching();
    for _ in 0..1000 {
        fixture.signer.fails(failing());
    }
    fixture.sync([entry("a", &Uid(1))]).await;
    sleep(MINUTE).await;
    let _updates = fixture.listen(&Uid(1)).await;
    sleep(MINUTE / 10).await;
    let waits_from = fixture.signer.times("a").len();
    sleep(MINUTE).await;
    assert_eq!(fixture.manager.need(), Need::Urgent);
    let times = fixture.signer.times("a");
    assert!(times[waits_from..].windows(2).all(|pair| pair[1] - pair[0] <= 5.1), "{times:?}");
    fixture.signer.answers.lock().unwrap().clear();
    sleep(MINUTE / 10).await;
    assert_eq!(fixture.demand.try_recv(), Ok(Demand::Reached));
}

#[tokio::test(start_paused = true)]
async fn an_svid_near_its_end_keeps_the_waits_short() {
    let fixture = prefetching();
    fixture.sync([entry("a", &Uid(1))]).await;
    settle().await;
    for _ in 0..1000 {
        fixture.signer.fails(failing());
    }
    sleep(MINUTE.mul_f64(0.9)).await;
    assert_eq!(fixture.manager.need(), Need::Urgent);
    let times = fixture.signer.times("a");
    assert!(times.iter().any(|at| (45.0..50.1).contains(at)), "at three quarters of its life: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_keeps_the_waits_of_syncs_short_until_it_has_gone() {
    let fixture = prefetching();
    fixture.sync([]).await;
    settle().await;
    assert_eq!(fixture.manager.need(), Need::Idle);
    let updates = fixture.listen(&Uid(1)).await;
    settle().await;
    assert_eq!(fixture.manager.need(), Need::Urgent);
    drop(updates);
    sleep(2 * SWEEP).await;
    assert_eq!(fixture.manager.need(), Need::Idle);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_refused_does_not_hold_up_the_others() {
    let fixture = prefetching();
    fixture.signer.fails(Ok([("bad".to_owned(), "no")].into()));
    fixture.sync([entry("bad", &Uid(1)), entry("good", &Uid(1))]).await;
    settle().await;
    assert_eq!(fixture.manager.svid_count(), 1);
    sleep(Duration::from_secs(14)).await;
    let times = fixture.signer.times("bad");
    assert_eq!(times.len(), 2);
    assert!((7.0..13.1).contains(&times[1]), "ten seconds and three tenths of it either way: {times:?}");
    assert_eq!(fixture.signer.times("good").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_goes_with_its_entry() {
    let fixture = prefetching();
    fixture.signer.fails(Ok([("bad".to_owned(), "no")].into()));
    fixture.sync([entry("bad", &Uid(1))]).await;
    settle().await;
    assert_eq!(fixture.manager.inspect().await.unwrap()[0].refusal.as_deref(), Some("no"));
    fixture.sync([]).await;
    fixture.sync([entry("bad", &Uid(1))]).await;
    assert_eq!(fixture.manager.inspect().await.unwrap()[0].refusal, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_who_has_gone_is_remembered() {
    let fixture = lazy();
    fixture.sync([entry("a", &Uid(1))]).await;
    let (one, other) = (fixture.listen(&Uid(1)).await, fixture.listen(&Uid(1)).await);
    assert_eq!(fixture.bytes.held(), 100, "the selectors are remembered once");
    drop(one);
    sleep(2 * SWEEP).await;
    assert_eq!(fixture.bytes.held(), 100);
    drop(other);
    sleep(2 * SWEEP).await;
    assert_eq!(fixture.bytes.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_goes_takes_its_identity_along() {
    let fixture = prefetching();
    fixture.sync([entry("a", &Uid(1))]).await;
    settle().await;
    let mut updates = fixture.listen(&Uid(1)).await;
    assert!(has_svid(&mut updates));
    fixture.sync([]).await;
    updates.changed().await.unwrap();
    assert!(updates.latest().identities.is_empty());
    assert!(fixture.manager.snapshot().entries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sync_without_entries_keeps_those_of_the_last_one() {
    let fixture = prefetching();
    fixture.sync([entry("a", &Uid(1))]).await;
    fixture.manager.synced(Synced { entries: None, bundles: Bundles::new() }).await;
    settle().await;
    assert_eq!(fixture.manager.snapshot().entries().len(), 1);
    assert_eq!(fixture.signer.sizes(), [1]);
}

#[tokio::test(start_paused = true)]
async fn unmatched_processes_are_one_demand() {
    let mut fixture = prefetching();
    fixture.manager.unmatched();
    fixture.manager.unmatched();
    assert_eq!(fixture.demand.try_recv(), Ok(Demand::Unmatched));
    assert!(fixture.demand.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_last_handle() {
    let fixture = prefetching();
    fixture.sync([entry("a", &Uid(1))]).await;
    let mut updates = fixture.listen(&Uid(1)).await;
    settle().await;
    drop(fixture);
    assert!(has_svid(&mut updates));
    updates.changed().await.unwrap_err();
}

const MINUTE: Duration = Duration::from_secs(60);
const MUCH: usize = 1 << 20;
