//! Two trust domains, each with its real server and its agent, whose servers fetch each other's bundles (`https_spiffe`).
//! Runs with finial as both agents, and with the real agent as both, which is the oracle. `unusual` has foreign bundles that
//! lack something or have it twice.

mod unusual;

use std::path::Path;

use futures_util::future::join_all;
use harness::{Sidecar, build_finial};
use libtest_mimic::Trial;

use super::attesting::served;
use super::crossing::Crossing;
use super::followed::Followed;
use super::levels::{Change, Level, Programs};
use super::mesh::{Mesh, Pair, this_program};
use super::spire_server::{Options, SpireServer, free_port};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial_with("real_server_federation_follows_foreign_authorities", Programs::found(), replacements),
        trial_with("real_server_federation_ends_and_begins_again", Programs::found(), withdrawals),
        trial_with("real_server_federation_gives_unusual_bundles_alike", Programs::found(), unusual::alike),
    ]
}

/// One of the authorities of the west is replaced after the other, while each domain validates what the other gives.
async fn replacements(programs: Programs) {
    with_both(programs, async |world, cross| {
        let crossing = Crossing::start(cross, &[&world.east.level.agent, &world.west.level.agent]).await;
        let World { whose, east, west, named, all } = world;
        let change = Change { whose, server: &west.server, below: &[], federated: Some(&east.server) };
        let (by_name, (by_all, ())) = named
            .drive_during(async || {
                all.drive_during(async || {
                    change.x509(&mut [&mut west.level, &mut east.level], &[named, all]).await;
                    change.jwt(&mut [&mut west.level, &mut east.level]).await;
                })
                .await
            })
            .await;
        let crossed = crossing.end().await;
        for (figures, secret) in [(by_name, "the domain's name"), (by_all, "ALL")] {
            let (requests, failed) = (figures.requests, figures.failures.len());
            eprintln!(
                "{whose}, by {secret}: {requests} requests in {:.1} s, {failed} failed",
                figures.seconds
            );
            assert!(figures.failures.is_empty(), "{figures:?}");
        }
        eprintln!("{whose}: {crossed}");
        // Without an SVID that is not tainted, the real agent has no keys of others to validate by.
        assert!(*whose != "finial" || crossed["refused"] == 0, "{crossed}");
        assert_eq!((&crossed["agents"][0]["keys"], &crossed["agents"][1]["keys"]), (&1.into(), &2.into()));
    })
    .await;
}

/// The east no longer federates with the west, and does so again, on streams that stay open.
async fn withdrawals(programs: Programs) {
    with_both(programs, async |world, cross| {
        let World { whose, east, west, named, all } = world;
        east.level.followed.until("the other domain", |seen| seen.has_all_of(WEST)).await;
        assert_eq!([named.request().await, all.request().await], [Ok(200), Ok(200)]);
        east.server.forget(WEST).await;
        east.level.followed.until("nothing of the other domain", |seen| seen.has_none_of(WEST)).await;
        answers(all, 503).await;
        // An Envoy keeps a secret that it is no longer given.
        assert_eq!(named.request().await, Ok(200), "{whose}");
        east.server.federate(&west.server, west.port).await;
        east.gives_no_bundle_without_an_entry().await;
        east.server.federate_all(WEST).await;
        east.level.followed.until("the other domain again", |seen| seen.has_all_of(WEST)).await;
        answers(all, 200).await;
        // Also by what the client follows, and by ValidateJWTSVID.
        let crossing = Crossing::start(cross, &[&east.level.agent, &west.level.agent]).await;
        // The Envoy that was given nothing for a while hears of the next authority.
        let change = Change { whose, server: &west.server, below: &[], federated: Some(&east.server) };
        change.x509(&mut [&mut west.level, &mut east.level], &[named, all]).await;
        answers(named, 200).await;
        answers(all, 200).await;
        let crossed = crossing.end().await;
        eprintln!("{whose}: {crossed}");
        assert!(*whose != "finial" || crossed["refused"] == 0, "{crossed}");
        for pair in [named, all] {
            assert_eq!(pair.frontend.stat(CONNECTIONS).await, 1, "{whose}");
        }
    })
    .await;
}

/// Waits until a request has this status.
async fn answers(pair: &Pair, status: u16) {
    let answered = async || (pair.request().await == Ok(status)).then_some(());
    pair.frontend.until(&format!("answers {status}"), answered).await;
}

/// Runs a test with finial and with the real agent.
async fn with_both(programs: Programs, test: impl AsyncFn(&mut World, &Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cross = programs.build_cross(folder.path()).await;
    let (finial, test) = (build_finial(), &test);
    let agents = [("finial", &finial), ("spire-agent", &programs.agent)];
    join_all(agents.map(async |(whose, agent)| {
        let mut world = World::new(whose, agent, &programs, &cross).await;
        test(&mut world, &cross).await;
        for domain in [&world.east, &world.west] {
            domain.level.is_quiet(whose);
        }
    }))
    .await;
}

/// Both trust domains. The frontends are in the east, the backends in the west.
struct World {
    whose: &'static str,
    east: Domain,
    west: Domain,
    /// Two Envoys that ask for the authorities of each other's trust domain by its name.
    named: Pair,
    /// Two Envoys that ask for those of all trust domains.
    all: Pair,
}

/// A trust domain.
struct Domain {
    server: SpireServer,
    /// The port at which the server gives its bundle.
    port: u16,
    level: Level,
}

impl World {
    async fn new(whose: &'static str, agent: &Path, programs: &Programs, cross: &Path) -> Self {
        let (east, west) = (server(programs, "east.test").await, server(programs, "west.test").await);
        east.0.federate(&west.0, west.1).await;
        west.0.federate(&east.0, east.1).await;
        let east = Domain::new(east, agent, cross, WEST).await;
        let west = Domain::new(west, agent, cross, EAST).await;
        let meshes = [("east.test", &east), ("west.test", &west)]
            .map(|(name, domain)| Mesh::of(name, &programs.envoy, &domain.level.agent));
        let named = pair([&east, &west], &meshes, ["frontend", "backend"], None).await;
        let all = pair([&east, &west], &meshes, ["frontend-all", "backend-all"], Some("ALL")).await;
        Self { whose, east, west, named, all }
    }
}

impl Domain {
    async fn new((server, port): (SpireServer, u16), agent: &Path, cross: &Path, foreign: &str) -> Self {
        let level = Level::start(agent, &server, cross, &["-federatesWith", foreign]).await;
        Self { server, port, level }
    }

    /// The server has the bundle of the other domain again, but no entry federates with it.
    async fn gives_no_bundle_without_an_entry(&self) {
        let Self { server, level, .. } = self;
        server.register("later", &level.parent, &this_program()).await;
        served(&level.agent, &server.id("later")).await;
        let now = Followed::open(&level.agent, &server.id("probe")).await;
        assert!(now.seen().has_none_of(WEST));
    }
}

/// A server that gives its bundle to others, and the port at which it does.
async fn server(programs: &Programs, trust_domain: &str) -> (SpireServer, u16) {
    let port = free_port();
    let endpoint = format!(
        "federation {{ bundle_endpoint {{ address = \"127.0.0.1\" port = {port} profile \"https_spiffe\" {{}} }} }}"
    );
    let options = Options { trust_domain, server: &endpoint, cache: Some("1s"), ..Options::default() };
    (SpireServer::start_of(&programs.server, &options).await, port)
}

/// A frontend of the first domain that calls a backend of the second.
async fn pair(
    domains: [&Domain; 2],
    meshes: &[Mesh; 2],
    names: [&str; 2],
    authorities: Option<&str>,
) -> Pair {
    let foreign = [WEST, EAST];
    for place in 0..2 {
        let Domain { server, level, .. } = domains[place];
        let flags = ["-federatesWith", foreign[place]];
        server
            .register_with(names[place], &level.parent, &meshes[place].selector(names[place]), &flags)
            .await;
    }
    let sidecar = |place: usize| Sidecar {
        foreign: foreign[place].strip_prefix("spiffe://"),
        authorities,
        ..meshes[place].sidecar(names[place])
    };
    let backend = meshes[1].start(Sidecar { callers: &[names[0]], ..sidecar(1) }).await;
    let upstream = Some((names[1], backend.port().await));
    let frontend = meshes[0].start(Sidecar { upstream, ..sidecar(0) }).await;
    let ids = [domains[0].server.id(names[0]), domains[1].server.id(names[1])];
    Pair::new([frontend, backend], [&ids[0], &ids[1]]).await
}

/// Envoy's counter of its connections to the agent.
const CONNECTIONS: &str = "cluster.static_cluster_sds_unix_socket.upstream_cx_total";
const EAST: &str = "spiffe://east.test";
const WEST: &str = "spiffe://west.test";
