//! The caller is this process, on a real socket. Time is paused.

use std::os::unix::net::UnixStream;

use attestors::workload::unix;
use budget::{Budget, Limits};
use identity::{Bundle, Bundles, Entry, Selector, SpiffeId, TrustDomain};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Instant;
use transport::{Listener, Options};

use super::*;
use crate::manager::{Demand, Parts};
use crate::upstream::sync::Synced;

struct Fixture {
    admission: Arc<Admission>,
    ready: watch::Sender<Option<Manager>>,
    demand: (mpsc::Sender<Demand>, mpsc::Receiver<Demand>),
    bytes: Budget,
    folder: TempDir,
}

impl Fixture {
    /// An agent that has not synchronized yet.
    fn starting() -> Self {
        let proc = PathBuf::from("/proc");
        let unix = unix::Unix::new(unix::Options {
            discover_workload_path: false,
            workload_size_limit: 0,
            paths: unix::Paths::Any,
            proc: proc.clone(),
        });
        let (ready, manager) = watch::channel(None);
        let admission = Admission::new(
            vec![Attestor::Unix(unix)],
            manager,
            RateLimits::default(),
            proc,
            Metrics::default(),
            Record::default(),
        );
        let limits = Limits { whole: MUCH, spare: 0, group: MUCH, account: MUCH, work: u64::MAX };
        Self {
            admission: Arc::new(admission),
            ready,
            demand: mpsc::channel(1),
            bytes: Budget::new(limits),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// An agent that has synchronized, with these entries.
    async fn ready(entries: impl IntoIterator<Item = Entry>) -> Self {
        let fixture = Self::starting();
        fixture.become_ready(entries).await;
        fixture
    }

    async fn become_ready(&self, entries: impl IntoIterator<Item = Entry>) {
        let parts = Parts {
            changes: crate::continuity::Changes::default(),
            rules: cache::Options::default(),
            bundle: Arc::new(Bundle::of_x509(TrustDomain::parse("td").unwrap(), [])),
            mint: Arc::new(|_| Box::pin(std::future::pending())),
            sign: Arc::new(|_| Box::pin(std::future::pending())),
            jwt_limit: 1,
            demand: self.demand.0.clone(),
            clock: std::time::SystemTime::now,
            metrics: Metrics::default(),
        };
        let manager = Manager::start(parts);
        let entries = entries.into_iter().map(Arc::new).collect();
        manager.synced(Synced { entries: Some(entries), bundles: Bundles::new() }).await;
        tokio::task::yield_now().await;
        self.ready.send_replace(Some(manager));
    }

    /// This process as a caller, and its end of the connection.
    async fn peer(&self) -> (Arc<Peer>, UnixStream) {
        let limits = Limits { whole: 8, spare: 0, group: 8, account: 1, work: u64::MAX };
        let (bytes, proc) = (self.bytes.clone(), PathBuf::from("/proc"));
        let path = self.folder.path().join("s");
        let _ = fs::remove_file(&path);
        let mut listener =
            Listener::bind(&path, Options { slots: limits, bytes, proc, mode: 0o777 }).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        (listener.accept().await.peer(), stream)
    }

    async fn caller(&self) -> Caller {
        let (peer, _) = self.peer().await;
        self.admission.caller(peer, NOW, None).await.unwrap()
    }

    /// Whether an early sync was requested since the last call.
    fn asked(&mut self) -> bool {
        self.demand.1.try_recv().is_ok()
    }
}

/// An entry that matches processes of this user ID.
fn entry(name: &str, uid: u32) -> Entry {
    Entry {
        id: name.into(),
        spiffe_id: SpiffeId::parse(&format!("spiffe://td/{name}")).unwrap(),
        selectors: [Selector::new("unix", &format!("uid:{uid}")).unwrap()].into_iter().collect(),
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        revision: 1,
        store_svid: false,
        hint: String::new(),
        created_at: 0,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_patience_waits_for_the_agent_to_be_ready() {
    let fixture = Fixture::starting();
    let (peer, _stream) = fixture.peer().await;
    let began = Instant::now();
    let limited = Patience::Limited(Duration::from_secs(5));
    let refused = fixture.admission.caller(Arc::clone(&peer), limited, None).await.unwrap_err();
    assert_eq!((refused, began.elapsed().as_secs()), (Denied::Starting, 5));
    let admission = Arc::clone(&fixture.admission);
    let waiting = tokio::spawn(async move { admission.caller(peer, Patience::Endless, None).await });
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert!(!waiting.is_finished());
    fixture.become_ready([]).await;
    let uid = Selector::new("unix", &format!("uid:{}", me())).unwrap();
    assert!(waiting.await.unwrap().unwrap().selectors().iter().any(|selector| *selector == uid));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_once_the_agent_stops() {
    let fixture = Fixture::starting();
    let (peer, _stream) = fixture.peer().await;
    let Fixture { admission, ready, .. } = fixture;
    drop(ready);
    assert_eq!(admission.caller(peer, Patience::Endless, None).await.unwrap_err(), Denied::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_new_process_that_matches_nothing_has_the_server_asked_once() {
    let mut fixture = Fixture::ready([entry("other", me() + 1)]).await;
    for asked in [true, false] {
        let caller = fixture.caller().await;
        let updates = fixture.admission.subscribe(&caller).await.unwrap();
        assert!({ updates }.latest().identities.is_empty());
        assert_eq!(fixture.asked(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nothing_grants_has_the_server_asked_once() {
    let mut fixture = Fixture::ready([entry("web", me())]).await;
    let caller = fixture.caller().await;
    fixture.admission.subscribe(&caller).await.unwrap();
    assert!(!fixture.asked(), "it matches an entry");
    for (name, asked) in [("spiffe://td/a", true), ("spiffe://td/a", false), ("spiffe://td/b", true)] {
        fixture.admission.sought(caller.peer(), "DeltaSecrets", [name].into_iter());
        assert_eq!(fixture.asked(), asked, "{name}");
    }
    for number in 0..2 * NAMES_KEPT {
        fixture.admission.sought(
            caller.peer(),
            "DeltaSecrets",
            [&*format!("spiffe://td/{number}")].into_iter(),
        );
        fixture.asked();
    }
    fixture.admission.sought(caller.peer(), "DeltaSecrets", ["spiffe://td/made-up"].into_iter());
    assert!(!fixture.asked(), "who makes up names is not asked for without end");
    let recorded = fixture.admission.record().events(None);
    assert!(recorded.iter().all(|(_, event)| event.method == "DeltaSecrets"));
}

#[tokio::test(start_paused = true)]
async fn a_delegate_is_judged_by_the_entries_of_the_moment() {
    let fixture = Fixture::ready([entry("web", me()), entry("other", me() + 1)]).await;
    let caller = fixture.caller().await;
    let (listed, another) = (["spiffe://td/web".to_owned()], ["spiffe://td/other".to_owned()]);
    assert_eq!(fixture.admission.authorize(&caller, &listed), Ok(()));
    assert_eq!(fixture.admission.authorize(&caller, &another), Err(NoDelegate::NotListed));
    let wanted: Selectors =
        [Selector::new("unix", &format!("uid:{}", me() + 1)).unwrap()].into_iter().collect();
    let delegate = fixture.admission.delegate(&caller, &listed, wanted).unwrap();
    let mut updates = fixture.admission.subscribe_for(&caller, &delegate).await.unwrap();
    assert_eq!(&*updates.latest().identities[0].entry.id, "other");
    let manager = fixture.admission.manager().unwrap();
    manager.synced(Synced { entries: Some(Vec::new()), bundles: Bundles::new() }).await;
    updates.changed().await.unwrap();
    assert_eq!(fixture.admission.authorize(&caller, &listed), Err(NoDelegate::NoIdentity));
}

#[tokio::test(start_paused = true)]
async fn a_process_is_attested_by_its_pid() {
    let fixture = Fixture::ready([]).await;
    let caller = fixture.caller().await;
    let found = fixture.admission.attest_pid(&caller, std::process::id().cast_signed()).await.unwrap();
    assert_eq!(&found, caller.selectors());
    let gone = fixture.admission.attest_pid(&caller, i32::MAX).await;
    assert_eq!(gone.unwrap_err(), Denied::Attestation);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_a_caller_is_charged_to_it() {
    let fixture = Fixture::ready([entry("web", me())]).await;
    let caller = fixture.caller().await;
    let before = caller.peer().account().held();
    let updates = fixture.admission.subscribe(&caller).await.unwrap();
    let charged = caller.peer().account().held() - before;
    assert_eq!(charged, shares::remembered(caller.selectors()));
    let texts: usize = caller.selectors().iter().map(|selector| selector.to_string().len()).sum();
    assert!(charged > texts);
    drop(updates);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(caller.peer().account().held(), before, "given back when nobody listens any more");
}

/// Does not wait.
const NOW: Patience = Patience::Limited(Duration::ZERO);
const MUCH: usize = 1 << 20;
