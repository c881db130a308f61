//! An agent with its own server among several, and what happens to all of them when one server replaces an authority.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use harness::{Agent, Conf, build_finial, envoy_program, needs};
use tokio::time::Instant;

use super::attesting::{served, start};
use super::clients;
use super::followed::{Followed, Seen};
use super::mesh::{BY_PATH, Pair, path_selector, this_program};
use super::real::complaints;
use super::spire_server::SpireServer;

/// The programs of trials with several servers or agents.
pub(super) struct Programs {
    pub(super) server: PathBuf,
    pub(super) agent: PathBuf,
    pub(super) envoy: PathBuf,
    go: PathBuf,
}

impl Programs {
    /// Looks for all of them.
    ///
    /// # Errors
    /// The reason why one of them is missing.
    pub(super) fn found() -> Result<Self, String> {
        Ok(Self {
            server: needs("SPIRE_SERVER", "spire-server")?,
            agent: needs("SPIRE_AGENT", "spire-agent")?,
            envoy: envoy_program()?,
            go: clients::go("go")?,
        })
    }

    /// Builds the client of several agents in this folder, and returns its path as the agents see it.
    pub(super) async fn build_cross(&self, folder: &Path) -> PathBuf {
        let cross = folder.canonicalize().expect("it exists").join("cross");
        clients::build(self.go.clone(), "go", "./cross", &cross).await;
        cross
    }
}

/// An agent, and what this process gets from it.
pub(super) struct Level {
    pub(super) is_finial: bool,
    program: PathBuf,
    conf: Conf,
    pub(super) agent: Agent,
    /// The agent's SPIFFE ID.
    pub(super) parent: String,
    pub(super) followed: Followed,
}

impl Level {
    /// An agent at `server`, with which this process is registered as `probe`, and the client that runs in `cross` as
    /// `client`, both with these flags of `entry create`.
    pub(super) async fn start(program: &Path, server: &SpireServer, cross: &Path, flags: &[&str]) -> Self {
        let (conf, parent) = server.agent(BY_PATH).await;
        // So that it soon hears of changes.
        let conf = Conf { agent: "experimental { sync_interval = \"500ms\" }".into(), ..conf };
        let agent = start(program, &conf);
        agent.wait_for_socket().await;
        server.register_with("probe", &parent, &this_program(), flags).await;
        server.register_with("client", &parent, &path_selector(cross), flags).await;
        served(&agent, &server.id("probe")).await;
        let followed = Followed::open(&agent, &server.id("probe")).await;
        let (is_finial, program) = (program == build_finial(), program.to_owned());
        Self { is_finial, program, conf, agent, parent, followed }
    }

    /// Stops the agent, and starts it again on its data.
    pub(super) async fn restart(self, server: &SpireServer) -> Self {
        let Self { is_finial, program, mut conf, agent, parent, .. } = self;
        let folder = agent.folder();
        assert_eq!(agent.stop().await.code, Some(0));
        conf.join_token = None;
        let agent = Agent::start_program(&program, &conf, folder);
        agent.wait_for_socket().await;
        served(&agent, &server.id("probe")).await;
        let followed = Followed::open(&agent, &server.id("probe")).await;
        Self { is_finial, program, conf, agent, parent, followed }
    }

    /// finial has never ended a stream, and its log has nothing that would worry an operator. Of the real agent, which does
    /// not claim that, it is printed.
    pub(super) fn is_quiet(&self, whose: &str) {
        let complaints = complaints(&self.agent);
        let lines = complaints.lines().filter(|line| !line.contains(WITHDRAWN));
        let (ended, complaints) = (self.followed.ended, lines.collect::<Vec<_>>().join("\n"));
        if self.is_finial {
            assert_eq!((ended, &*complaints), (0, ""), "{whose}");
        } else if ended > 0 || !complaints.is_empty() {
            eprintln!("{whose}: a stream was ended {ended} times, and the log has\n{complaints}");
        }
    }
}

/// The replacement of authorities at one server. Of the agents that have to follow, the first is the server's own.
pub(super) struct Change<'a> {
    pub(super) whose: &'a str,
    pub(super) server: &'a SpireServer,
    /// Servers that are below another one, and hear of this server's authorities. It may be one of them.
    pub(super) below: &'a [SpireServer],
    /// A server of another trust domain, which fetches the bundle.
    pub(super) federated: Option<&'a SpireServer>,
}

impl Change<'_> {
    /// A new X.509 authority takes over, and the old one is no longer trusted. The backends are of the server's trust domain,
    /// and so are the frontends if no server is of another.
    pub(super) async fn x509(&self, levels: &mut [&mut Level], pairs: &[&Pair]) {
        let Self { server, .. } = self;
        let old = server.authority("active").await;
        server.order(&["prepare"]).await;
        let new = server.authority("prepared").await;
        self.authorities(2, levels).await;
        server.order(&["activate", "-authorityID", &new]).await;
        let mut before = Vec::new();
        for pair in pairs {
            before.push(pair.serials().await);
        }
        let begun = Instant::now();
        let chains: Vec<_> = levels.iter().map(|level| level.followed.seen().chain.clone()).collect();
        server.order(&["taint", "-authorityID", &old]).await;
        // What a server of another trust domain has signed stays. The certificates of servers below are replaced, too.
        let (signed, sides) =
            if self.federated.is_none() { (levels.len(), &[0, 1][..]) } else { (1, &[1][..]) };
        for (level, chain) in levels.iter_mut().zip(&chains).take(signed) {
            let replaced = |seen: &Seen| seen.chain.iter().all(|one| !chain.contains(one));
            level.followed.until("another chain", replaced).await;
            // Without its own certificate the real agent ends when the old authority is revoked.
            level.agent.logged("Successfully rotated agent SVID").await;
        }
        for (pair, before) in pairs.iter().zip(&before) {
            pair.replaced(before, sides).await;
        }
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("{}: all is replaced {seconds:.1} s after the taint", self.whose);
        server.order(&["revoke", "-authorityID", &old]).await;
        self.authorities(1, levels).await;
    }

    /// Waits until all agents give so many authorities of the server's trust domain.
    async fn authorities(&self, count: usize, levels: &mut [&mut Level]) {
        self.spread().await;
        let domain = self.server.domain();
        for level in levels {
            let what = format!("{count} authorities of {domain}");
            level.followed.until(&what, |seen| seen.authorities(domain) == count).await;
        }
    }

    /// A new JWT authority takes over, and the old one is no longer trusted. Every agent must know the new authority before
    /// it is used. Servers below another one list a tainted authority twice, their agents give it once.
    pub(super) async fn jwt(&self, levels: &mut [&mut Level]) {
        let (server, domain) = (self.server, self.server.domain());
        let old = server.shown("jwt", "active", "authority_id").await;
        server.ask(&["localauthority", "jwt", "prepare"]).await;
        let new = server.shown("jwt", "prepared", "authority_id").await;
        self.spread().await;
        for level in levels.iter_mut() {
            level.followed.until("the new key", |seen| seen.has_key(domain, &new)).await;
        }
        for (step, authority) in [("activate", &new), ("taint", &old), ("revoke", &old)] {
            server.ask(&["localauthority", "jwt", step, "-authorityID", authority]).await;
            // The agent knows of it when it serves an entry of later.
            let name = format!("{step}-{authority}");
            server.register(&name, &levels[0].parent, &this_program()).await;
            served(&levels[0].agent, &server.id(&name)).await;
            if step == "taint" {
                for below in self.below {
                    below.until_tainted(&old).await;
                }
            }
        }
        self.spread().await;
        // Servers above and below keep it: they tell each other of new keys and of tainted ones only.
        let end = if self.federated.is_some() { levels.len() } else { 1 };
        for level in &mut levels[..end] {
            level.followed.until("not the old key", |seen| !seen.has_key(domain, &old)).await;
        }
        for level in levels {
            let keys = &level.followed.seen().jwt[domain];
            assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{}: {keys:?}", self.whose);
        }
    }

    /// Lets the other trust domain fetch the bundle now instead of at its next poll.
    async fn spread(&self) {
        if let Some(server) = self.federated {
            server.refresh(self.server.domain()).await;
        }
    }
}

/// A server deletes a bundle before the entries that name it.
const WITHDRAWN: &str = "Federated bundle not found";
