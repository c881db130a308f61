//! An agent at the real server: it attests, attests again, and serves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::{Agent, Conf, x509_svid};
use proto::workload::X509svidResponse;
use tokio::time::Instant;

use super::super::ids;
use super::spire_server::SpireServer;

/// The agent attests, serves, is evicted, attests again in the same process, and serves a new entry.
pub(super) async fn attests_and_again(program: &Path, server: &SpireServer, conf: &Conf, path: &str) {
    let agent = start(program, conf);
    let id = evicted_and_served_again(&agent, server, path).await;
    assert_eq!(attested(&agent, server, path).await, id);
    assert_eq!(agent.stop().await.code, Some(0));
    server.evict(&id).await;
}

/// The agent attests, serves, is evicted, attests again in the same process, and serves a new entry. Returns its SPIFFE ID.
pub(super) async fn evicted_and_served_again(agent: &Agent, server: &SpireServer, path: &str) -> String {
    agent.wait_for_socket().await;
    let id = attested(agent, server, path).await;
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let name = id.rsplit('/').next().expect("a path").to_owned();
    server.register(&name, &id, &uid).await;
    served(agent, &format!("spiffe://example.org/{name}")).await;
    server.evict(&id).await;
    let late = format!("late-{name}");
    server.register(&late, &id, &uid).await;
    served(agent, &format!("spiffe://example.org/{late}")).await;
    id
}

/// Waits until the server has an agent with this text in its SPIFFE ID, and returns the ID.
pub(super) async fn attested(agent: &Agent, server: &SpireServer, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(id) = server.agents().await.into_iter().find(|id| id.contains(path)) {
            return id;
        }
        assert!(Instant::now() < deadline, "{}", agent.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until this SPIFFE ID is served, and returns the response. An agent may sync once a minute, and the server reads its
/// entries every five seconds.
pub(super) async fn served(agent: &Agent, id: &str) -> X509svidResponse {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let outcome = match x509_svid(&agent.socket()).await {
            Ok(mut stream) => stream.message().await,
            Err(status) => Err(status),
        };
        match outcome {
            Ok(Some(response)) if ids(&response).contains(&id) => return response,
            outcome => assert!(Instant::now() < deadline, "{outcome:?}\n{}", agent.log()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Starts this program in a folder of its own.
pub(super) fn start(program: &Path, conf: &Conf) -> Agent {
    Agent::start_program(program, conf, Arc::new(tempfile::tempdir().expect("a temporary folder")))
}
