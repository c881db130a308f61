//! The steps of the demo in order. Each step is a check: if it fails, the demo fails.

use std::time::Duration;

use tokio::time::Instant;

use super::arguments::Arguments;
use super::checks::{self, SOON, Serials};
use super::failure::Failure;
use super::plan::{WORKLOADS, Workload};
use super::screen::Screen;
use super::traffic::{CALLS, Traffic, call};
use super::wait::until;
use super::world::World;

/// The steps of the demo, printed on a screen.
pub(crate) struct Story<'a> {
    arguments: &'a Arguments,
    screen: &'a Screen,
}

impl<'a> Story<'a> {
    pub(crate) fn new(arguments: &'a Arguments, screen: &'a Screen) -> Self {
        Self { arguments, screen }
    }

    /// Runs all steps once.
    ///
    /// # Errors
    /// The failure of the first check that fails.
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
        self.check("each Envoy has one healthy connection to its agent", checks::connections(world)).await?;
        let first = checks::serials(world).await?;
        let (_, frontend) = world.envoy("frontend")?;
        self.check("calls go through the whole chain", checks::chain_works(frontend)).await?;
        let traffic = Traffic::start(frontend.port);
        self.check(
            "each call is a handshake on listeners and on clusters",
            checks::handshakes(world, &traffic),
        )
        .await?;
        self.pause().await;
        self.check("a stranger gets 503, and yelbapp counts the refused name", checks::stranger(world))
            .await?;
        self.pause().await;
        self.check(
            "an unregistered Envoy has no certificate, and its calls fail",
            checks::unregistered(world),
        )
        .await?;
        self.pause().await;
        self.check("once registered it gets its certificate and works, without a restart", self.late(world))
            .await?;
        self.pause().await;
        self.check("every certificate was replaced at least once", self.rotation(world, first)).await?;
        self.check("no call has failed meanwhile", checks::all_went_well(world, &traffic)).await?;
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

    /// Gives the user time to look, except with `--check`.
    async fn pause(&self) {
        if !self.arguments.check {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// How long a registration may take: an agent's time with the built-in server, a person's time with a real one.
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
            let now = checks::serials(world).await?;
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

/// How long the replacement of every certificate may take with the built-in server.
const ROTATION: Duration = Duration::from_secs(45);
/// How long it may take with a real server, whose SVIDs live longer.
const REAL_ROTATION: Duration = Duration::from_mins(3);
