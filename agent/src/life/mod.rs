//! The agent's life with the server: bootstrap, attest, sync, renew, attest again, bootstrap again.
//!
//! One task does all of it in sequence, so that the SVID is never rotated during a sync. An *unreachable* server is
//! retried for as long as it takes, with full jitter; the files of the configuration are read again at each attempt. A
//! *refusal* ends the agent with [`Fatal`] and exit code 1, as in spire-agent: a spent join token, a ban, an eviction
//! where the agent cannot attest again, or an unknown authority where re-bootstrapping is not allowed. Where it is
//! allowed (`rebootstrap_mode`), it happens in this process, and callers keep their SVIDs.
//!
//! ```text
//!  bootstrap ──(stored SVID, or attested)──> serve: sync every 5 s, renew, attest again if the server asks for it
//!      ^                                        │
//!      └──── unknown authority for longer than rebootstrap_delay ────┘
//! ```

mod bootstrap;
mod clock;
mod judge;
mod lines;
mod own;
mod renewal;
mod rules;
pub(crate) mod stale;
mod stored;
mod syncing;

use std::sync::Arc;
use std::time::Duration;

use attestors::node::Attestor;
use config::{RebootstrapMode, Settings, TrustBundleSource};
use identity::{Bundle, Distrusted, TrustDomain};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, info};

use self::clock::{Reasons, SyncClock};
pub use self::judge::Fatal;
pub(crate) use self::judge::format_time;
use self::judge::{Doing, Verdict};
use self::own::{OwnSvid, stored_svid};
use self::rules::rules;
pub(crate) use self::stored::Stored;
use crate::continuity::{Changes, Contents, Own};
use crate::keys::{AgentKey, AgentSvid, Keys, Request};
use crate::manager::{Demand, Manager};
use crate::status::Status;
use crate::store::{Data, Keeper};
use crate::telemetry::{Metrics, names};
use crate::upstream::attest::NewIdentity;
use crate::upstream::dial::Servers;
use crate::upstream::link::{Credentials, Link, Tls};
use crate::upstream::tls::{KeyExchange, Roots};
use crate::upstream::{ServerError, attest, failed};

/// Where the life publishes what it has.
#[derive(Debug)]
pub(crate) struct Outlets {
    /// The manager, for the door.
    pub(crate) ready: watch::Sender<Option<Manager>>,
    pub(crate) status: Arc<Status>,
    /// The agent's own identity, for what keeps it for a later process.
    pub(crate) kept: watch::Sender<Option<Own>>,
    /// Hears of changes of what a later process needs.
    pub(crate) changes: Changes,
    pub(crate) metrics: Metrics,
}

/// The state of the task.
#[derive(Debug)]
pub struct Lifecycle {
    settings: Arc<Settings>,
    trust_domain: TrustDomain,
    attestor: Arc<Attestor>,
    /// Another configuration of the attestor, since it was last used.
    reconfigured: watch::Receiver<Option<Arc<Attestor>>>,
    keys: Keys,
    keeper: Keeper,
    data: Data,
    link: Arc<Link>,
    rules: cache::Options,
    /// The agent's own SVID; `None` before attestation and after a refusal.
    own: Option<OwnSvid>,
    /// The bundle that authenticates the server; `None` until the configured source is read.
    bundle: Option<Arc<Bundle>>,
    /// Publishes `bundle` to the task that looks for a stale source.
    present: watch::Sender<Option<Arc<Bundle>>>,
    /// The manager; `None` before the first sync.
    manager: Option<Manager>,
    /// Publishes the manager to the door.
    ready: watch::Sender<Option<Manager>>,
    status: Arc<Status>,
    /// Publishes the own identity to what keeps it for a later process.
    kept: watch::Sender<Option<Own>>,
    changes: Changes,
    pub(in crate::life) metrics: Metrics,
    /// Requests for early syncs, from the manager to this task.
    demand: (mpsc::Sender<Demand>, mpsc::Receiver<Demand>),
    /// The configured mode, or `Never` if the agent cannot attest again.
    mode: RebootstrapMode,
    reason: Reasons,
    started: Instant,
}

impl Lifecycle {
    /// A life that continues from the stored state. The manager is sent to `ready` after the first sync.
    ///
    /// # Errors
    /// [`Fatal::Configuration`] if `rebootstrap_mode` does not fit the stored SVID, or if nothing stored or configured
    /// authenticates the server.
    pub(crate) fn new(
        settings: Arc<Settings>,
        trust_domain: TrustDomain,
        (attestor, reconfigured): (Attestor, watch::Receiver<Option<Arc<Attestor>>>),
        stored: Stored,
        outlets: Outlets,
    ) -> Result<Self, Fatal> {
        let Stored { store, data, keys, .. } = stored;
        let Outlets { ready, status, kept, changes, metrics } = outlets;
        let rules = rules(&settings);
        let bundle = (!data.bundle.is_empty())
            .then(|| Arc::new(Bundle::of_x509(trust_domain.clone(), data.bundle.iter().cloned())));
        let own = stored_svid(&data, &keys, &trust_domain).map(|svid| OwnSvid::stored(svid, &rules));
        let key_exchange = KeyExchange::of(&settings);
        let connector = Tls::to(Servers::of(&settings), trust_domain.server_id(), key_exchange);
        let link = Link::new(connector, Credentials { roots: Roots::Insecure, svid: None });
        let mode = settings.rebootstrap_mode;
        let mut this = Self {
            link: Arc::new(link),
            demand: mpsc::channel(1),
            manager: None,
            reason: Reasons::default(),
            started: Instant::now(),
            settings,
            trust_domain,
            attestor: Arc::new(attestor),
            reconfigured,
            keys,
            keeper: Keeper::start(store),
            data,
            rules,
            own,
            bundle,
            present: watch::Sender::new(None),
            ready,
            status,
            kept,
            changes,
            metrics,
            mode,
        };
        this.count_bootstrap();
        if this.own.is_some() {
            this.check_mode()?;
            if this.bundle.is_none() && this.settings.trust_bundle == TrustBundleSource::Insecure {
                return Err(Fatal::Configuration(NO_BUNDLE_IN_CACHE));
            }
        }
        Ok(this)
    }

    /// The handle that writes the agent's data. The caller that stops the agent waits for its last write.
    pub(crate) fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// Runs until a fatal error.
    pub(crate) async fn run(mut self, recalled: Option<Contents>) -> Fatal {
        if let Some(contents) = recalled {
            self.restore(contents).await;
        }
        // Ends with `present`.
        tokio::spawn(stale::watch(
            Arc::clone(&self.settings),
            self.present.subscribe(),
            Arc::clone(&self.status),
        ));
        let mut again = false;
        loop {
            if let Err(fatal) = self.bootstrap().await {
                return fatal;
            }
            if let Err(fatal) = self.serve(again).await {
                return fatal;
            }
            again = true;
        }
    }

    /// Serves what the last process had, before the server is reached, if the own identity is still valid.
    async fn restore(&mut self, contents: Contents) {
        let own = contents.bundles.first().filter(|bundle| bundle.trust_domain == self.trust_domain).cloned();
        let is_refused = contents.own.is_none();
        let (Some(bundle), Some(_), false) = (own, &self.own, is_refused) else {
            info!("The agent has no valid identity of its own, so what the last process had is not served");
            // With that it is not kept any longer either.
            self.keep_own();
            return;
        };
        if self.bundle.is_none() {
            self.bundle = Some(Arc::clone(&bundle));
        }
        self.refresh_credentials();
        self.keep_own();
        let (entries, svids, tokens) = (contents.entries.len(), contents.svids.len(), contents.tokens.len());
        let manager = Manager::start(self.parts(bundle));
        manager.restore(contents).await;
        self.manager = Some(manager.clone());
        self.ready.send_replace(Some(manager));
        self.status.restored();
        info!(entries, svids, tokens, "Serving what the last process had, until the server is reached");
    }

    /// Publishes the own identity to what keeps it for a later process.
    fn keep_own(&self) {
        let own = self.own.as_ref().map(|own| Own {
            keys: self.keys.kept(),
            chain: own.svid.chain.clone(),
            reattestable: self.data.reattestable,
        });
        self.kept.send_replace(own);
        self.changes.note();
    }

    /// Attests the node, and keeps the new SVID and bundle.
    async fn attest(&mut self, roots: &Roots) -> Result<(), ServerError> {
        let again = self.own.is_some();
        let call = if again { &names::REATTEST } else { &names::NEW_SVID }.start(&self.metrics);
        let attested = self.attested(roots).await;
        if again {
            call.end(status(&attested));
        } else {
            call.end_of(self.attestor.name(), status(&attested));
        }
        let attested = attested?;
        self.reason.clear();
        let (id, domain) = (&attested.svid.id, self.trust_domain.id());
        lines::attested(again, id, &domain, attested.reattestable);
        if !attested.reattestable && self.keys.is_memory() && !self.changes.are_kept() {
            lines::keys_are_lost_at_exit();
        }
        self.data.reattestable = attested.reattestable;
        self.found_server();
        self.bundle = Some(attested.bundle);
        self.set_own(attested.svid);
        Ok(())
    }

    async fn attested(&mut self, roots: &Roots) -> Result<NewIdentity, ServerError> {
        if let Some(attestor) = self.reconfigured.borrow_and_update().as_ref() {
            self.attestor = Arc::clone(attestor);
        }
        let current = self.own.as_ref().map(|own| own.svid.key.clone());
        let request = self.new_key(current.as_ref()).await?;
        attest::attest(&self.link, roots, &self.attestor, request).await
    }

    async fn new_key(&mut self, current: Option<&AgentKey>) -> Result<Request<AgentKey>, ServerError> {
        let call = names::GENERATE_KEY.start(&self.metrics);
        let request = self.keys.renew(current).await;
        call.end(if request.is_ok() { "OK" } else { "Internal" });
        Ok(request?)
    }

    /// Puts a new SVID into use: for the next handshake with the server, for the renewal schedule and on disk.
    fn set_own(&mut self, svid: Arc<AgentSvid>) {
        let mut own = OwnSvid::new(svid, &self.rules);
        own.distrusted =
            self.bundle.as_ref().is_some_and(|bundle| Distrusted::tainted(bundle).has_signed(&own.svid));
        self.own = Some(own);
        self.refresh_credentials();
        self.keep_own();
        self.persist();
    }

    /// Passes the present SVID and bundle to the link and to the status.
    fn refresh_credentials(&self) {
        self.status.certified(self.own.as_ref().map(|own| Arc::clone(&own.svid)));
        self.present.send_if_modified(|present| {
            let changed = *present != self.bundle;
            present.clone_from(&self.bundle);
            changed
        });
        if let (Some(own), Some(bundle)) = (&self.own, &self.bundle) {
            let roots = Roots::Bundle(Arc::clone(bundle));
            self.link.set_credentials(Credentials { roots, svid: Some(Arc::clone(&own.svid)) });
        }
    }

    /// Syncs and renews. Returns when the agent must bootstrap again. With `again`, it has.
    async fn serve(&mut self, again: bool) -> Result<(), Fatal> {
        // Runs beside the first sync: nothing waits for it.
        let link = Arc::clone(&self.link);
        tokio::spawn(async move {
            if let Err(reason) = attest::post_status(&link).await {
                let agent_version = crate::version::compatible();
                error!(error = %reason, agent_version = %agent_version, "Failed to post agent status");
            }
        });
        // The authority that signed the manager's SVIDs is not trusted any more.
        if let Some(manager) = self.manager.as_ref().filter(|_| again) {
            manager.renew_all().await;
        }
        let mut known = self.no_results();
        let mut clock = SyncClock::new();
        let mut refusals = 0;
        loop {
            let renew = self.own.as_ref().map_or(Duration::ZERO, OwnSvid::until_renewal);
            let (doing, result) = tokio::select! {
                () = tokio::time::sleep_until(clock.next()) =>
                    (Doing::Syncing, self.sync(&mut known, &mut clock).await),
                Some(demand) = self.demand.1.recv() => {
                    match demand {
                        Demand::Unmatched => clock.demand(),
                        Demand::Reached => clock.reached(),
                    }
                    continue
                }
                () = tokio::time::sleep(renew.min(LONGEST_SLEEP)) => {
                    if self.own.as_ref().is_some_and(|own| own.until_renewal() > Duration::ZERO) {
                        continue;
                    }
                    (Doing::Renewing, self.renew_in_time(&mut clock).await)
                }
            };
            if self.manager.as_ref().is_some_and(Manager::is_stopped) {
                return Err(Fatal::Stopped("the manager"));
            }
            let Err(reason) = result else {
                refusals = 0;
                continue;
            };
            self.status.failed(reason.to_string());
            refusals = if self.looks_refused(&reason) { refusals + 1 } else { 0 };
            let said = reason.to_string();
            match self.judge(doing, reason, refusals)? {
                Verdict::Retry => {}
                Verdict::Confirm => clock.confirm_refusal(),
                Verdict::Attest => {
                    if self.attest_again(&said).await? {
                        clock.reached();
                    } else {
                        clock.attestation_failed();
                    }
                }
                Verdict::Rebootstrap => return Ok(()),
            }
        }
    }

    fn forget_svid(&mut self) {
        self.own = None;
        self.keep_own();
        self.persist();
    }

    /// Stores what a restart needs. The keeper writes it in the background.
    fn persist(&mut self) {
        self.data.svid = self.own.as_ref().map(|own| own.svid.chain.clone()).unwrap_or_default();
        let authorities = self.bundle.iter().flat_map(|bundle| &bundle.x509_authorities);
        self.data.bundle = authorities.map(|authority| authority.der.clone()).collect();
        self.save();
    }

    /// Stores the data as it is: a stored SVID that is not in use, perhaps for a wrong clock, stays.
    fn save(&self) {
        self.keeper.save(self.data.clone());
    }
}

/// The name of the gRPC code of an outcome.
fn status<T>(result: &Result<T, ServerError>) -> &'static str {
    result.as_ref().map_or_else(failed::code_name, |_| "OK")
}

/// spire-agent's words, and what to do.
const NO_BUNDLE_IN_CACHE: &str = "SVID loaded but no bundle in cache: insecure_bootstrap trusts an unknown server at first contact only; \
    configure trust_bundle_path, or remove agent-data.json from data_dir";
/// The longest sleep until a renewal, because the wall clock can jump meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
