//! finial between the real server and real Envoys, and alternating with the real agent.
//!
//! `FINIAL_SOAK_SECONDS` is the duration of the soak test; the default is 20.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use harness::{
    Agent, Conf, Envoy, Sidecar, build_finial, envoy_program, needs, skipped, trial_within, x509_svid,
};
use libtest_mimic::Trial;
use proto::workload::X509svidResponse;
use tempfile::TempDir;
use tokio::time::Instant;

use super::super::ids;
use super::attesting::served;
use super::mesh::{BY_PATH, Mesh};
use super::spire_server::SpireServer;
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let server = needs("SPIRE_SERVER", "spire-server");
    let agent = needs("SPIRE_AGENT", "spire-agent");
    let both = server.clone().and_then(|server| Ok((server, agent.clone()?)));
    let soak_needs = server.and_then(|server| Ok((server, envoy_program()?)));
    let name = "real_spire_server_soak";
    let soak = match soak_needs {
        Ok((server, envoy)) => {
            let seconds = soak_seconds();
            trial_within(Duration::from_secs(seconds + 400), name, move || {
                soak(server, envoy, agent.ok(), seconds)
            })
        }
        Err(reason) => skipped(name, &reason),
    };
    let (server, real) = (needs("SPIRE_SERVER", "spire-server"), needs("SPIRE_AGENT", "spire-agent"));
    let both_agents = server.clone().and_then(|server| Ok((server, real?)));
    vec![
        soak,
        trial_with("join_token_against_the_real_server_restart", both, turns),
        trial_with("real_server_taints_and_revokes", both_agents, taints_and_revokes),
        trial_within_needs("real_server_closes_connections_every_few_minutes", server, closes_connections),
    ]
}

/// Like [`trial_with`], for tests that take minutes.
fn trial_within_needs<F, T>(name: &'static str, needed: Result<PathBuf, String>, test: T) -> Trial
where
    F: Future<Output = ()>,
    T: FnOnce(PathBuf) -> F + Send + 'static,
{
    match needed {
        Ok(program) => trial_within(Duration::from_mins(8), name, move || test(program)),
        Err(reason) => skipped(name, &reason),
    }
}

pub(super) fn soak_seconds() -> u64 {
    std::env::var("FINIAL_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(20)
}

async fn soak(server: PathBuf, envoy: PathBuf, real_agent: Option<PathBuf>, seconds: u64) {
    let server = SpireServer::start(&server).await;
    let (conf, id) = server.agent(BY_PATH).await;
    let agent = Agent::start(&conf);
    agent.wait_for_socket().await;
    let mesh = Mesh::new(&envoy, &agent);
    for name in ["frontend", "backend"] {
        server.register(name, &id, &mesh.selector(name)).await;
    }
    let pair = mesh.pair().await;
    let before = pair.handshakes().await;
    let limit = Duration::from_secs(seconds).as_secs_f64();
    let figures = pair.drive(|figures| figures.seconds >= limit).await;
    let after = pair.handshakes().await;
    let handshakes = [after[0] - before[0], after[1] - before[1]];
    let [frontend, backend] = figures.serials.each_ref().map(std::collections::BTreeSet::len);
    let (requests, failed) = (figures.requests, figures.failures.len());
    eprintln!("soak: {requests} requests in {:.1} s, {failed} failed", figures.seconds);
    eprintln!("soak: handshakes {} (frontend), {} (backend)", handshakes[0], handshakes[1]);
    eprintln!("soak: serials {frontend} (frontend), {backend} (backend)");
    for line in pair.connected_once().await {
        eprintln!("soak: {line}");
    }
    assert!(figures.failures.is_empty(), "{figures:?}\n{}", agent.log());
    assert!(handshakes.iter().all(|count| *count >= requests), "{handshakes:?} {figures:?}");
    assert!(requests as f64 >= 20.0 * limit, "{requests} in {limit} s");
    assert!(seconds < 150 || figures.serials_of_each() >= 3, "{figures:?}");
    let took = late_registration(&server, &mesh, &id).await;
    eprintln!("late registration: {took:.1} s with finial");
    drop((pair, agent));
    if let Some(real) = real_agent {
        let (conf, id) = server.agent(BY_PATH).await;
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let agent = Agent::start_program(&real, &conf, folder);
        agent.wait_for_socket().await;
        let took = late_registration(&server, &Mesh::new(&envoy, &agent), &id).await;
        eprintln!("late registration: {took:.1} s with the real agent");
    }
}

/// The seconds from the registration to the certificate, in an Envoy that has been waiting for it.
async fn late_registration(server: &SpireServer, mesh: &Mesh, parent: &str) -> f64 {
    let sidecar = Sidecar { callers: &["frontend"], impatient: true, ..mesh.sidecar("late") };
    let envoy: Envoy = mesh.start(sidecar).await;
    envoy.port().await;
    assert!(envoy.certificates().await.own.is_empty());
    server.register("late", parent, &mesh.selector("late")).await;
    let registered = Instant::now();
    envoy.serial("spiffe://example.org/late").await;
    registered.elapsed().as_secs_f64()
}

/// An authority is prepared, activated, tainted and revoked, as after a compromise. Runs with each agent.
async fn taints_and_revokes((server, real): (PathBuf, PathBuf)) {
    for program in [build_finial(), real] {
        let server = SpireServer::start(&server).await;
        let (conf, id) = server.agent("").await;
        server.register("web", &id, &format!("unix:uid:{}", nix::unistd::getuid())).await;
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let agent = Agent::start_program(&program, &conf, folder);
        agent.wait_for_socket().await;
        let first = served(&agent, "spiffe://example.org/web").await;
        let old = server.authority("active").await;
        server.order(&["prepare"]).await;
        let new = server.authority("prepared").await;
        server.order(&["activate", "-authorityID", &new]).await;
        server.order(&["taint", "-authorityID", &old]).await;
        // finial spreads replacements over six sync intervals, half a minute.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let now = served(&agent, "spiffe://example.org/web").await;
            if now.svids[0].x509_svid != first.svids[0].x509_svid {
                break;
            }
            assert!(Instant::now() < deadline, "{}", agent.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while !agent.log().contains("Successfully rotated agent SVID") {
            assert!(Instant::now() < deadline, "{}", agent.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server.order(&["revoke", "-authorityID", &old]).await;
        // The agent still works: a new entry is served.
        server.register("late", &id, &format!("unix:uid:{}", nix::unistd::getuid())).await;
        served(&agent, "spiffe://example.org/late").await;
        assert_eq!(complaints(&agent), "");
    }
}

/// The log lines that would worry an operator, without those that a test causes by calling before its registration, and
/// without what the real agent says of an Envoy whose answer has crossed the next push.
pub(super) fn complaints(agent: &Agent) -> String {
    let log = agent.log();
    let failed = |line: &&str| line.contains("level=error") || line.contains("level=warning");
    let harmless = |line: &str| HARMLESS.iter().any(|text| line.contains(text));
    log.lines().filter(failed).filter(|line| !harmless(line)).collect::<Vec<_>>().join("\n")
}

const HARMLESS: [&str; 7] = [
    // Of the lines that the test causes.
    "Lines of the log about one caller group were left out",
    // It is, when the authority that it has is revoked.
    "The trust bundle file is stale",
    "Experimental features have been enabled",
    "No identity issued",
    "is too permissive; setting umask",
    "workload is not authorized for the requested identities",
    "Received unexpected nonce; ignoring request",
];

/// The server closes each connection after three minutes. SVIDs of a minute are rotated meanwhile, and no log line
/// reports a failure.
async fn closes_connections(server: PathBuf) {
    let server = SpireServer::start(&server).await;
    let (conf, id) = server.agent("").await;
    server.register("web", &id, &format!("unix:uid:{}", nix::unistd::getuid())).await;
    let agent = Agent::start(&conf);
    let socket = agent.wait_for_socket().await;
    served(&agent, "spiffe://example.org/web").await;
    let begun = Instant::now();
    let mut svids = x509_svid(&socket).await.expect("served");
    // Each message is a rotation, half a minute after the last one.
    while begun.elapsed() < Duration::from_secs(230) {
        svids.message().await.expect("served").expect("a message");
    }
    assert_eq!(complaints(&agent), "");
}

async fn turns((server, real): (PathBuf, PathBuf)) {
    let server = SpireServer::start(&server).await;
    let finial = build_finial();
    let first = in_turn(&server, [&finial, &finial, &real, &finial]).await;
    assert_eq!(server.agents().await, [&*first]);
    assert_eq!(server.logged("method=AttestAgent"), 1, "{}", server.log());
    let second = in_turn(&server, [&real, &finial, &real]).await;
    let mut agents = server.agents().await;
    agents.sort();
    let mut expected = [first, second];
    expected.sort();
    assert_eq!(agents, expected);
    assert_eq!(server.logged("method=AttestAgent"), 2, "{}", server.log());
}

/// Runs the programs one after the other on the same data. Returns the agent's SPIFFE ID.
async fn in_turn<const N: usize>(server: &SpireServer, programs: [&PathBuf; N]) -> String {
    let (mut conf, id) = server.agent("").await;
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    server.register("web", &id, &uid).await;
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    for program in programs {
        serve_once(program, &conf, &folder).await;
        conf.join_token = None;
    }
    id
}

async fn first_response(socket: &Path) -> Result<X509svidResponse, tonic::Status> {
    let message = x509_svid(socket).await?.message().await?;
    message.ok_or_else(|| tonic::Status::unavailable("the stream ended"))
}

async fn serve_once(program: &Path, conf: &Conf, folder: &Arc<TempDir>) {
    let agent = Agent::start_program(program, conf, Arc::clone(folder));
    let socket = agent.wait_for_socket().await;
    let deadline = Instant::now() + Duration::from_secs(60);
    // Agents see new entries of the server after some seconds. Until then nobody is served.
    let response = loop {
        match first_response(&socket).await {
            Ok(response) => break response,
            Err(status) => assert!(Instant::now() < deadline, "{status}\n{}", agent.log()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(ids(&response), ["spiffe://example.org/web"], "{}", agent.log());
    let exit = agent.stop().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
}
