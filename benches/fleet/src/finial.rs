//! An agent that decides by the crate `pace`, as the real one does. What is written here is what the agent's tasks do
//! between decisions: `life` (attest, sync, renew, one after the other) and `manager::task` (mint what is due).

use std::time::{Duration, SystemTime};

use pace::{Backoff, Cadence, Cause, Minting, Need};
use rand::Rng;
use rand::rngs::StdRng;

use crate::Size;
use crate::engine::Agent;
use crate::server::{Answer, Call, Connection, Fault, Server};
use crate::svids::{Valid, of_any_age, signed, since, wall};

/// One agent.
#[derive(Debug)]
pub(crate) struct Finial {
    /// Whether callers hold streams.
    called: bool,
    interval: Duration,
    lifetime: Duration,
    phase: Phase,
    /// The agent's own SVID; `None` before the first attestation.
    own: Option<Own>,
    svids: Vec<Svid>,
    cadence: Cadence,
    minting: Minting,
    /// Waits between attestations, while nothing else is done.
    attesting: Backoff,
    /// The life does one thing at a time.
    free_at: Duration,
    connection: Option<Connection>,
    /// Whether SVIDs that could not be minted are near their end.
    pressing: bool,
    tainted: bool,
    /// Marks that its tally has seen.
    seen: u32,
    /// Whether the last thing that the life did failed.
    failing: bool,
    /// Whether the manager is there: since the first sync.
    managed: bool,
    /// The last time at which it did something.
    last: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Attests, then serves.
    Attesting,
    Serving,
}

#[derive(Debug)]
struct Own {
    valid: Valid,
    renew_at: SystemTime,
}

/// A workload's SVID, as the cache keeps it in a record.
#[derive(Debug)]
struct Svid {
    valid: Option<Valid>,
    renew_at: SystemTime,
    retry_at: Option<SystemTime>,
}

impl Svid {
    fn missing() -> Self {
        Self { valid: None, renew_at: SystemTime::UNIX_EPOCH, retry_at: None }
    }

    fn due_at(&self) -> SystemTime {
        self.retry_at.map_or(self.renew_at, |retry| retry.max(self.renew_at))
    }
}

impl Finial {
    /// An agent that starts at `start`, or one that has run for long.
    pub(crate) fn new(start: Option<Duration>, called: bool, size: &Size, random: &mut StdRng) -> Self {
        let begin = start.unwrap_or_default();
        let mut this = Self {
            called,
            interval: size.interval,
            lifetime: size.lifetime,
            phase: Phase::Attesting,
            own: None,
            svids: (0..size.identities).map(|_| Svid::missing()).collect(),
            cadence: Cadence::new(begin),
            minting: Minting::default(),
            attesting: Backoff::default(),
            free_at: begin,
            connection: None,
            pressing: false,
            tainted: false,
            seen: 0,
            failing: false,
            managed: false,
            last: begin,
        };
        if start.is_none() {
            this.phase = Phase::Serving;
            this.managed = true;
            this.cadence = Cadence::new(size.interval.mul_f64(random.random()));
            let (valid, renew_at) = of_any_age(size.lifetime, random);
            this.own = Some(Own { valid, renew_at });
            // All were asked for when the agent started, and renewed together since.
            let (valid, renew_at) = of_any_age(size.lifetime, random);
            this.svids.fill_with(|| Svid { valid: Some(valid.clone()), renew_at, retry_at: None });
        }
        this
    }

    fn attest(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        let answer = server.attest(now, random);
        self.free_at = answer.at;
        match answer.outcome {
            Ok(()) => {
                let first = self.own.is_none();
                self.set_own(answer.at, random);
                self.attesting.reset();
                self.phase = Phase::Serving;
                if first {
                    self.cadence = Cadence::new(answer.at);
                    server.call(&mut self.connection, Call::Status, false, answer.at, random);
                } else {
                    self.cadence.reached(answer.at, random);
                }
            }
            Err(_) => {
                self.say(answer.at, server);
                self.free_at = answer.at + self.attesting.wait(Need::Urgent, random);
            }
        }
    }

    fn set_own(&mut self, at: Duration, random: &mut StdRng) {
        let valid = signed(at, self.lifetime);
        let renew_at = pace::renew_at(&valid, pace::Early::default(), random.random(), wall(at));
        self.own = Some(Own { valid, renew_at });
        // The next call shows the new certificate, on another connection.
        self.connection = None;
    }

    fn expired(&self, now: Duration) -> bool {
        self.own.as_ref().is_none_or(|own| own.valid.end <= wall(now))
    }

    fn sync(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        let expired = self.expired(now);
        let Answer { at, outcome } = server.call(&mut self.connection, Call::Sync, expired, now, random);
        self.free_at = at;
        let need = Need::urgent_if(self.called || self.pressing);
        let scheduled = outcome.map_err(|fault| cause(fault).into());
        let is_back = self.cadence.synced(scheduled, self.interval, need, at, random);
        match outcome {
            Ok(()) => {
                server.tally.synced(&mut self.seen, at);
                self.failing = false;
                self.managed = true;
                self.learn(at, server, random);
                if is_back {
                    self.is_back(at);
                }
            }
            Err(fault) => {
                self.say(at, server);
                if self.expired(at) && cause(fault) != Cause::Away {
                    self.phase = Phase::Attesting;
                    self.attesting = Backoff::default();
                }
            }
        }
    }

    /// What a sync says of authorities.
    fn learn(&mut self, at: Duration, server: &Server, random: &mut StdRng) {
        if self.tainted || server.tainted.is_none() {
            return;
        }
        self.tainted = true;
        let lost = server.tainted.map(wall);
        let is_lost = |valid: &Valid| lost.is_some_and(|lost| valid.start < lost);
        if let Some(own) = self.own.as_mut().filter(|own| is_lost(&own.valid)) {
            own.renew_at = own.renew_at.min(wall(at));
        }
        let mut lost: Vec<_> =
            self.svids.iter_mut().filter(|svid| svid.valid.as_ref().is_some_and(is_lost)).collect();
        let within = pace::spread_of_replacements(self.interval);
        let delays = pace::replacements(lost.len(), within, random);
        for (svid, delay) in lost.iter_mut().zip(delays) {
            svid.renew_at = svid.renew_at.min(wall(at + delay));
        }
    }

    fn is_back(&mut self, at: Duration) {
        if self.cadence.renewal_fails()
            && let Some(own) = &mut self.own
            && pace::old_at(&own.valid) <= wall(at)
        {
            own.renew_at = wall(at);
        }
        self.minting.reached(self.pressing);
        if self.pressing {
            self.retry_failed();
        }
        self.pressing = false;
    }

    fn retry_failed(&mut self) {
        self.pressing = false;
        for svid in &mut self.svids {
            svid.retry_at = None;
        }
    }

    /// Renews its own SVID by another attestation.
    fn renew(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        let answer = server.attest(now, random);
        self.free_at = answer.at;
        match answer.outcome {
            Ok(()) => {
                self.set_own(answer.at, random);
                self.cadence.renewed();
            }
            Err(_) => {
                self.say(answer.at, server);
                let Some(own) = &mut self.own else { return };
                let until_old = pace::old_at(&own.valid).duration_since(wall(answer.at)).unwrap_or_default();
                own.renew_at = wall(answer.at + self.cadence.renewal_failed(Some(until_old), random));
            }
        }
    }

    fn mint(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        let due = self.svids.iter_mut().filter(|svid| svid.due_at() <= wall(now));
        let due: Vec<&mut Svid> = due.take(self.minting.batch()).collect();
        let (count, expired) = (due.len(), self.own.as_ref().is_none_or(|own| own.valid.end <= wall(now)));
        self.minting.began();
        let Answer { at, outcome } =
            server.call(&mut self.connection, Call::Sign(count), expired, now, random);
        match outcome {
            Ok(()) => {
                // One draw for all of a call.
                let draw = random.random();
                for svid in due {
                    let valid = signed(at, self.lifetime);
                    let renew_at = pace::renew_at(&valid, pace::Early::default(), draw, wall(at));
                    *svid = Svid { valid: Some(valid), renew_at, retry_at: None };
                }
                if self.minting.answered() {
                    self.retry_failed();
                    self.cadence.reached(at, random);
                }
            }
            Err(fault) => {
                let pressing_at = |svid: &&mut Svid| match &svid.valid {
                    Some(valid) => Some(pace::old_at(valid)),
                    None => self.called.then_some(SystemTime::UNIX_EPOCH),
                };
                let soonest = due.iter().filter_map(pressing_at).min();
                let pressing_in = soonest.map(|soonest| soonest.duration_since(wall(at)).unwrap_or_default());
                self.pressing |= pressing_in.is_some_and(|left| left.is_zero());
                let retry_at = self.minting.failed(cause(fault).into(), pressing_in, wall(at), random);
                for svid in due {
                    svid.retry_at = Some(retry_at);
                }
                // The task logs each failure.
                server.tally.error(at);
            }
        }
    }

    /// The life logs a reason when it changes.
    fn say(&mut self, at: Duration, server: &mut Server) {
        if !std::mem::replace(&mut self.failing, true) {
            server.tally.error(at);
        }
    }

    fn due(&self) -> Option<Duration> {
        let due = self.svids.iter().map(Svid::due_at).min()?;
        self.minting.next(due).map(since)
    }

    fn renewal(&self) -> Duration {
        self.own.as_ref().map_or(Duration::MAX, |own| since(own.renew_at))
    }
}

impl Agent for Finial {
    fn next(&self) -> Duration {
        let life = match self.phase {
            Phase::Attesting => self.free_at,
            Phase::Serving => self.cadence.next().min(self.renewal()).max(self.free_at),
        };
        // There is no manager before the first sync.
        let manager = self.due().filter(|_| self.managed);
        manager.map_or(life, |due| due.min(life)).max(self.last)
    }

    fn act(&mut self, now: Duration, server: &mut Server, random: &mut StdRng) {
        self.last = now;
        if self.managed && self.due().is_some_and(|due| due <= now) {
            self.mint(now, server, random);
            return;
        }
        match self.phase {
            Phase::Attesting => self.attest(now, server, random),
            Phase::Serving if self.renewal() <= now => self.renew(now, server, random),
            Phase::Serving => self.sync(now, server, random),
        }
    }

    fn restart(&mut self, at: Duration) {
        // Keys in memory are lost, so it attests, and asks for all SVIDs again.
        self.phase = Phase::Attesting;
        self.own = None;
        self.svids.fill_with(Svid::missing);
        self.cadence = Cadence::new(at);
        self.minting = Minting::default();
        self.attesting = Backoff::default();
        (self.free_at, self.last) = (at, at);
        self.connection = None;
        (self.pressing, self.managed, self.failing) = (false, false, false);
    }
}

/// `ServerError::failure`.
fn cause(fault: Fault) -> Cause {
    match fault {
        Fault::Away => Cause::Away,
        Fault::Busy => Cause::Busy,
        Fault::Timeout | Fault::Expired => Cause::Other,
    }
}
