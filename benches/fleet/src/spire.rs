//! An agent by the rules of spire-agent 1.15.3: `manager.go` (a sync every interval ± 10 %, × 1.5 after an error up to 48
//! intervals; SVIDs that are due are found at a sync, and missing ones every 500 ms, × 1.5 up to four minutes), `rotator.go` (its own SVID is looked at every
//! five seconds, × 1.5 up to two minutes; a failure with an expired SVID ends the process), `agent.go` (attestation is tried
//! for a minute, from five seconds × 1.5), `rotationutil` (half-life ± 10 %, drawn anew at each look) and `lru_cache.go`
//! (tainted SVIDs are dropped a hundred every five seconds). Kubernetes starts a process that ends again: after ten
//! seconds, and twice as long each time, up to five minutes.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::Size;
use crate::engine::Agent;
use crate::server::{Answer, Call, Connection, Server};

/// One agent.
#[derive(Debug)]
pub(crate) struct SpireAgent {
    phase: Phase,
    lifetime: Duration,
    /// When its own SVID was signed, in a clock that starts before zero.
    own: Duration,
    /// The time of each loop's next turn.
    sync_at: Duration,
    rotate_at: Duration,
    mint_at: Duration,
    syncs: Backoff,
    rotations: Backoff,
    mints: Backoff,
    svids: Vec<Svid>,
    interval: Duration,
    batch: usize,
    connection: Option<Connection>,
    restarts: u32,
    tainted: bool,
    seen: u32,
    last: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The process is down until then.
    Down(Duration),
    /// It attests, and ends at `until`.
    Attesting {
        next: Duration,
        until: Duration,
    },
    /// It makes its first sync, and ends at `until`.
    Syncing {
        next: Duration,
        until: Duration,
    },
    Serving,
}

/// An SVID of a workload.
#[derive(Debug, Clone, Copy)]
struct Svid {
    /// The first sync after this time finds that it is due.
    due: Duration,
    /// Since then it is missing, or marked as stale.
    missing: Option<Duration>,
}

impl Svid {
    fn missing() -> Self {
        Self { due: Duration::ZERO, missing: Some(Duration::ZERO) }
    }
}

/// cenkalti/backoff as SPIRE sets it: ± 10 %, × 1.5.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    fn wait(&mut self, random: &mut StdRng) -> Duration {
        let wait = pace::jitter(self.next, 0.1, random);
        self.next = self.next.mul_f64(1.5).min(self.most);
        wait
    }

    fn reset(&mut self) {
        self.next = self.first;
    }
}

impl SpireAgent {
    pub(crate) fn new(start: Option<Duration>, size: &Size, random: &mut StdRng) -> Self {
        let begin = start.unwrap_or_default();
        let mut this = Self {
            phase: Phase::Attesting { next: begin, until: begin + START_LIMIT },
            lifetime: size.lifetime,
            own: Duration::ZERO,
            sync_at: begin,
            rotate_at: begin,
            mint_at: Duration::MAX,
            syncs: Backoff::new(size.interval, (48 * size.interval).min(Duration::from_mins(8))),
            rotations: Backoff::new(ROTATION, 24 * ROTATION),
            mints: Backoff::new(TICK, Duration::from_mins(4)),
            svids: vec![Svid::missing(); size.identities],
            interval: size.interval,
            batch: BATCH,
            connection: None,
            restarts: 0,
            tainted: false,
            seen: 0,
            last: begin,
        };
        if start.is_none() {
            this.phase = Phase::Serving;
            this.sync_at = size.interval.mul_f64(random.random());
            (this.own, this.rotate_at) = of_any_age(size.lifetime, ROTATION, random);
            let due = of_any_age(size.lifetime, size.interval, random).1;
            for svid in &mut this.svids {
                let spread = 4 * size.interval.mul_f64(random.random());
                *svid = Svid { due: due + spread, missing: None };
            }
        }
        this
    }

    /// The next turn of the loop of SVIDs at which there is something to do.
    fn plan(&mut self) {
        self.mint_at = self.svids.iter().filter_map(|svid| svid.missing).min().unwrap_or(Duration::MAX);
    }

    fn start(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        match self.phase {
            Phase::Down(_) => self.phase = Phase::Attesting { next: now, until: now + START_LIMIT },
            Phase::Attesting { until, .. } => {
                let Answer { at, outcome } = server.attest(now, random);
                if outcome.is_ok() {
                    self.certified(at, random);
                    self.syncs = Backoff::new(self.syncs.first, self.syncs.most);
                    self.phase = Phase::Syncing { next: at, until: at + START_LIMIT };
                    server.call(&mut self.connection, Call::Status, false, at, random);
                } else {
                    server.tally.error(at);
                    let next = at + self.syncs.wait(random);
                    self.phase = Phase::Attesting { next, until };
                    self.end_after(until, next);
                }
            }
            Phase::Syncing { until, .. } => {
                let Answer { at, outcome } =
                    server.call(&mut self.connection, Call::Sync, false, now, random);
                if outcome.is_ok() {
                    server.tally.synced(&mut self.seen, at);
                    self.syncs.reset();
                    self.phase = Phase::Serving;
                    self.tainted = server.tainted.is_some();
                    self.sync_at = at + self.syncs.wait(random);
                    self.mint(at, server, random);
                } else {
                    server.tally.error(at);
                    let next = at + self.syncs.wait(random);
                    self.phase = Phase::Syncing { next, until };
                    self.end_after(until, next);
                }
            }
            Phase::Serving => {}
        }
    }

    /// Ends the process if it may not try until `next`.
    fn end_after(&mut self, until: Duration, next: Duration) {
        if next > until {
            self.end(until);
        }
    }

    /// The process ends; its SVIDs and keys are lost.
    fn end(&mut self, now: Duration) {
        let wait = RESTART.saturating_mul(1 << self.restarts.min(5)).min(RESTART_MOST);
        self.restarts += 1;
        self.restart(now + wait);
    }

    fn sync(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        let expired = self.expired(now);
        let Answer { at, outcome } = server.call(&mut self.connection, Call::Sync, expired, now, random);
        match outcome {
            Ok(()) => {
                server.tally.synced(&mut self.seen, at);
                self.syncs.reset();
                if self.svids.iter().any(|svid| svid.due <= at) {
                    self.mint(at, server, random);
                }
                if !self.tainted && server.tainted.is_some() {
                    self.tainted = true;
                    self.replace_tainted(at, random);
                }
            }
            Err(_) => server.tally.error(at),
        }
        self.sync_at = at + self.syncs.wait(random);
    }

    fn replace_tainted(&mut self, at: Duration, random: &mut StdRng) {
        self.rotate_at = self.rotate_at.min(at + ROTATION.mul_f64(random.random()));
        let tick = TICK.mul_f64(random.random());
        for (place, svid) in self.svids.iter_mut().enumerate() {
            let later = u32::try_from(place / 100).unwrap_or(u32::MAX);
            svid.missing = Some(at + later * Duration::from_secs(5) + tick);
        }
        self.plan();
    }

    fn rotate(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        let Answer { at, outcome } = server.attest(now, random);
        if outcome.is_ok() {
            self.certified(at, random);
            self.rotations.reset();
            return;
        }
        server.tally.error(at);
        self.rotate_at = at + self.rotations.wait(random);
        if self.expired(at) {
            self.end(at);
        }
    }

    fn certified(&mut self, at: Duration, random: &mut StdRng) {
        (self.own, self.rotate_at) = (ORIGIN + at, at + due_after(self.lifetime, ROTATION, random));
        self.connection = None;
    }

    fn mint(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        let expired = self.expired(now);
        let is_due = |svid: &Svid| svid.due <= now || svid.missing.is_some_and(|since| since <= now);
        let due: Vec<usize> = (0..self.svids.len()).filter(|svid| is_due(&self.svids[*svid])).collect();
        let due = &due[..due.len().min(self.batch)];
        if due.is_empty() {
            return self.plan();
        }
        let Answer { at, outcome } =
            server.call(&mut self.connection, Call::Sign(due.len()), expired, now, random);
        if outcome.is_ok() {
            for svid in due {
                let due = at + due_after(self.lifetime, self.interval, random);
                self.svids[*svid] = Svid { due, missing: None };
            }
            self.batch = (2 * self.batch).min(BATCH);
            self.mints.reset();
            self.plan();
        } else {
            server.tally.error(at);
            self.batch = (self.batch / 2).max(1);
            for svid in due {
                self.svids[*svid].missing = Some(now);
            }
            self.mint_at = at + self.mints.wait(random);
        }
    }

    fn expired(&self, now: Duration) -> bool {
        self.own + self.lifetime <= ORIGIN + now
    }
}

impl Agent for SpireAgent {
    fn next(&self) -> Duration {
        let next = match self.phase {
            Phase::Down(next) | Phase::Attesting { next, .. } | Phase::Syncing { next, .. } => next,
            Phase::Serving => self.sync_at.min(self.rotate_at).min(self.mint_at),
        };
        next.max(self.last)
    }

    fn act(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        self.last = now;
        if self.phase != Phase::Serving {
            self.start(now, server, random);
        } else if self.sync_at <= now {
            self.sync(now, server, random);
        } else if self.rotate_at <= now {
            self.rotate(now, server, random);
        } else {
            self.mint(now, server, random);
        }
    }

    fn restart(&mut self, at: Duration) {
        self.phase = Phase::Down(at);
        self.svids.fill(Svid::missing());
        self.connection = None;
        self.batch = BATCH;
        self.rotations.reset();
        self.mints.reset();
        self.syncs.reset();
        self.last = at;
    }
}

/// The time from signature to renewal: at each look a new draw of half the life ± 10 % is compared with what is left, so
/// most are renewed soon after the earliest time.
fn due_after(lifetime: Duration, look: Duration, random: &mut StdRng) -> Duration {
    let half = lifetime / 2;
    let mut age = half.mul_f64(0.9) + look.mul_f64(random.random());
    while lifetime.saturating_sub(age) > half.mul_f64(0.9 + 0.2 * random.random::<f64>()) {
        age += look;
    }
    age
}

/// An SVID of an agent that has run for long: when it was signed, and when it is due.
fn of_any_age(lifetime: Duration, look: Duration, random: &mut StdRng) -> (Duration, Duration) {
    let due = due_after(lifetime, look, random);
    let age = due.mul_f64(random.random());
    (ORIGIN - age, due - age)
}

/// Signatures are counted from before the start.
const ORIGIN: Duration = Duration::from_hours(2);
const ROTATION: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(500);
const BATCH: usize = 500;
/// How long a start may take.
const START_LIMIT: Duration = Duration::from_mins(1);
const RESTART: Duration = Duration::from_secs(10);
const RESTART_MOST: Duration = Duration::from_mins(5);
