//! A SPIRE server below another one (UpstreamAuthority `spire`), which gets its own authority and its parent's bundle with
//! the identity that an agent gives it. Workloads under both servers talk while the upper one's authorities are replaced.
//! Runs with finial as both agents, below the real agent, and with the real agent as both.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use harness::{Agent, Conf, Sidecar, build_finial, envoy_program, needs};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::time::Instant;

use super::attesting::{served, start};
use super::clients;
use super::crossing::Crossing;
use super::followed::{Followed, Seen, intermediates};
use super::mesh::{BACKEND, BY_PATH, FRONTEND, Mesh, Pair, linked, path_selector, this_program};
use super::real::complaints;
use super::spire_server::{Options, SpireServer};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with("real_server_nested_follows_its_root", programs(), nested)]
}

/// The programs of this trial.
struct Programs {
    server: PathBuf,
    agent: PathBuf,
    envoy: PathBuf,
    go: PathBuf,
}

fn programs() -> Result<Programs, String> {
    Ok(Programs {
        server: needs("SPIRE_SERVER", "spire-server")?,
        agent: needs("SPIRE_AGENT", "spire-agent")?,
        envoy: envoy_program()?,
        go: clients::go("go")?,
    })
}

async fn nested(programs: Programs) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cross = folder.path().canonicalize().expect("it exists").join("cross");
    clients::build(programs.go.clone(), "go", "./cross", &cross).await;
    let (finial, real) = (&build_finial(), &programs.agent);
    let worlds = [
        ("finial at both servers", [finial, finial]),
        ("spire-agent and finial", [real, finial]),
        ("spire-agent at both servers", [real, real]),
    ];
    join_all(worlds.map(async |(whose, agents)| {
        let mut world = World::new(whose, agents, &programs, &cross).await;
        world.has_whole_chains().await;
        world.replaces_the_root(&cross).await;
    }))
    .await;
}

/// The upper server with its agent, and the lower one with its own.
struct World {
    whose: &'static str,
    root: SpireServer,
    child: SpireServer,
    above: Level,
    below: Level,
    /// The frontend is below, the backend above.
    pair: Pair,
    /// The folder of the lower server's program.
    _place: TempDir,
}

/// An agent, and what this process gets from it.
struct Level {
    is_finial: bool,
    agent: Agent,
    parent: String,
    followed: Followed,
}

impl World {
    async fn new(
        whose: &'static str,
        [upper, lower]: [&PathBuf; 2],
        programs: &Programs,
        cross: &Path,
    ) -> Self {
        let root = server(&programs.server, "").await;
        let above = Level::start(upper, &root, cross, "above").await;
        let place = tempfile::tempdir().expect("a temporary folder");
        let program = linked(&programs.server, place.path(), "child-server");
        let selector = path_selector(&program);
        root.register_with("child-server", &above.parent, &selector, &["-downstream"]).await;
        let begun = Instant::now();
        let child = server(&program, &upstream(&root, &above.agent)).await;
        eprintln!("{whose}: the lower server is healthy after {:.1} s", begun.elapsed().as_secs_f64());
        let below = Level::start(lower, &child, cross, "below").await;
        let pair = pair(&programs.envoy, (&root, &above), (&child, &below)).await;
        Self { whose, root, child, above, below, pair, _place: place }
    }

    /// Chains of the lower server have its own certificate, and end below the root, which both agents trust.
    async fn has_whole_chains(&self) {
        let above = intermediates(&self.above.agent, "spiffe://example.org/probe-above").await;
        let below = intermediates(&self.below.agent, "spiffe://example.org/probe-below").await;
        assert_eq!((above.len(), below.len()), (0, 1));
        let [above, below] = [&self.above, &self.below].map(|level| level.followed.seen());
        assert_eq!(above.x509, below.x509);
        assert!(!above.x509[DOMAIN].contains(&below.chain[1]));
    }

    /// Replaces each kind of authority while the Envoys talk and a client follows both agents.
    async fn replaces_the_root(&mut self, cross: &Path) {
        let crossing = Crossing::start(cross, &[&self.above.agent, &self.below.agent]).await;
        let Self { whose, root, child, above, below, pair, .. } = self;
        let (figures, ()) = pair
            .drive_during(async || {
                replace_x509(whose, root, [&mut *above, &mut *below], pair).await;
                replace_jwt(whose, (root, child), above, below).await;
                replace_jwt(whose, (child, child), below, above).await;
            })
            .await;
        let crossed = crossing.end().await;
        let (requests, seconds) = (figures.requests, figures.seconds);
        eprintln!("{whose}: {requests} requests in {seconds:.1} s, {} failed", figures.failures.len());
        eprintln!("{whose}: {crossed}");
        assert!(figures.failures.is_empty(), "{figures:?}");
        assert_eq!(crossed["refused"], 0, "{whose}");
        eprintln!(
            "{whose}: streams ended above {} times, below {}",
            above.followed.ended, below.followed.ended
        );
        for (level, place, chain) in [(&above, 0, 1), (&below, 1, 2)] {
            assert!(level.followed.ended == 0 || !level.is_finial, "{whose}: {}", level.agent.log());
            let given = &crossed["agents"][place];
            assert_eq!((&given["chain"], &given["keys"]), (&chain.into(), &2.into()), "{whose}: {given}");
            assert_eq!(complaints(&level.agent), "", "{whose}");
        }
    }
}

/// A new X.509 authority takes over at the root, and the old one is no longer trusted.
async fn replace_x509(whose: &str, root: &SpireServer, mut levels: [&mut Level; 2], pair: &Pair) {
    let old = root.authority("active").await;
    root.order(&["prepare"]).await;
    let new = root.authority("prepared").await;
    for level in &mut levels {
        level.followed.until("two authorities", |seen| seen.authorities(DOMAIN) == 2).await;
    }
    root.order(&["activate", "-authorityID", &new]).await;
    let before = pair.serials().await;
    let chains = levels.each_ref().map(|level| level.followed.seen().chain.clone());
    let begun = Instant::now();
    root.order(&["taint", "-authorityID", &old]).await;
    for (level, chain) in levels.iter_mut().zip(&chains) {
        // The lower server's own certificate is replaced, too.
        let other = |seen: &Seen| seen.chain.iter().all(|one| !chain.contains(one));
        level.followed.until("another chain", other).await;
    }
    pair.replaced(&before).await;
    eprintln!("{whose}: all is replaced {:.1} s after the taint", begun.elapsed().as_secs_f64());
    root.order(&["revoke", "-authorityID", &old]).await;
    for level in &mut levels {
        level.followed.until("one authority", |seen| seen.authorities(DOMAIN) == 1).await;
    }
}

/// A new JWT authority takes over at one of the servers, and the old one is no longer trusted. The agent of the other
/// server must know the new one first. The lower server lists a tainted key twice, its workloads must not see that.
async fn replace_jwt(
    whose: &str,
    (server, lower): (&SpireServer, &SpireServer),
    own: &mut Level,
    other: &mut Level,
) {
    let old = server.shown("jwt", "active", "authority_id").await;
    server.ask(&["localauthority", "jwt", "prepare"]).await;
    let new = server.shown("jwt", "prepared", "authority_id").await;
    for level in [&mut *own, &mut *other] {
        level.followed.until("the new key", |seen| seen.has_key(DOMAIN, &new)).await;
    }
    for (step, authority) in [("activate", &new), ("taint", &old), ("revoke", &old)] {
        server.ask(&["localauthority", "jwt", step, "-authorityID", authority]).await;
        // The agent knows of it when it serves an entry of later.
        let name = format!("{step}-{authority}");
        server.register(&name, &own.parent, &this_program()).await;
        served(&own.agent, &server.id(&name)).await;
        if step == "taint" {
            lower.until_tainted(&old).await;
        }
    }
    // SPIRE servers tell each other of new keys and of tainted ones, but do not take keys back.
    own.followed.until("not the old key", |seen| !seen.has_key(DOMAIN, &old)).await;
    for level in [own, other] {
        let keys = &level.followed.seen().jwt[DOMAIN];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{whose}: {keys:?}");
    }
}

impl Level {
    /// An agent at `server`, with which this process is registered, and the client that runs in `cross`.
    async fn start(program: &Path, server: &SpireServer, cross: &Path, name: &str) -> Self {
        let (conf, parent) = server.agent(BY_PATH).await;
        // So that it soon hears of changes.
        let conf = Conf { agent: "experimental { sync_interval = \"500ms\" }".into(), ..conf };
        let agent = start(program, &conf);
        agent.wait_for_socket().await;
        let probe = format!("probe-{name}");
        server.register(&probe, &parent, &this_program()).await;
        server.register(&format!("client-{name}"), &parent, &path_selector(cross)).await;
        served(&agent, &server.id(&probe)).await;
        let followed = Followed::open(&agent, &server.id(&probe)).await;
        Self { is_finial: program == build_finial(), agent, parent, followed }
    }
}

/// A frontend below that calls a backend above.
async fn pair(envoy: &Path, above: (&SpireServer, &Level), below: (&SpireServer, &Level)) -> Pair {
    let meshes = [above, below].map(|(_, level)| Mesh::new(envoy, &level.agent));
    for ((server, level), mesh, name) in [(above, &meshes[0], "backend"), (below, &meshes[1], "frontend")] {
        server.register(name, &level.parent, &mesh.selector(name)).await;
    }
    let backend = meshes[0].backend("frontend").await;
    let upstream = Some(("backend", backend.port().await));
    let frontend = meshes[1].start(Sidecar { upstream, ..meshes[1].sidecar("frontend") }).await;
    Pair::new([frontend, backend], [FRONTEND, BACKEND]).await
}

/// A server that soon gives agents what has changed.
async fn server(program: &Path, plugins: &str) -> SpireServer {
    SpireServer::start_of(program, &Options { plugins, cache: Some("1s"), ..Options::default() }).await
}

/// The plugin of a server below `root`, which this agent serves.
fn upstream(root: &SpireServer, agent: &Agent) -> String {
    let (address, socket) = (root.address(), agent.socket());
    format!(
        "UpstreamAuthority \"spire\" {{ plugin_data {{ server_address = \"{}\" server_port = \"{}\" \
         workload_api_socket = \"{}\" }} }}",
        address.ip(),
        address.port(),
        socket.display()
    )
}

const DOMAIN: &str = "spiffe://example.org";
