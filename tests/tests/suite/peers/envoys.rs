//! Envoys that use mTLS with the secrets that they get by SDS.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dev::{Entry, Options, Server};
use harness::{Agent, Asks, Conf, Envoy, Sidecar, envoy_program};
use libtest_mimic::Trial;
use tokio::time::Instant;

use super::super::server_with;
use super::mesh::{BACKEND, BY_PATH, FRONTEND, Mesh, Pair};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let envoy = envoy_program();
    vec![
        trial_with("envoys_in_mtls_over_sds", envoy.clone(), mtls),
        trial_with("a_stranger_gets_503", envoy.clone(), stranger),
        trial_with("envoy_gets_its_secret_after_late_registration", envoy.clone(), |envoy| {
            late(envoy, Asks::ByName)
        }),
        trial_with("envoy_google_grpc_gets_its_secrets", envoy.clone(), |envoy| {
            late(envoy, Asks::ByGoogleGrpc)
        }),
        trial_with("envoy_delta_grpc_gets_its_secrets", envoy.clone(), |envoy| late(envoy, Asks::ByDelta)),
        trial_with("envoys_with_the_names_of_istio", envoy.clone(), istio),
        trial_with("envoys_by_delta_over_rotations_and_restarts", envoy.clone(), delta),
        trial_with("envoy_survives_agent_restart", envoy, restart),
    ]
}

async fn mtls(envoy: PathBuf) {
    let world = World::new(&envoy, 16).await;
    world.register("frontend");
    world.register("backend");
    let pair = world.mesh.pair().await;
    let before = pair.handshakes().await;
    let figures = pair.drive(|figures| figures.serials_of_each() >= 3).await;
    assert!(figures.failures.is_empty(), "{figures:?}");
    let after = pair.handshakes().await;
    for side in 0..2 {
        assert!(after[side] - before[side] >= figures.requests, "{before:?} {after:?} {figures:?}");
    }
    pair.connected_once().await;
    for (envoy, id) in [(&pair.frontend, FRONTEND), (&pair.backend, BACKEND)] {
        let certificates = envoy.certificates().await;
        assert!(certificates.own.iter().all(|(uri, _)| uri == id), "{certificates:?}");
        assert!(certificates.authorities.iter().all(|uri| uri == "spiffe://example.org"), "{certificates:?}");
        assert!(!certificates.own.is_empty() && !certificates.authorities.is_empty(), "{certificates:?}");
    }
}

async fn stranger(envoy: PathBuf) {
    let world = World::new(&envoy, 3600).await;
    world.register("backend");
    world.register("stranger");
    let backend = world.mesh.backend("frontend").await;
    let upstream = Some(("backend", backend.port().await));
    let stranger = world.mesh.start(Sidecar { upstream, ..world.mesh.sidecar("stranger") }).await;
    let port = stranger.port().await;
    stranger.serial("spiffe://example.org/stranger").await;
    backend.serial(BACKEND).await;
    assert_eq!(Envoy::request(port).await, Ok(503));
    let refused = async || (backend.stat("listener.in.ssl.fail_verify_san").await > 0).then_some(());
    backend.until("has refused the name", refused).await;
    assert_eq!(backend.stat("http.in.downstream_rq_total").await, 0);
}

/// An unregistered Envoy has no certificate and its calls fail. Both change with its registration, without a restart.
async fn late(envoy: PathBuf, asks: Asks) {
    let world = World::new(&envoy, 3600).await;
    world.register("backend");
    let sidecar = |name| Sidecar { asks, ..world.mesh.sidecar(name) };
    let backend = world.mesh.start(Sidecar { callers: &["frontend"], ..sidecar("backend") }).await;
    let upstream = Some(("backend", backend.port().await));
    backend.serial(BACKEND).await;
    let frontend = Sidecar { upstream, impatient: true, ..sidecar("frontend") };
    let frontend = world.mesh.start(frontend).await;
    let port = frontend.port().await;
    assert!(frontend.certificates().await.own.is_empty());
    assert_eq!(Envoy::request(port).await, Ok(503));
    let registered = Instant::now();
    world.register("frontend");
    frontend.serial(FRONTEND).await;
    eprintln!("in use {:.2} s after registration", registered.elapsed().as_secs_f64());
    let works = async || (Envoy::request(port).await == Ok(200)).then_some(());
    frontend.until("has its calls answered", works).await;
}

async fn restart(envoy: PathBuf) {
    let world = World::new(&envoy, 30).await;
    world.register("frontend");
    world.register("backend");
    let pair = world.mesh.pair().await;
    let world = world.restarted_under(&pair).await;
    // One serial that it had or gets when its stream is open again, and one more on that stream.
    let after = pair.drive(|figures| figures.serials_of_each() >= 3).await;
    assert!(after.failures.is_empty(), "{after:?}");
    pair.connected_once().await;
    assert_eq!(world.server.counters().attest_calls, 1);
}

/// Istio's names for the certificate, for the mesh's roots and for the host's.
async fn istio(envoy: PathBuf) {
    for roots in ["ROOTCA", "file-root:system"] {
        let world = World::new(&envoy, 16).await;
        world.register("frontend");
        world.register("backend");
        let (certificate, authorities) = (Some("default"), Some(roots));
        let pair = world.mesh.pair_of(|sidecar| Sidecar { certificate, authorities, ..sidecar }).await;
        let figures = pair.drive(|figures| figures.serials_of_each() >= 3).await;
        assert!(figures.failures.is_empty(), "{roots}: {figures:?}");
    }
}

/// Rotations, a restart of the agent, and the removal of an entry, which Envoy acknowledges and survives.
async fn delta(envoy: PathBuf) {
    let world = World::new(&envoy, 16).await;
    let frontend = world.register("frontend");
    world.register("backend");
    let pair = world.mesh.pair_of(|sidecar| Sidecar { asks: Asks::ByDelta, ..sidecar }).await;
    let figures = pair.drive(|figures| figures.serials_of_each() >= 3).await;
    assert!(figures.failures.is_empty(), "{figures:?}");
    let world = world.restarted_under(&pair).await;
    let after = pair.drive(|figures| figures.serials_of_each() >= 3).await;
    assert!(after.failures.is_empty(), "{after:?}");
    pair.connected_once().await;
    let stat = |name| format!("sds.{}.{name}", FRONTEND.replace("://", "_"));
    let before = pair.frontend.stat(&stat("update_success")).await;
    let had = pair.frontend.serial(FRONTEND).await;
    world.server.delete_entry(&frontend);
    let removed = async || (pair.frontend.stat(&stat("update_success")).await > before).then_some(());
    pair.frontend.until("has heard of the removal", removed).await;
    assert_eq!(pair.frontend.serial(FRONTEND).await, had, "Envoy keeps what it has");
    world.register("frontend");
    let renewed = async || (pair.frontend.serial(FRONTEND).await != had).then_some(());
    pair.frontend.until("has a certificate of the new entry", renewed).await;
    for envoy in [&pair.frontend, &pair.backend] {
        for name in [FRONTEND, BACKEND, "spiffe://example.org"] {
            let rejected = format!("sds.{}.update_rejected", name.replace("://", "_"));
            assert_eq!(envoy.stat(&rejected).await, 0, "{name}");
        }
    }
}

/// A server, an agent and a mesh.
struct World {
    server: Server,
    conf: Conf,
    parent: String,
    agent: Agent,
    mesh: Mesh,
}

impl World {
    async fn new(envoy: &std::path::Path, svid_seconds: u64) -> Self {
        let svid_ttl = Duration::from_secs(svid_seconds);
        let server = server_with(Options { svid_ttl, ..Options::default() }).await;
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let conf = Conf {
            disk_keys: true,
            // The host trusts the authority of the server.
            environment: vec![("SSL_CERT_FILE", folder.path().join("bundle"))],
            workload_attestors: harness::unix_attestor(BY_PATH),
            agent: "experimental { sync_interval = \"500ms\" }".into(),
            ..Conf::join_token(&server)
        };
        let parent = server.join_token_agent_id(conf.join_token.as_deref().unwrap_or_default());
        let agent = Agent::start_in(&conf, folder);
        agent.wait_for_socket().await;
        let mesh = Mesh::new(envoy, &agent);
        Self { server, conf, parent, agent, mesh }
    }

    fn register(&self, name: &str) -> String {
        let entry =
            Entry::new(format!("spiffe://example.org/{name}"), &*self.parent, [&*self.mesh.selector(name)]);
        self.server.create_entry(entry)
    }

    /// Restarts the agent while requests go through both Envoys, none of which fails.
    async fn restarted_under(self, pair: &Pair) -> Self {
        let Self { server, mut conf, parent, agent, mesh } = self;
        conf.join_token = None;
        let over = Cell::new(false);
        let restart = async {
            let folder = agent.folder();
            assert_eq!(agent.stop().await.code, Some(0));
            let agent = Agent::start_in(&conf, folder);
            agent.wait_for_socket().await;
            over.set(true);
            agent
        };
        let (through, agent) = tokio::join!(pair.drive(|_| over.get()), restart);
        assert!(through.failures.is_empty(), "{through:?}");
        Self { server, conf, parent, agent, mesh }
    }
}
