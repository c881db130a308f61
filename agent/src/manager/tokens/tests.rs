//! Time is paused, and the wall clock runs with tokio's.

use std::cell::OnceCell;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::{JwtAuthority, Selector, SpiffeId, TrustDomain};
use tokio::time::sleep;

use super::*;
use crate::continuity::Changes;

thread_local! {
    static BEGAN: OnceCell<(SystemTime, Instant)> = const { OnceCell::new() };
}

fn clock() -> SystemTime {
    BEGAN.with(|began| {
        let (wall, instant) = began.get_or_init(|| (SystemTime::now(), Instant::now()));
        *wall + instant.elapsed()
    })
}

fn entry(id: &str) -> Entry {
    Entry {
        id: id.into(),
        spiffe_id: SpiffeId::parse("spiffe://td/web").unwrap(),
        selectors: [Selector::new("unix", "uid:1").unwrap()].into_iter().collect(),
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

/// A server that signs tokens of a minute, a second after it is asked, until it is away.
#[derive(Default)]
struct Signer {
    asked: Mutex<Vec<String>>,
    away: Mutex<bool>,
}

impl Signer {
    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn away(&self, away: bool) {
        *self.away.lock().unwrap() = away;
    }
}

struct Fixture {
    tokens: Tokens,
    signer: Arc<Signer>,
    bundle: watch::Sender<Arc<Bundle>>,
}

impl Fixture {
    fn new() -> Self {
        let signer = Arc::<Signer>::default();
        let server = Arc::clone(&signer);
        let sign: Sign = Arc::new(move |key| {
            let server = Arc::clone(&server);
            Box::pin(async move {
                let number = {
                    let mut asked = server.asked.lock().unwrap();
                    asked.push(format!("{}: {}", key.entry_id(), key.audience().join(",")));
                    asked.len()
                };
                sleep(Duration::from_secs(1)).await;
                if *server.away.lock().unwrap() {
                    return Err(ServerError::Unreachable("away".into()));
                }
                if key.audience().iter().any(|audience| audience == "bad") {
                    return Err(ServerError::of(tonic::Status::internal("no")));
                }
                let header = URL_SAFE_NO_PAD.encode(r#"{"kid":"k"}"#);
                let id = SpiffeId::parse("spiffe://td/web").unwrap();
                Ok(JwtSvid::new(id, format!("{header}..{number}"), clock(), clock() + MINUTE))
            })
        });
        let bundle = Bundle::of_x509(TrustDomain::parse("td").unwrap(), []);
        let (bundle, watched) = watch::channel(Arc::new(bundle));
        Self {
            tokens: Tokens::start(
                (sign, Metrics::default(), Changes::default()),
                10,
                watched,
                Box::new(|id| id != "gone"),
                clock,
            ),
            signer,
            bundle,
        }
    }

    async fn get(&self, entry: &Entry, audience: &str) -> Result<String, String> {
        let svid = self.tokens.get(&Arc::new(entry.clone()), &[audience.to_owned()]).await;
        svid.map(|svid| svid.token().to_owned()).map_err(|reason| reason.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_one_token_wait_for_one_call() {
    let fixture = Fixture::new();
    let entry = entry("e");
    let (one, other) = tokio::join!(fixture.get(&entry, "a"), fixture.get(&entry, "a"));
    assert_eq!(one, other);
    assert_eq!(fixture.get(&entry, "a").await, one, "it is cached");
    assert_eq!((fixture.signer.count(), fixture.tokens.count()), (1, 1));
    assert_ne!(fixture.get(&entry, "b").await, one);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_used_is_refreshed_before_half_of_its_life() {
    let fixture = Fixture::new();
    let entry = entry("e");
    let first = fixture.get(&entry, "a").await;
    assert_eq!(fixture.get(&entry, "a").await, first);
    // The server takes a second.
    sleep(MINUTE / 2 + Duration::from_secs(2)).await;
    assert_eq!(fixture.signer.count(), 2);
    let began = Instant::now();
    let second = fixture.get(&entry, "a").await;
    assert!(second.is_ok() && second != first && began.elapsed().is_zero());
    sleep(MINUTE / 2).await;
    sleep(MINUTE).await;
    assert_eq!((fixture.signer.count(), fixture.tokens.count()), (3, 0), "nobody has asked for the third");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_noticed_when_a_token_has_expired() {
    let fixture = Fixture::new();
    let entry = entry("e");
    let first = fixture.get(&entry, "a").await;
    fixture.signer.away(true);
    let began = Instant::now();
    while began.elapsed() < MINUTE.mul_f64(0.9) {
        let asked = Instant::now();
        assert_eq!(fixture.get(&entry, "a").await, first);
        assert!(asked.elapsed().is_zero());
        sleep(Duration::from_secs(1)).await;
    }
    sleep(MINUTE).await;
    let reason =
        "failed to fetch JWT SVID: rpc error: code = Unavailable desc = cannot reach the server: away";
    assert_eq!(fixture.get(&entry, "a").await, Err(reason.into()));
    let asked = fixture.signer.count();
    assert!(fixture.get(&entry, "a").await.is_err());
    assert_eq!(fixture.signer.count(), asked, "not again at once");
    fixture.signer.away(false);
    sleep(PAUSE).await;
    assert!(fixture.get(&entry, "a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_tainted_key_are_dropped() {
    let fixture = Fixture::new();
    let entry = entry("e");
    let first = fixture.get(&entry, "a").await;
    fixture.bundle.send_modify(|bundle| {
        let key = JwtAuthority {
            public_key: bytes::Bytes::new(),
            key_id: "k".into(),
            expires_at: 0,
            tainted: true,
        };
        Arc::make_mut(bundle).jwt_authorities.push(key);
    });
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fixture.tokens.count(), 0);
    assert_ne!(fixture.get(&entry, "a").await, first);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_key_that_has_left_the_bundle_are_dropped() {
    let fixture = Fixture::new();
    let entry = entry("e");
    let keys = |ids: &[&str]| {
        let key = |id: &&str| JwtAuthority {
            public_key: bytes::Bytes::new(),
            key_id: (*id).to_owned(),
            expires_at: 0,
            tainted: false,
        };
        let keys = ids.iter().map(key).collect();
        fixture.bundle.send_modify(|bundle| Arc::make_mut(bundle).jwt_authorities = keys);
        sleep(Duration::from_millis(1))
    };
    fixture.get(&entry, "a").await.unwrap();
    keys(&["other"]).await;
    assert_eq!(fixture.tokens.count(), 1, "its key is newer than the bundle");
    keys(&["other", "k"]).await;
    keys(&["other"]).await;
    assert_eq!(fixture.tokens.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_with_an_id_of_its_own_is_not_kept() {
    let fixture = Fixture::new();
    let entry = Entry { jwt_svid_include_jti: true, ..entry("e") };
    let (one, other) = tokio::join!(fixture.get(&entry, "a"), fixture.get(&entry, "a"));
    assert_ne!(one, other);
    assert_eq!(fixture.tokens.count(), 0);
    // Nor is one that the entry had before.
    let before = Entry { jwt_svid_include_jti: false, ..entry.clone() };
    let kept = fixture.get(&before, "a").await;
    assert_ne!(fixture.get(&entry, "a").await, kept);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_of_one_token_says_nothing_of_others() {
    let fixture = Fixture::new();
    let (bad, good) = (entry("bad"), entry("good"));
    let refused = fixture.get(&bad, "bad").await.unwrap_err();
    assert_eq!(refused, "failed to fetch JWT SVID: rpc error: code = Internal desc = no");
    let asked = fixture.signer.count();
    assert_eq!(fixture.get(&bad, "bad").await, Err(refused), "not again at once");
    assert_eq!(fixture.signer.count(), asked);
    assert!(fixture.get(&good, "a").await.is_ok() && fixture.get(&bad, "a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_for_callers_that_have_gone() {
    let fixture = Fixture::new();
    let entry = entry("e");
    for audience in 0..200 {
        let audience = audience.to_string();
        let call = tokio::time::timeout(Duration::from_millis(1), fixture.get(&entry, &audience));
        assert!(!matches!(call.await, Ok(Ok(_))), "it is taken back, or one too many");
    }
    sleep(MINUTE / 2).await;
    assert!(fixture.signer.count() <= 2 * PARALLEL, "{}", fixture.signer.count());
    assert!(fixture.get(&entry, "a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_entry_has_so_many_that_wait() {
    let fixture = Fixture::new();
    let (loud, quiet) = (entry("loud"), entry("quiet"));
    let crowd = futures_util::future::join_all((0..500).map(|audience| {
        let (fixture, loud) = (&fixture, &loud);
        async move { fixture.get(loud, &audience.to_string()).await }
    }));
    let newcomer = async {
        sleep(Duration::from_millis(10)).await;
        fixture.get(&quiet, "a").await
    };
    let (crowd, newcomer) = tokio::join!(crowd, newcomer);
    assert!(newcomer.is_ok());
    let busy = Err("too many JWT-SVIDs are being signed".to_owned());
    assert!(
        crowd.iter().filter(|answer| **answer == busy).count() >= 500 - queue::WAITING_OF_ENTRY - PARALLEL
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_gone_is_not_refreshed() {
    let fixture = Fixture::new();
    let gone = entry("gone");
    for _ in 0..2 {
        fixture.get(&gone, "a").await.unwrap();
    }
    sleep(MINUTE / 2 + Duration::from_secs(2)).await;
    assert_eq!((fixture.signer.count(), fixture.tokens.count()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn entries_take_turns() {
    let fixture = Fixture::new();
    let (loud, quiet) = (entry("loud"), entry("quiet"));
    let crowd = futures_util::future::join_all((0..60).map(|audience| {
        let (fixture, loud) = (&fixture, &loud);
        async move { fixture.get(loud, &audience.to_string()).await }
    }));
    let began = Instant::now();
    let newcomer = async {
        sleep(Duration::from_millis(10)).await;
        fixture.get(&quiet, "a").await.unwrap();
        began.elapsed()
    };
    let (_, waited) = tokio::join!(crowd, newcomer);
    assert!(waited <= Duration::from_secs(2), "{waited:?}");
}

const MINUTE: Duration = Duration::from_mins(1);

async fn follow(fixture: &Fixture, entry: &Entry, audience: &str) -> Result<Following, TokenError> {
    fixture.tokens.follow(&Arc::new(entry.clone()), &[audience.to_owned()]).await
}

async fn following(updates: &mut Following) -> String {
    loop {
        updates.changed().await.unwrap();
        if let Some(svid) = &*updates.latest() {
            return svid.token().to_owned();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_followed_is_replaced_before_half_of_its_life() {
    let fixture = Fixture::new();
    let entry = entry("e");
    let mut updates = follow(&fixture, &entry, "a").await.unwrap();
    let mut also = follow(&fixture, &entry, "a").await.unwrap();
    let mut last = following(&mut updates).await;
    for _ in 0..5 {
        let began = Instant::now();
        let next = following(&mut updates).await;
        assert_ne!(std::mem::replace(&mut last, next), last);
        // The server takes a second.
        assert!(began.elapsed() <= MINUTE / 2 + Duration::from_secs(1), "{:?}", began.elapsed());
    }
    assert_eq!(following(&mut also).await, last, "two followers, one token");
    assert_eq!(fixture.signer.count(), 6);
    assert_eq!(fixture.get(&entry, "a").await.unwrap(), last, "it is the one of the cache");
    drop((updates, also));
    sleep(4 * MINUTE).await;
    assert!(fixture.signer.count() <= 8, "nobody follows it any more: {}", fixture.signer.count());
}

#[tokio::test(start_paused = true)]
async fn a_follower_gets_what_the_cache_has() {
    let fixture = Fixture::new();
    let entry = entry("e");
    let cached = fixture.get(&entry, "a").await.unwrap();
    sleep(MINUTE / 3).await;
    let mut updates = follow(&fixture, &entry, "a").await.unwrap();
    let began = Instant::now();
    assert_eq!(following(&mut updates).await, cached);
    assert!(began.elapsed().is_zero());
    assert_ne!(following(&mut updates).await, cached);
    assert!(began.elapsed() <= MINUTE / 6 + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_follower_waits_through_an_outage() {
    let fixture = Fixture::new();
    let entry = entry("e");
    fixture.signer.away(true);
    let mut updates = follow(&fixture, &entry, "a").await.unwrap();
    sleep(4 * MINUTE).await;
    fixture.signer.away(false);
    let began = Instant::now();
    following(&mut updates).await;
    // The longest wait where somebody needs the server, and the second that it takes.
    assert!(began.elapsed() <= Duration::from_secs(5 + 1), "{:?}", began.elapsed());
    // It is also asked for when it has expired meanwhile.
    fixture.signer.away(true);
    sleep(10 * MINUTE).await;
    fixture.signer.away(false);
    following(&mut updates).await;
}

#[tokio::test(start_paused = true)]
async fn a_distrusted_key_is_replaced_at_once_for_followers() {
    let fixture = Fixture::new();
    let mut updates = follow(&fixture, &entry("e"), "a").await.unwrap();
    let first = following(&mut updates).await;
    let began = Instant::now();
    let of = |tainted| {
        let key_id = "k".to_owned();
        let key = JwtAuthority { public_key: bytes::Bytes::new(), key_id, expires_at: 0, tainted };
        let mut bundle = Bundle::of_x509(TrustDomain::parse("td").unwrap(), []);
        bundle.jwt_authorities = vec![key];
        Arc::new(bundle)
    };
    fixture.bundle.send(of(true)).unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.signer.count(), 2);
    // The server still signs with that key; once it does not, the next token is sent.
    fixture.bundle.send(of(false)).unwrap();
    assert_ne!(following(&mut updates).await, first);
    assert!(began.elapsed() < MINUTE / 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_grants_another_id_gives_followers_no_token_of_the_old_one() {
    let fixture = Fixture::new();
    let mut old = follow(&fixture, &entry("e"), "a").await.unwrap();
    following(&mut old).await;
    let other = Entry { spiffe_id: SpiffeId::parse("spiffe://td/db").unwrap(), ..entry("e") };
    let mut new = follow(&fixture, &other, "a").await.unwrap();
    assert!(new.latest().is_none());
    sleep(MINUTE).await;
    assert!(new.latest().is_none(), "the server of this test signs for the old one only");
}

#[tokio::test(start_paused = true)]
async fn followers_are_limited_and_tokens_of_one_use_are_not_followed() {
    let fixture = Fixture::new();
    let once = Entry { jwt_svid_include_jti: true, ..entry("once") };
    let refused = follow(&fixture, &once, "a").await.unwrap_err();
    assert!(matches!(refused, TokenError::ForOneUse));
    let mut held = Vec::new();
    for number in 0..64 {
        held.push(follow(&fixture, &entry("e"), &number.to_string()).await.unwrap());
    }
    assert!(matches!(follow(&fixture, &entry("e"), "more").await, Err(TokenError::Busy)));
    follow(&fixture, &entry("other"), "a").await.unwrap();
    held.clear();
    follow(&fixture, &entry("e"), "more").await.unwrap();
}

/// A fixture whose server signs tokens that came this long ago and live for a minute.
fn late(by: Duration) -> Fixture {
    let signer = Arc::<Signer>::default();
    let server = Arc::clone(&signer);
    let sign: Sign = Arc::new(move |key| {
        server.asked.lock().unwrap().push(key.entry_id().to_string());
        let id = SpiffeId::parse("spiffe://td/web").unwrap();
        let header = URL_SAFE_NO_PAD.encode(r#"{"kid":"k"}"#);
        let signed = JwtSvid::new(id, format!("{header}.."), clock() - by, clock() - by + MINUTE);
        Box::pin(async move { Ok(signed) })
    });
    let bundle = Bundle::of_x509(TrustDomain::parse("td").unwrap(), []);
    let (bundle, watched) = watch::channel(Arc::new(bundle));
    Fixture {
        tokens: Tokens::start(
            (sign, Metrics::default(), Changes::default()),
            10,
            watched,
            Box::new(|_| true),
            clock,
        ),
        signer,
        bundle,
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_come_expired_are_not_followed_closely() {
    let fixture = late(2 * MINUTE);
    let mut updates = follow(&fixture, &entry("e"), "a").await.unwrap();
    sleep(10 * MINUTE).await;
    assert!(updates.latest().is_none());
    assert!(fixture.signer.count() <= 61, "{}", fixture.signer.count());
}

#[tokio::test(start_paused = true)]
async fn a_new_follower_gets_no_token_of_a_tainted_key() {
    let fixture = Fixture::new();
    let mut updates = follow(&fixture, &entry("e"), "a").await.unwrap();
    following(&mut updates).await;
    fixture.signer.away(true);
    let key_id = "k".to_owned();
    let key = JwtAuthority { public_key: bytes::Bytes::new(), key_id, expires_at: 0, tainted: true };
    fixture.bundle.send_modify(|bundle| Arc::make_mut(bundle).jwt_authorities.push(key));
    sleep(Duration::from_secs(2)).await;
    let mut new = follow(&fixture, &entry("e"), "a").await.unwrap();
    assert!(new.latest().is_none());
}

#[tokio::test(start_paused = true)]
async fn followers_that_have_left_are_not_signed_for() {
    let fixture = Fixture::new();
    for number in 0..1000 {
        let entry = entry(&format!("e{}", number / 50));
        drop(follow(&fixture, &entry, &number.to_string()).await.unwrap());
    }
    sleep(MINUTE).await;
    assert!(fixture.signer.count() <= PARALLEL + 1, "{}", fixture.signer.count());
}
