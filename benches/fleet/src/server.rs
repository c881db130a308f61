//! The model of the servers: replicas that work at measured costs, and queue what is too much.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::costs::CONNECTION_AGE;
use crate::{Costs, Tally};

/// All replicas, what they cost, and what was offered to them.
#[derive(Debug)]
pub(crate) struct Server {
    replicas: Vec<Replica>,
    /// Cores of one replica.
    cores: f64,
    /// The part of the cores that works.
    capacity: f64,
    costs: Costs,
    /// How long an agent waits for a connection, its handshakes included.
    connect_limit: Duration,
    /// With a longer queue, a call is refused with ResourceExhausted; `None`: never.
    refuses_beyond: Option<Duration>,
    /// Since when the authority that signed all SVIDs before is tainted.
    pub(crate) tainted: Option<Duration>,
    pub(crate) tally: Tally,
}

#[derive(Debug, Clone, Default)]
struct Replica {
    up: bool,
    /// How often it has ended, so that connections of an earlier life are known.
    life: u32,
    /// When it has done all that was asked of it.
    free_at: Duration,
}

/// An agent's connection to one replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    replica: usize,
    life: u32,
    until: Duration,
}

/// A call on the agent's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// SyncAuthorizedEntries and GetBundle.
    Sync,
    /// BatchNewX509SVID for so many entries.
    Sign(usize),
    Status,
}

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No replica is there.
    Away,
    /// There was no answer in time.
    Timeout,
    /// ResourceExhausted.
    Busy,
    /// The agent's certificate has expired.
    Expired,
}

/// The outcome of a call, and when the agent has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) at: Duration,
    pub(crate) outcome: Result<(), Fault>,
}

impl Server {
    pub(crate) fn new(replicas: usize, cores: f64, connect_limit: Duration, costs: Costs) -> Self {
        let replica = Replica { up: true, ..Replica::default() };
        Self {
            replicas: vec![replica; replicas],
            cores,
            capacity: 1.0,
            costs,
            connect_limit,
            refuses_beyond: None,
            tainted: None,
            tally: Tally::default(),
        }
    }

    pub(crate) fn set_up(&mut self, replicas: std::ops::Range<usize>, up: bool, now: Duration) {
        for replica in &mut self.replicas[replicas] {
            replica.life += u32::from(!up);
            replica.up = up;
            replica.free_at = now;
        }
    }

    pub(crate) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    /// Lets only this part of the cores work, and refuses calls when a queue is longer than a second; all of them, and
    /// never, if it is 1.
    pub(crate) fn set_capacity(&mut self, capacity: f64) {
        self.capacity = capacity;
        self.refuses_beyond = (capacity < 1.0).then_some(Duration::from_secs(1));
    }

    /// Makes a call on `connection`, which is opened first if it must. `expired`: the agent's certificate has expired.
    pub(crate) fn call(
        &mut self,
        connection: &mut Option<Connection>,
        call: Call,
        expired: bool,
        now: Duration,
        random: &mut StdRng,
    ) -> Answer {
        let good = connection.filter(|open| {
            let replica = &self.replicas[open.replica];
            replica.up && replica.life == open.life && open.until > now
        });
        let (open, connect) = match good {
            Some(open) => (open, 0.0),
            None => match self.dial(now, random) {
                Some(open) => (open, self.costs.connection),
                None => {
                    *connection = None;
                    return Answer { at: now + REFUSED, outcome: Err(Fault::Away) };
                }
            },
        };
        if expired {
            *connection = None;
            let (at, _) = self.work(open.replica, connect, now);
            return Answer { at, outcome: Err(Fault::Expired) };
        }
        let cost = match call {
            Call::Sync => self.costs.sync,
            Call::Sign(entries) => self.costs.signing(entries),
            Call::Status => self.costs.status,
        };
        self.tally.called(call, now);
        let answer = self.finish(open.replica, connect, cost, now);
        // Only a clear answer keeps a connection.
        *connection = matches!(answer.outcome, Ok(()) | Err(Fault::Busy)).then_some(open);
        answer
    }

    /// Attests on a connection of its own.
    pub(crate) fn attest(&mut self, now: Duration, random: &mut StdRng) -> Answer {
        let Some(open) = self.dial(now, random) else {
            return Answer { at: now + REFUSED, outcome: Err(Fault::Away) };
        };
        self.tally.attested(now);
        let connect = self.costs.connection;
        self.finish(open.replica, connect, self.costs.attestation - connect, now)
    }

    /// A random replica that is up, as after all addresses were tried.
    fn dial(&mut self, now: Duration, random: &mut StdRng) -> Option<Connection> {
        self.tally.connected(now);
        let up: Vec<usize> = (0..self.replicas.len()).filter(|replica| self.replicas[*replica].up).collect();
        let replica = *up.get(random.random_range(0..up.len().max(1)))?;
        let age = pace::jitter(CONNECTION_AGE, 0.1, random).min(pace::sticky(random));
        Some(Connection { replica, life: self.replicas[replica].life, until: now + age })
    }

    fn finish(&mut self, replica: usize, connect: f64, cost: f64, now: Duration) -> Answer {
        let queue = self.replicas[replica].free_at.saturating_sub(now);
        if self.refuses_beyond.is_some_and(|most| queue > most) {
            // A refusal is an answer that does not wait for the work before it.
            self.work(replica, connect + self.costs.refusal, now);
            self.tally.refused(now);
            return Answer { at: now + ROUND_TRIP, outcome: Err(Fault::Busy) };
        }
        if connect > 0.0 {
            let (at, _) = self.work(replica, connect, now);
            if at > now + self.connect_limit {
                return Answer { at: now + self.connect_limit, outcome: Err(Fault::Timeout) };
            }
        }
        let (at, limit) = self.work(replica, cost, now);
        if at > limit {
            // The work was done in vain.
            return Answer { at: limit, outcome: Err(Fault::Timeout) };
        }
        Answer { at, outcome: Ok(()) }
    }

    /// Queues work of so many microseconds. Returns when it is done, and when the agent gives up.
    fn work(&mut self, replica: usize, cost: f64, now: Duration) -> (Duration, Duration) {
        self.tally.worked(cost, now);
        let replica = &mut self.replicas[replica];
        let begin = replica.free_at.max(now);
        replica.free_at = begin + Duration::from_secs_f64(cost / 1e6 / (self.cores * self.capacity));
        (replica.free_at + ROUND_TRIP, now + CALL_LIMIT)
    }
}

/// The way to the server and back.
const ROUND_TRIP: Duration = Duration::from_millis(1);
/// A connection that nobody accepts is refused at once.
const REFUSED: Duration = Duration::from_millis(1);
/// How long an agent waits for an answer (both agents).
const CALL_LIMIT: Duration = Duration::from_secs(30);
