use rand::rngs::ThreadRng;

use super::*;
use crate::{FIRST, URGENT};

const INTERVAL: Duration = Duration::from_secs(5);

/// A schedule with a clock that the test moves.
struct Run {
    cadence: Cadence,
    now: Duration,
    random: ThreadRng,
}

impl Run {
    fn new() -> Self {
        let now = Duration::from_secs(1000);
        Self { cadence: Cadence::new(now), now, random: rand::rng() }
    }

    fn ok(&mut self, interval: Duration) -> bool {
        self.cadence.synced(Ok(()), interval, Need::Idle, self.now, &mut self.random)
    }

    fn fail(&mut self, asked: Option<u64>, need: Need) {
        let failure = Failure { asked: asked.map(Duration::from_secs), ..Cause::Other.into() };
        self.cadence.synced(Err(failure), INTERVAL, need, self.now, &mut self.random);
    }

    fn busy(&mut self) {
        self.cadence.synced(Err(Cause::Busy.into()), INTERVAL, Need::Urgent, self.now, &mut self.random);
    }

    /// The wait after this many failed syncs.
    fn failing(&mut self, failures: usize, need: Need) -> Duration {
        for _ in 0..failures {
            self.fail(None, need);
        }
        self.wait()
    }

    fn wait(&self) -> Duration {
        self.cadence.next().saturating_sub(self.now)
    }

    fn demand(&mut self) {
        self.cadence.demand(self.now, &mut self.random);
    }

    fn reached(&mut self) {
        self.cadence.reached(self.now, &mut self.random);
    }

    fn confirm_refusal(&mut self) {
        self.cadence.confirm_refusal(self.now, &mut self.random);
    }
}

#[test]
fn the_interval_has_a_tenth_of_jitter() {
    for _ in 0..50 {
        let mut run = Run::new();
        assert_eq!(run.cadence.next(), run.now, "the first is at once");
        run.ok(INTERVAL);
        let wait = run.wait();
        assert!(wait >= INTERVAL.mul_f64(0.9) && wait <= INTERVAL.mul_f64(1.1), "{wait:?}");
    }
}

#[test]
fn demand_comes_sooner_but_never_twice_in_a_second() {
    let mut run = Run::new();
    let minute = Duration::from_mins(1);
    run.ok(minute);
    for _ in 0..100 {
        run.demand();
    }
    let mut syncs = Vec::new();
    let end = run.now + Duration::from_secs(30);
    while run.cadence.next() < end {
        run.now = run.cadence.next();
        syncs.push(run.now);
        run.ok(minute);
    }
    assert!((1..=DEMANDS_KEPT).contains(&syncs.len()), "{syncs:?}");
    assert!(syncs.windows(2).all(|pair| pair[1] - pair[0] >= DEMAND_GAP), "{syncs:?}");
}

#[test]
fn after_an_error_demand_waits_and_the_server_is_heeded() {
    let mut run = Run::new();
    run.demand();
    run.fail(None, Need::Idle);
    let first = run.wait();
    assert!(first <= FIRST, "{first:?}");
    run.fail(Some(60), Need::Idle);
    let held = run.wait();
    assert!(held >= Duration::from_secs(59) && held <= Duration::from_secs(73), "{held:?}");
}

#[test]
fn a_renewal_that_fails_waits_longer_each_time_until_one_works() {
    let Run { mut cadence, mut random, .. } = Run::new();
    let waits: Vec<_> = (0..20).map(|_| cadence.renewal_failed(None, &mut random)).collect();
    assert!(waits.iter().all(|wait| *wait <= URGENT));
    cadence.renewed();
    assert!(cadence.renewal_in_vain(&mut random) <= FIRST);
    let soon = Duration::from_secs(3);
    assert!((0..100).all(|_| cadence.renewal_failed(Some(soon), &mut random) <= soon), "it is old then");
}

#[test]
fn a_renewal_waits_for_the_sync_that_finds_the_server() {
    let mut run = Run::new();
    run.fail(None, Need::Urgent);
    let mut waits = (0..20).map(|_| run.cadence.renewal_failed(None, &mut run.random));
    assert!(waits.nth(10).is_some_and(|wait| wait >= crate::IDLE / 2));
}

#[test]
fn a_server_that_has_too_much_to_do_is_asked_less_often_than_at_rest() {
    let mut run = Run::new();
    for failures in 0..20 {
        run.busy();
        let wait = run.wait();
        assert!(wait >= INTERVAL.mul_f64(0.9), "{wait:?}");
        run.demand();
        run.reached();
        assert!(run.wait() >= INTERVAL.mul_f64(0.9), "whoever waits");
        assert!(failures < 6 || wait >= crate::IDLE / 2, "{wait:?}");
    }
}

#[test]
fn waits_grow_to_a_minute_until_somebody_waits() {
    let mut run = Run::new();
    assert!(run.failing(8, Need::Idle) >= crate::IDLE / 2);
    assert!(run.failing(1, Need::Urgent) <= URGENT);
    run.fail(None, Need::Idle);
    run.demand();
    assert!(run.wait() <= URGENT);
    assert!(run.failing(1, Need::Idle) <= URGENT, "for a minute");
    run.now += AWAITED;
    assert!(run.failing(1, Need::Idle) >= crate::IDLE / 2);
    run.reached();
    assert!(run.wait() <= 2 * REACHED);
    assert!(run.ok(INTERVAL), "the server is back");
    assert!(!run.ok(INTERVAL));
}

#[test]
fn what_was_taken_back_is_confirmed_soon() {
    let mut run = Run::new();
    run.ok(Duration::from_mins(1));
    run.cadence.confirm(run.now, &mut run.random);
    assert!(run.wait() <= CONFIRM.mul_f64(1.1));
    run.fail(None, Need::Urgent);
    run.confirm_refusal();
    assert!(run.wait() >= REFUSED.mul_f64(0.9));
}

#[test]
fn a_sync_on_demand_leaves_the_regular_one_where_it_was() {
    let mut run = Run::new();
    run.ok(INTERVAL);
    let regular = run.cadence.next();
    run.now += Duration::from_secs(2);
    run.demand();
    run.ok(INTERVAL);
    run.cadence.demands.clear();
    assert_eq!(run.cadence.next(), regular);
    run.now = regular - Duration::from_millis(10);
    run.ok(INTERVAL);
    assert_eq!(run.wait(), DEMAND_GAP, "but not at once after it");
}

#[test]
fn a_crowd_does_not_displace_the_last_sync_of_a_newcomer() {
    let mut run = Run::new();
    run.ok(Duration::from_mins(1));
    for _ in 0..5 {
        run.demand();
    }
    run.now += Duration::from_secs(1);
    run.ok(Duration::from_mins(1));
    run.demand();
    let last = run.cadence.demands.last().copied().unwrap();
    assert!(last >= run.now + Duration::from_secs(6), "{:?}", last - run.now);
    assert!(run.cadence.demands.len() <= DEMANDS_KEPT);
}

#[test]
fn nobody_brings_forward_what_the_server_or_a_refusal_asks_to_wait_for() {
    let mut run = Run::new();
    run.fail(Some(60), Need::Idle);
    for _ in 0..100 {
        run.demand();
        run.reached();
    }
    assert!(run.wait() >= Duration::from_secs(59));
    run.fail(None, Need::Urgent);
    run.confirm_refusal();
    run.demand();
    assert!(run.wait() >= REFUSED.mul_f64(0.9));
    // A crowd brings a sync forward once.
    run.now += AWAITED;
    assert!(run.failing(8, Need::Idle) > URGENT);
    run.demand();
    let first = run.cadence.next();
    for _ in 0..100 {
        run.demand();
    }
    assert_eq!(run.cadence.next(), first);
}
