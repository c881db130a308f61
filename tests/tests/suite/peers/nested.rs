//! A SPIRE server below another one (UpstreamAuthority `spire`), which gets its own authority and its parent's bundle with
//! the identity that an agent gives it, and a third one below that. Workloads under all of them talk while authorities are
//! replaced. Runs with finial as every agent, below the real agent, and with the real agent as every one.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use harness::{Agent, Sidecar, build_finial};
use libtest_mimic::Trial;
use tempfile::TempDir;

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
        ("finial at three servers", vec![finial; 3]),
        ("spire-agent above finial", vec![real, finial]),
        ("spire-agent at three servers", vec![real; 3]),
    ];
    join_all(worlds.map(async |(whose, agents)| {
        let mut world = World::new(whose, &agents, &programs, &cross).await;
        world.has_whole_chains().await;
        // The server below it opens its streams there again.
        let first = world.levels.remove(0);
        world.levels.insert(0, first.restart(&world.servers[0]).await);
        world.replaces_the_root(&cross).await;
    }))
    .await;
}

/// Servers, each below the one before, and an agent of each.
struct World {
    whose: &'static str,
    servers: Vec<SpireServer>,
    levels: Vec<Level>,
    /// The frontend is at the lowest server, the backend at the root.
    pair: Pair,
    /// The folder of the lower servers' programs.
    _place: TempDir,
}

impl World {
    async fn new(whose: &'static str, agents: &[&PathBuf], programs: &Programs, cross: &Path) -> Self {
        let place = tempfile::tempdir().expect("a temporary folder");
        let (mut servers, mut levels) = (Vec::<SpireServer>::new(), Vec::<Level>::new());
        for (depth, agent) in agents.iter().enumerate() {
            let server = match (servers.last(), levels.last()) {
                (Some(above), Some(level)) => {
                    let program = linked(&programs.server, place.path(), &format!("server-{depth}"));
                    let (parent, selector) = (&level.parent, path_selector(&program));
                    let name = format!("server-{depth}");
                    above.register_with(&name, parent, &selector, &["-downstream"]).await;
                    server(&program, &upstream(above, &level.agent)).await
                }
                _ => server(&programs.server, "").await,
            };
            levels.push(Level::start(agent, &server, cross, &[]).await);
            servers.push(server);
        }
        let ends = [0, agents.len() - 1].map(|place| (&servers[place], &levels[place]));
        let pair = pair(&programs.envoy, ends).await;
        Self { whose, servers, levels, pair, _place: place }
    }

    /// Chains have the certificate of each server but the root, which all agents trust.
    async fn has_whole_chains(&self) {
        for (depth, level) in self.levels.iter().enumerate() {
            let intermediates = intermediates(&level.agent, "spiffe://example.org/probe").await;
            assert_eq!(intermediates.len(), depth);
            let roots = &level.followed.seen().x509;
            assert_eq!(roots, &self.levels[0].followed.seen().x509);
            assert!(intermediates.iter().all(|one| !roots[DOMAIN].contains(one)));
        }
    }

    /// Replaces the authorities of the root, and the JWT authority of the lowest server, while Envoys talk, and a client
    /// follows all agents.
    async fn replaces_the_root(&mut self, cross: &Path) {
        let Self { whose, servers, levels, pair, .. } = self;
        let agents: Vec<&Agent> = levels.iter().map(|level| &level.agent).collect();
        let crossing = Crossing::start(cross, &agents).await;
        let (root, lowest) = (&servers[0], servers.len() - 1);
        let (figures, ()) = pair
            .drive_during(async || {
                let mut levels: Vec<&mut Level> = levels.iter_mut().collect();
                let at_root = Change { whose, server: root, below: &servers[1..], federated: None };
                at_root.x509(&mut levels, &[&*pair]).await;
                at_root.jwt(&mut levels).await;
                levels.reverse();
                let below = &servers[lowest..];
                let at_lowest = Change { whose, server: &below[0], below, federated: None };
                at_lowest.jwt(&mut levels).await;
            })
            .await;
        let crossed = crossing.end().await;
        let (requests, seconds) = (figures.requests, figures.seconds);
        eprintln!("{whose}: {requests} requests in {seconds:.1} s, {} failed", figures.failures.len());
        eprintln!("{whose}: {crossed}");
        assert!(figures.failures.is_empty(), "{figures:?}");
        // With the real agent a client may still have a certificate of the old authority when that is revoked.
        let finial_only = levels.iter().all(|level| level.is_finial);
        assert!(!finial_only || crossed["refused"] == 0, "{whose}");
        for (depth, level) in levels.iter().enumerate() {
            let given = &crossed["agents"][depth];
            assert_eq!(given["chain"], depth + 1, "{whose}: {given}");
            let keys = if depth == 0 || depth == lowest { 2 } else { 1 };
            assert_eq!(given["keys"], keys, "{whose}: {given}");
            level.is_quiet(whose);
        }
    }
}

/// A backend at the first server, and a frontend at the second that calls it.
async fn pair(envoy: &Path, [above, below]: [(&SpireServer, &Level); 2]) -> Pair {
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

/// The plugin of a server below another one, whose agent this is.
fn upstream(above: &SpireServer, agent: &Agent) -> String {
    let (address, socket) = (above.address(), agent.socket());
    format!(
        "UpstreamAuthority \"spire\" {{ plugin_data {{ server_address = \"{}\" server_port = \"{}\" \
         workload_api_socket = \"{}\" }} }}",
        address.ip(),
        address.port(),
        socket.display()
    )
}

const DOMAIN: &str = "spiffe://example.org";
