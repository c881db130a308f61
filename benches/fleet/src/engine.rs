//! Runs a scenario: one queue of agents by the time of their next action.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::finial::Finial;
use crate::server::Server;
use crate::spire::SpireAgent;
use crate::{Costs, Event, Scenario, Start, Tally};

/// One agent.
pub(crate) trait Agent {
    /// When it next does something.
    fn next(&self) -> Duration;
    /// Does what is due at `now`.
    fn act(&mut self, now: Duration, server: &mut Server, random: &mut StdRng);
    /// Its process ends, and starts again at `at`.
    fn restart(&mut self, at: Duration);
}

/// Which agents the fleet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// finial, with callers at each agent.
    Called,
    /// finial, without any caller.
    Uncalled,
    /// spire-agent, which asks no differently when it has callers.
    Spire,
}

/// The size of a fleet and of its servers.
#[derive(Debug, Clone)]
pub struct Size {
    /// How many agents.
    pub agents: usize,
    /// How many identities each has.
    pub identities: usize,
    /// The interval of syncs.
    pub interval: Duration,
    /// The lifetime of SVIDs, also of agents.
    pub lifetime: Duration,
    /// How many replicas serve them.
    pub replicas: usize,
    /// The part of the servers' cores that a fleet at rest uses.
    pub used: f64,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            agents: 100_000,
            identities: 10,
            interval: Duration::from_secs(5),
            lifetime: Duration::from_hours(1),
            replicas: 3,
            used: 0.35,
        }
    }
}

impl Size {
    /// The cores of one replica.
    #[must_use]
    pub fn cores(&self, costs: &Costs) -> f64 {
        costs.at_rest(self.identities) / 6e7 * self.agents as f64 / self.used / self.replicas as f64
    }
}

/// A scenario that was run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Whose rules the agents follow, and whether each has callers.
    pub kind: Kind,
    /// What they offered.
    pub tally: Tally,
}

/// Runs a scenario.
#[must_use]
pub fn run(scenario: &Scenario, kind: Kind, size: &Size, costs: &Costs, seed: u64) -> Run {
    let mut random = StdRng::seed_from_u64(seed);
    let start = |random: &mut StdRng| match scenario.start {
        Start::Running => None,
        Start::Within(time) => Some(time.mul_f64(random.random())),
    };
    let connect_limit = match kind {
        // grpc-go tries one connection for at least twenty seconds.
        Kind::Spire => Duration::from_secs(20),
        Kind::Called | Kind::Uncalled => Duration::from_secs(10),
    };
    let own = if kind == Kind::Spire { costs.of_spire_agent() } else { costs.clone() };
    let server = Server::new(size.replicas, size.cores(costs), connect_limit, own);
    let random = &mut random;
    let agents = 0..size.agents;
    let tally = match kind {
        Kind::Spire => {
            let agents = agents.map(|_| SpireAgent::new(start(random), size, random)).collect();
            drive(agents, scenario, server, random)
        }
        _ => {
            let called = kind == Kind::Called;
            let agents = agents.map(|_| Finial::new(start(random), called, size, random)).collect();
            drive(agents, scenario, server, random)
        }
    };
    Run { kind, tally }
}

fn drive<A: Agent>(
    mut agents: Vec<A>,
    scenario: &Scenario,
    mut server: Server,
    random: &mut StdRng,
) -> Tally {
    // The time at which each is in the queue: what else is there of it is passed over.
    let mut times: Vec<Duration> = agents.iter().map(Agent::next).collect();
    let mut queue: BinaryHeap<_> = times.iter().copied().zip(0..).map(Reverse).collect();
    if scenario.start != Start::Running {
        server.tally.mark(Duration::ZERO);
    }
    let mut events = scenario.events.iter().peekable();
    while let Some(Reverse((now, agent))) = queue.pop() {
        while let Some((at, event)) = events.next_if(|(at, _)| *at <= now) {
            happen(*event, *at, &mut agents, &mut server, random);
            if let Event::Wave(..) = event {
                times = agents.iter().map(Agent::next).collect();
                queue = times.iter().copied().zip(0..).map(Reverse).collect();
            }
        }
        if now >= scenario.length {
            break;
        }
        if times[agent] == now {
            agents[agent].act(now, &mut server, random);
            times[agent] = agents[agent].next();
            queue.push(Reverse((times[agent], agent)));
        }
    }
    let length = usize::try_from(scenario.length.as_secs()).expect("a scenario has hours");
    server.tally.loads.resize(length, crate::Load::default());
    server.tally
}

fn happen<A: Agent>(event: Event, at: Duration, agents: &mut [A], server: &mut Server, random: &mut StdRng) {
    match event {
        Event::Lost => server.set_up(0..server.replicas(), false, at),
        Event::Back => {
            server.set_up(0..server.replicas(), true, at);
            server.tally.mark(at);
        }
        Event::ReplicaLost => {
            server.set_up(0..1, false, at);
            server.tally.mark(at);
        }
        Event::Tainted => {
            server.tainted = Some(at);
            server.tally.mark(at);
        }
        Event::Wave(number, waves) => {
            for agent in agents.iter_mut().skip(number).step_by(waves) {
                // Nodes are not upgraded in one moment.
                agent.restart(at + SPREAD.mul_f64(random.random()));
            }
        }
        Event::Capacity(capacity) => {
            server.set_capacity(capacity);
            if capacity >= 1.0 {
                server.tally.mark(at);
            }
        }
    }
}

/// The time in which the agents of a wave are replaced.
const SPREAD: Duration = Duration::from_secs(10);
