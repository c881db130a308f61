//! What happens to the agent.

use std::time::Duration;

use benches::pair::{Node, Pair, Waits};
use benches::running::Outcome;
use dev::{Entry, Fault};
use harness::Agent;
use nix::sys::signal::Signal;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use crate::flood::flood;
use crate::growth::Growth;

/// Everything that an operation may touch.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) keeper: Agent,
    pub(crate) pair: Pair,
    pub(crate) growth: Growth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Nothing but the rotation that ends each operation.
    Rotate,
    /// A new authority signs, and the old one is tainted and forgotten.
    RotateCa,
    /// The server evicts the agent, which attests again.
    Evict,
    /// Entries come and go: those of the Envoys' own user, and others.
    Churn,
    Kill,
    Terminate,
    /// The agent is killed several times in a row, so that the keeper waits longer and longer.
    KillOften,
    Upgrade,
    /// Another keeper takes over, and the first is ended.
    HandOver,
    /// Connections, streams and garbage of another user's process.
    Flood,
    /// The same by a process of the Envoys' own user, whose share of the agent it takes.
    FloodOfOwn,
    /// The server is down.
    Outage,
    /// The server takes connections and says nothing.
    Silence,
    /// The server is down, and the agent is killed meanwhile.
    OutageAndKill,
    /// Another keeper is started while the server is down, and cannot take over before it is back.
    OutageAndHandOver,
    /// Every answer of the server is late.
    Slow,
}

impl Operation {
    pub(crate) const ALL: [Self; 16] = [
        Self::Rotate,
        Self::RotateCa,
        Self::Evict,
        Self::Churn,
        Self::Kill,
        Self::Terminate,
        Self::KillOften,
        Self::Upgrade,
        Self::HandOver,
        Self::Flood,
        Self::FloodOfOwn,
        Self::Outage,
        Self::Silence,
        Self::OutageAndKill,
        Self::OutageAndHandOver,
        Self::Slow,
    ];

    /// Does it, updates the Envoys' entries, and returns how long the new certificates took from then on.
    pub(crate) async fn run(self, world: &mut World, random: &mut StdRng) -> Outcome<Waits> {
        let node = &world.node;
        match self {
            Self::Rotate => {}
            Self::RotateCa => return rotate_ca(world).await,
            Self::Evict => {
                node.server().evict(&node.agent_id());
            }
            Self::Churn => churn(node, random).await,
            Self::Kill => world.keeper.signal_kept(Signal::SIGKILL),
            Self::Terminate => world.keeper.signal_kept(Signal::SIGTERM),
            Self::KillOften => {
                for _ in 0..random.random_range(2..=5) {
                    kill(&world.keeper).await;
                    sleep(Duration::from_millis(random.random_range(..500))).await;
                }
            }
            Self::Upgrade => {
                world.node.upgrade()?;
                kill(&world.keeper).await;
            }
            Self::HandOver | Self::OutageAndHandOver => {
                hand_over(world, random, self == Self::OutageAndHandOver).await?;
            }
            Self::Flood | Self::FloodOfOwn => {
                let seconds = random.random_range(2..=8);
                flood(&node.path("api.sock"), seconds, self == Self::FloodOfOwn).await?;
            }
            Self::Outage => fault(node, Fault::Down, random).await,
            Self::Silence => fault(node, Fault::BlackHole, random).await,
            Self::OutageAndKill => {
                node.server().fault(Fault::Down).await;
                pause(random).await;
                kill(&world.keeper).await;
                pause(random).await;
                node.server().fault(Fault::None).await;
            }
            Self::Slow => fault(node, Fault::Slow(Duration::from_secs(1)), random).await,
        }
        world.node.rotate();
        Ok(world.pair.rotated(Instant::now(), LIMIT).await)
    }
}

async fn hand_over(world: &mut World, random: &mut StdRng, outage: bool) -> Outcome<()> {
    let World { node, keeper, growth, .. } = world;
    if outage {
        node.server().fault(Fault::Down).await;
    }
    let mut second = node.keep();
    if outage {
        pause(random).await;
        node.server().fault(Fault::None).await;
    }
    second.logged("Taking over from the other agent").await;
    growth.follow(second.pid());
    let first = std::mem::replace(keeper, second);
    // Kubernetes, too, asks the first to end when the second is ready, and not before.
    sleep(Duration::from_millis(random.random_range(..3_000))).await;
    let exit = first.stop().await;
    if exit.code == Some(0) {
        return Ok(());
    }
    Err(format!("the first keeper ended with {:?}:\n{}", exit.code, exit.log).into())
}

/// Kills the agent, if the keeper runs one at the moment.
async fn kill(keeper: &Agent) {
    let keeper = keeper.pid();
    let children = format!("/proc/{keeper}/task/{keeper}/children");
    loop {
        let pid =
            std::fs::read_to_string(&children).ok().and_then(|pids| pids.split(' ').next()?.parse().ok());
        if let Some(pid) = pid {
            // It may have ended just now.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn fault(node: &Node, fault: Fault, random: &mut StdRng) {
    node.server().fault(fault).await;
    pause(random).await;
    node.server().fault(Fault::None).await;
}

async fn pause(random: &mut StdRng) {
    sleep(Duration::from_millis(random.random_range(500..10_000))).await;
}

/// As an operator does it: each step when the last has reached the Envoys. The agent replaces tainted certificates at a
/// random time within six sync intervals (`pace`).
async fn rotate_ca(world: &mut World) -> Outcome<Waits> {
    let World { node, pair, .. } = world;
    node.server().prepare_ca();
    if !pair.trust(2, LIMIT).await {
        return Err("the Envoys do not get the prepared authority".into());
    }
    node.server().rotate_ca();
    node.server().taint_old_cas();
    let waits = pair.rotated(Instant::now(), LIMIT).await;
    node.server().forget_old_cas();
    if !pair.trust(1, LIMIT).await {
        return Err("the Envoys keep the forgotten authority".into());
    }
    Ok(waits)
}

async fn churn(node: &Node, random: &mut StdRng) {
    let (server, parent) = (node.server(), node.agent_id());
    let own = format!("unix:uid:{}", nix::unistd::getuid());
    let mut ids = Vec::new();
    for number in 0..random.random_range(10..=200) {
        let selector = if number % 10 == 0 { &own } else { "unix:uid:4242" };
        let id = format!("spiffe://{}/churn/{number}", server.trust_domain());
        ids.push(server.create_entry(Entry::new(id, parent.clone(), [selector])));
        if number % 20 == 0 {
            sleep(Duration::from_millis(random.random_range(..500))).await;
        }
    }
    for (place, id) in ids.iter().enumerate() {
        server.delete_entry(id);
        if place % 50 == 0 {
            sleep(Duration::from_millis(random.random_range(..500))).await;
        }
    }
}

/// An Envoy without a new certificate after this time is stranded.
const LIMIT: Duration = Duration::from_secs(30);
