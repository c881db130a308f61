//! What happens, in order, and what must be seen of it. Each step is a check: it holds, or the demo fails.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::arguments::Arguments;
use super::envoy::{Envoy, Stats};
use super::failure::Failure;
use super::http;
use super::plan::{WORKLOADS, Workload};
use super::screen::Screen;
use super::traffic::{CALLS, Traffic, call};
use super::world::World;

/// The story, told on a screen.
pub(crate) struct Story<'a> {
    arguments: &'a Arguments,
    screen: &'a Screen,
}

impl<'a> Story<'a> {
    pub(crate) fn new(arguments: &'a Arguments, screen: &'a Screen) -> Self {
        Self { arguments, screen }
    }

    /// Plays it once.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub(crate) async fn play(&self, world: &mut World<'_>) -> Result<Traffic, Failure> {
        if self.arguments.server.is_none() {
            self.check("a SPIRE server listens", world.start_server()).await?;
            self.check("two agents have attested by k8s_psat and are ready", world.start_agents()).await?;
        } else {
            self.check("two agents have attested by join token and are ready", world.start_agents()).await?;
            self.ask_for_registration(world, |workload| workload.registered);
        }
        self.check("six Envoys are live", world.start_envoys()).await?;
        let world = &*world;
        tokio::select! {
            traffic = self.observe(world) => {
                self.screen.settle();
                traffic
            }
            Err(failure) = world.watch(self.screen) => Err(failure),
        }
    }

    async fn observe(&self, world: &World<'_>) -> Result<Traffic, Failure> {
        self.check(
            "each registered Envoy shows its own SPIFFE ID and the trust domain's",
            self.identities(world),
        )
        .await?;
        self.check("each Envoy has one healthy connection to its agent", connections(world)).await?;
        let first = serials(world).await?;
        let (_, frontend) = world.envoy("frontend")?;
        self.check("calls go through the whole chain", chain_works(frontend)).await?;
        let traffic = Traffic::start(frontend.port);
        self.check("each call is a handshake on listeners and on clusters", handshakes(world, &traffic))
            .await?;
        self.pause().await;
        self.check("a stranger gets 503, and yelbapp counts the refused name", stranger(world)).await?;
        self.pause().await;
        self.check("an unregistered Envoy has no certificate, and its calls fail", unregistered(world))
            .await?;
        self.pause().await;
        self.check("once registered it gets its certificate and works, without a restart", self.late(world))
            .await?;
        self.pause().await;
        self.check("every certificate was replaced at least once", self.rotation(world, first)).await?;
        self.check("no call has failed meanwhile", all_went_well(world, &traffic)).await?;
        self.screen.line(&format!("{} calls, none failed", traffic.tally().ok));
        Ok(traffic)
    }

    async fn check<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let done = work.await;
        match &done {
            Ok(_) => self.screen.passed(what, began.elapsed()),
            Err(_) => self.screen.failed(what, began.elapsed()),
        }
        done
    }

    /// Time to look, where somebody looks.
    async fn pause(&self) {
        if !self.arguments.check {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// How long a registration may take: as long as an agent needs, or a person.
    fn patience(&self) -> Duration {
        if self.arguments.server.is_none() { Duration::from_secs(60) } else { Duration::from_mins(10) }
    }

    fn ask_for_registration(&self, world: &World<'_>, which: impl Fn(&Workload) -> bool) {
        let workloads = WORKLOADS.iter().filter(|workload| which(workload));
        let commands: Vec<String> = workloads.map(|workload| world.registration_command(workload)).collect();
        self.screen.line(&format!("Now register, with your server:\n\n{}\n", commands.join("\n")));
    }

    async fn identities(&self, world: &World<'_>) -> Result<(), Failure> {
        let authority = format!("spiffe://{}", world.trust_domain());
        for (workload, envoy) in world.workloads().filter(|(workload, _)| workload.registered) {
            let id = workload.id(world.trust_domain());
            let mut shown = None;
            let complete = async || {
                let certificates = envoy.certificates().await?;
                let own = !certificates.own.is_empty() && certificates.own.iter().all(|own| own.uri == id);
                let trusted = certificates.authorities.iter().any(|root| root.uri == authority);
                shown = Some(certificates);
                Ok((own && trusted).then_some(()))
            };
            until(self.patience(), complete).await?.ok_or_else(|| {
                let what = format!("should show {id} and {authority}, but shows {shown:?}");
                envoy.process.failure(&what).with_log(&world.agent_log(workload))
            })?;
        }
        Ok(())
    }

    async fn late(&self, world: &World<'_>) -> Result<(), Failure> {
        let (workload, envoy) = world.envoy("latecomer")?;
        if self.arguments.server.is_some() {
            self.ask_for_registration(world, |workload| !workload.registered);
        }
        world.register(workload);
        let id = workload.id(world.trust_domain());
        let named =
            async || Ok(envoy.certificates().await?.own.iter().any(|own| own.uri == id).then_some(()));
        let log = world.agent_log(workload);
        let failure = |what: &str| envoy.process.failure(what).with_log(&log);
        until(self.patience(), named).await?.ok_or_else(|| failure("got no certificate"))?;
        let works = async || Ok(call(envoy.port, CALLS[0].0, CALLS[0].1).await.ok());
        until(SOON, works).await?.ok_or_else(|| failure("has its certificate, but its calls fail"))
    }

    async fn rotation(&self, world: &World<'_>, first: Serials) -> Result<(), Failure> {
        let mut left = first;
        let replaced = async || {
            let now = serials(world).await?;
            left.retain(|name, serial| now.get(name).is_none_or(|now| now == serial));
            Ok(left.is_empty().then_some(()))
        };
        let limit = if self.arguments.server.is_none() { ROTATION } else { REAL_ROTATION };
        match until(limit, replaced).await? {
            Some(()) => Ok(()),
            None => {
                let names: Vec<&str> = left.keys().copied().collect();
                let (workload, _) = world.envoy(names.first().copied().unwrap_or_default())?;
                let what = format!("the certificates of {} were not replaced", names.join(", "));
                Err(Failure::new(what).with_log(&world.agent_log(workload)))
            }
        }
    }
}

/// Serial numbers of the registered workloads.
type Serials = BTreeMap<&'static str, String>;

async fn serials(world: &World<'_>) -> Result<Serials, Failure> {
    let mut serials = Serials::new();
    for (workload, envoy) in world.workloads().filter(|(workload, _)| workload.registered) {
        let own = envoy.certificates().await?.own;
        serials.insert(workload.name, own.first().map(|own| own.serial.clone()).unwrap_or_default());
    }
    Ok(serials)
}

async fn connections(world: &World<'_>) -> Result<(), Failure> {
    for (workload, envoy) in world.workloads() {
        let connected = async || Ok(envoy.agent_connection().await?.then_some(()));
        until(SOON, connected).await?.ok_or_else(|| {
            envoy
                .process
                .failure("has no healthy connection to its agent")
                .with_log(&world.agent_log(workload))
        })?;
    }
    Ok(())
}

async fn chain_works(frontend: &Envoy) -> Result<(), Failure> {
    for (path, expected) in CALLS {
        let mut last = String::new();
        let works = async || match call(frontend.port, path, expected).await {
            Ok(()) => Ok(Some(())),
            Err(reason) => {
                last = reason;
                Ok(None)
            }
        };
        until(SOON, works).await?.ok_or_else(|| frontend.process.failure(&format!("GET {path}: {last}")))?;
    }
    Ok(())
}

async fn handshakes(world: &World<'_>, traffic: &Traffic) -> Result<(), Failure> {
    let chain: Vec<_> = world.workloads().filter(|(workload, _)| workload.in_chain()).collect();
    let mut before = Vec::new();
    for (workload, envoy) in &chain {
        before.push(both_sides(workload, &envoy.stats().await?));
    }
    let calls = traffic.tally().ok;
    let enough = async || Ok((traffic.tally().ok >= calls + CALLS_COUNTED).then_some(()));
    until(SOON, enough)
        .await?
        .ok_or_else(|| Failure::new(format!("calls do not go on: {:?}", traffic.tally())))?;
    for ((workload, envoy), before) in chain.iter().zip(before) {
        // The leaves get every other call. One may be under way at either end.
        let share = if workload.routes.is_empty() { CALLS_COUNTED / 2 } else { CALLS_COUNTED };
        let now = both_sides(workload, &envoy.stats().await?);
        for (what, now, before) in [("as server", now.0, before.0), ("as client", now.1, before.1)] {
            if let (Some(now), Some(before)) = (now, before)
                && now < before + share - 1
            {
                let what = format!("{what} made {} handshakes in {share} calls", now - before);
                return Err(envoy.process.failure(&what));
            }
        }
    }
    Ok(())
}

/// Handshakes with callers and with callees, where it has some.
fn both_sides(workload: &Workload, stats: &Stats) -> (Option<u64>, Option<u64>) {
    let server = (!workload.callers.is_empty()).then(|| stats.handshakes_in());
    let out = || workload.routes.iter().map(|(_, callee)| stats.handshakes_with(callee)).sum();
    (server, (!workload.routes.is_empty()).then(out))
}

async fn stranger(world: &World<'_>) -> Result<(), Failure> {
    let ((_, stranger), (_, callee)) = (world.envoy("stranger")?, world.envoy("yelbapp")?);
    let before = callee.stats().await?.refused_names();
    let answer = http::get(stranger.port, CALLS[0].0).await;
    let answer = answer.map_err(|reason| stranger.process.failure(&format!("does not answer: {reason}")))?;
    if answer.status != 503 {
        return Err(stranger
            .process
            .failure(&format!("should get 503, but gets {}: {}", answer.status, answer.body)));
    }
    let counted = async || Ok((callee.stats().await?.refused_names() > before).then_some(()));
    let counted = until(SOON, counted).await?;
    counted.ok_or_else(|| callee.process.failure("does not count the stranger in ssl.fail_verify_san"))
}

async fn unregistered(world: &World<'_>) -> Result<(), Failure> {
    let (_, envoy) = world.envoy("latecomer")?;
    let shown = envoy.certificates().await?;
    if !shown.own.is_empty() {
        return Err(envoy
            .process
            .failure(&format!("is not registered, but has a certificate: {:?}", shown.own)));
    }
    let (path, expected) = CALLS[0];
    match call(envoy.port, path, expected).await {
        Err(_) => Ok(()),
        Ok(()) => Err(envoy.process.failure("is not registered, but its calls go through")),
    }
}

async fn all_went_well(world: &World<'_>, traffic: &Traffic) -> Result<(), Failure> {
    let tally = traffic.tally();
    if tally.failed == 0 {
        return Ok(());
    }
    let what = format!(
        "{} of {} calls failed; the last: {:?}",
        tally.failed,
        tally.ok + tally.failed,
        tally.failure
    );
    let (_, yelbapp) = world.envoy("yelbapp")?;
    Err(Failure::new(what).with_log(&yelbapp.process.log))
}

/// Asks again and again, until there is an answer or the time is over.
///
/// # Errors
/// Those of the probe.
pub(crate) async fn until<T>(
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await? {
            return Ok(Some(found));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const SOON: Duration = Duration::from_secs(10);
const ROTATION: Duration = Duration::from_secs(45);
const REAL_ROTATION: Duration = Duration::from_mins(3);
const CALLS_COUNTED: u64 = 20;
