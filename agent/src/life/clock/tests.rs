//! Time is paused.

use tokio::time::advance;

use super::*;
use crate::upstream::backoff::{FIRST, URGENT};

const INTERVAL: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn the_interval_has_a_tenth_of_jitter() {
    for _ in 0..50 {
        let mut clock = SyncClock::new();
        assert_eq!(clock.next(), Instant::now(), "the first is at once");
        clock.synced(Ok(()), INTERVAL, Need::Idle);
        let wait = clock.next() - Instant::now();
        assert!(wait >= INTERVAL.mul_f64(0.9) && wait <= INTERVAL.mul_f64(1.1), "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn demand_comes_sooner_but_never_twice_in_a_second() {
    let mut clock = SyncClock::new();
    clock.synced(Ok(()), Duration::from_secs(60), Need::Idle);
    for _ in 0..100 {
        clock.demand();
    }
    let mut syncs = Vec::new();
    let start = Instant::now();
    while clock.next() < start + Duration::from_secs(30) {
        advance(clock.next() - Instant::now()).await;
        syncs.push(Instant::now());
        clock.synced(Ok(()), Duration::from_secs(60), Need::Idle);
    }
    assert!((1..=DEMANDS_KEPT).contains(&syncs.len()), "{syncs:?}");
    assert!(syncs.windows(2).all(|pair| pair[1] - pair[0] >= DEMAND_GAP), "{syncs:?}");
}

#[tokio::test(start_paused = true)]
async fn after_an_error_demand_waits_and_the_server_is_heeded() {
    let mut clock = SyncClock::new();
    clock.demand();
    clock.synced(Err(None), INTERVAL, Need::Idle);
    let first = clock.next() - Instant::now();
    assert!(first <= FIRST, "{first:?}");
    clock.synced(Err(Some(Duration::from_secs(60))), INTERVAL, Need::Idle);
    let held = clock.next() - Instant::now();
    assert!(held >= Duration::from_secs(59) && held <= Duration::from_secs(73), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_waits_longer_each_time_until_one_works() {
    let mut clock = SyncClock::new();
    let waits: Vec<_> = (0..20).map(|_| clock.renewal_wait(Need::Urgent)).collect();
    assert!(waits.iter().all(|wait| *wait <= URGENT));
    clock.renewed();
    assert!(clock.renewal_wait(Need::Idle) <= FIRST);
}

/// The wait after this many failed syncs.
fn failing(clock: &mut SyncClock, failures: usize, need: Need) -> Duration {
    for _ in 0..failures {
        clock.synced(Err(None), INTERVAL, need);
    }
    clock.next() - Instant::now()
}

#[tokio::test(start_paused = true)]
async fn waits_grow_to_minutes_until_somebody_waits() {
    let mut clock = SyncClock::new();
    let longest = (0..50).map(|_| failing(&mut clock, 10, Need::Idle)).max().unwrap();
    assert!(longest > Duration::from_mins(1), "{longest:?}");
    assert!(failing(&mut clock, 1, Need::Urgent) <= URGENT);
    while failing(&mut clock, 1, Need::Idle) <= URGENT {}
    clock.demand();
    assert!(clock.next() <= Instant::now() + URGENT);
    assert!(failing(&mut clock, 1, Need::Idle) <= URGENT, "for a minute");
    advance(AWAITED).await;
    while failing(&mut clock, 1, Need::Idle) <= URGENT {}
    clock.reached();
    assert!(clock.next() <= Instant::now() + 2 * REACHED);
    assert!(clock.synced(Ok(()), INTERVAL, Need::Idle), "the server is back");
    assert!(!clock.synced(Ok(()), INTERVAL, Need::Idle));
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_back_is_confirmed_soon() {
    let mut clock = SyncClock::new();
    clock.synced(Ok(()), Duration::from_mins(1), Need::Idle);
    clock.confirm();
    assert!(clock.next() <= Instant::now() + CONFIRM.mul_f64(1.1));
    clock.synced(Err(None), INTERVAL, Need::Urgent);
    clock.confirm_refusal();
    assert!(clock.next() >= Instant::now() + REFUSED.mul_f64(0.9));
}

#[tokio::test(start_paused = true)]
async fn a_sync_on_demand_leaves_the_regular_one_where_it_was() {
    let mut clock = SyncClock::new();
    clock.synced(Ok(()), INTERVAL, Need::Idle);
    let regular = clock.next();
    advance(Duration::from_secs(2)).await;
    clock.demand();
    clock.synced(Ok(()), INTERVAL, Need::Idle);
    clock.demands.clear();
    assert_eq!(clock.next(), regular);
    advance(regular - Instant::now() - Duration::from_millis(10)).await;
    clock.synced(Ok(()), INTERVAL, Need::Idle);
    assert_eq!(clock.next(), Instant::now() + DEMAND_GAP, "but not at once after it");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_does_not_displace_the_last_sync_of_a_newcomer() {
    let mut clock = SyncClock::new();
    clock.synced(Ok(()), Duration::from_mins(1), Need::Idle);
    for _ in 0..5 {
        clock.demand();
    }
    advance(Duration::from_secs(1)).await;
    clock.synced(Ok(()), Duration::from_mins(1), Need::Idle);
    let newcomer = Instant::now();
    clock.demand();
    let last = clock.demands.last().copied().unwrap();
    assert!(last >= newcomer + Duration::from_secs(6), "{:?}", last - newcomer);
    assert!(clock.demands.len() <= DEMANDS_KEPT);
}

#[tokio::test(start_paused = true)]
async fn nobody_brings_forward_what_the_server_or_a_refusal_asks_to_wait_for() {
    let mut clock = SyncClock::new();
    clock.synced(Err(Some(Duration::from_secs(60))), INTERVAL, Need::Idle);
    for _ in 0..100 {
        clock.demand();
        clock.reached();
    }
    assert!(clock.next() >= Instant::now() + Duration::from_secs(59));
    clock.synced(Err(None), INTERVAL, Need::Urgent);
    clock.confirm_refusal();
    clock.demand();
    assert!(clock.next() >= Instant::now() + REFUSED.mul_f64(0.9));
    // A crowd brings a sync forward once.
    advance(AWAITED).await;
    while failing(&mut clock, 1, Need::Idle) <= URGENT {}
    clock.demand();
    let first = clock.next();
    for _ in 0..100 {
        clock.demand();
    }
    assert_eq!(clock.next(), first);
}
