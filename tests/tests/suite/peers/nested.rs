//! A SPIRE server below another one (UpstreamAuthority `spire`), which gets its own authority and its parent's bundle with
//! the identity that an agent gives it. Workloads under both servers talk while the upper one's authorities are replaced.
//! Runs with finial as both agents, below the real agent, and with the real agent as both.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use harness::{Agent, Sidecar, build_finial};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::time::Instant;

use super::crossing::Crossing;
use super::followed::intermediates;
use super::levels::{Change, Level, Programs};
use super::mesh::{BACKEND, FRONTEND, Mesh, Pair, linked, path_selector};
use super::spire_server::{Options, SpireServer};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial_with("real_server_nested_follows_its_root", Programs::found(), nested)]
}

async fn nested(programs: Programs) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cross = programs.build_cross(folder.path()).await;
    let (finial, real) = (&build_finial(), &programs.agent);
    let worlds = [
        ("finial at both servers", [finial, finial]),
        ("spire-agent and finial", [real, finial]),
        ("spire-agent at both servers", [real, real]),
    ];
    join_all(worlds.map(async |(whose, agents)| {
        let mut world = World::new(whose, agents, &programs, &cross).await;
        world.has_whole_chains().await;
        // The lower server opens its streams at the upper agent again.
        world.above = world.above.restart(&world.root).await;
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

impl World {
    async fn new(
        whose: &'static str,
        [upper, lower]: [&PathBuf; 2],
        programs: &Programs,
        cross: &Path,
    ) -> Self {
        let root = server(&programs.server, "").await;
        let above = Level::start(upper, &root, cross, &[]).await;
        let place = tempfile::tempdir().expect("a temporary folder");
        let program = linked(&programs.server, place.path(), "child-server");
        let selector = path_selector(&program);
        root.register_with("child-server", &above.parent, &selector, &["-downstream"]).await;
        let begun = Instant::now();
        let child = server(&program, &upstream(&root, &above.agent)).await;
        eprintln!("{whose}: the lower server is healthy after {:.1} s", begun.elapsed().as_secs_f64());
        let below = Level::start(lower, &child, cross, &[]).await;
        let pair = pair(&programs.envoy, (&root, &above), (&child, &below)).await;
        Self { whose, root, child, above, below, pair, _place: place }
    }

    /// Chains of the lower server have its own certificate, and end below the root, which both agents trust.
    async fn has_whole_chains(&self) {
        let above = intermediates(&self.above.agent, "spiffe://example.org/probe").await;
        let below = intermediates(&self.below.agent, "spiffe://example.org/probe").await;
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
                let at = |server| Change { whose, server, below: Some(&*child), federated: None };
                at(&*root).x509([&mut *above, &mut *below], &[&*pair]).await;
                at(&*root).jwt([&mut *above, &mut *below]).await;
                at(&*child).jwt([below, above]).await;
            })
            .await;
        let crossed = crossing.end().await;
        let (requests, seconds) = (figures.requests, figures.seconds);
        eprintln!("{whose}: {requests} requests in {seconds:.1} s, {} failed", figures.failures.len());
        eprintln!("{whose}: {crossed}");
        assert!(figures.failures.is_empty(), "{figures:?}");
        // With the real agent a client may still have a certificate of the old authority when that is revoked.
        assert!(!(above.is_finial && below.is_finial) || crossed["refused"] == 0, "{whose}");
        for (level, place, chain) in [(&above, 0, 1), (&below, 1, 2)] {
            let given = &crossed["agents"][place];
            assert_eq!((&given["chain"], &given["keys"]), (&chain.into(), &2.into()), "{whose}: {given}");
            level.is_quiet(whose);
        }
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
