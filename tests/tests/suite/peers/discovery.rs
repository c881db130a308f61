//! SPIRE's OIDC discovery provider, which shows the keys of the Workload API to verifiers outside of SPIFFE.

use std::path::{Path, PathBuf};

use dev::Options;
use harness::{get_at, jwt_bundles};
use libtest_mimic::Trial;
use serde_json::Value;
use tokio::process::Command;

use super::programs::{Program, following, pinned};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let program = pinned("oidc-discovery-provider");
    vec![trial_with("oidc_discovery_provider_shows_the_keys_and_their_rotation", program, keys)]
}

async fn keys(program: PathBuf) {
    let (server, agent) = following(Options::default()).await;
    let agent = agent.wait_for_socket().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (conf, socket) = (folder.path().join("provider.conf"), folder.path().join("http.sock"));
    let text = format!(
        "domains = [\"localhost\"]\nallow_insecure_scheme = true\nlisten_socket_path = \"{}\"\n\
         workload_api {{ socket_path = \"{}\" trust_domain = \"example.org\" poll_interval = \"100ms\" }}\n",
        socket.display(),
        agent.display()
    );
    std::fs::write(&conf, text).expect("written");
    let mut command = Command::new(program);
    let mut provider = Program::start("oidc-discovery-provider", command.arg("-config").arg(conf));
    provider.prints("Serving HTTP").await;

    let exactly = async || {
        let shown = shown(&socket, server.jwt_key_ids()).await;
        assert_eq!(shown, of_the_agent(&agent).await);
    };
    exactly().await;
    server.rotate_jwt_key();
    exactly().await;
    server.forget_old_jwt_keys();
    exactly().await;

    let document = get_at(&socket, "/.well-known/openid-configuration").await.expect("an answer").1;
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(document["jwks_uri"], "http://localhost/keys");
    assert!(provider.runs());
    assert!(!provider.log().contains("Failed to fetch"), "{}", provider.log());
}

/// Waits until the provider shows the keys with these IDs and no others. It does not say when it has news, so it is asked
/// until then.
async fn shown(socket: &Path, mut wanted: Vec<String>) -> Vec<Value> {
    wanted.sort();
    loop {
        // An error until it has fetched keys for the first time.
        let (status, body) = get_at(socket, "/keys").await.expect("an answer");
        if status == 200 {
            let mut keys = sorted(body.as_bytes());
            // The provider says which algorithm goes with a key.
            for key in keys.iter_mut().filter_map(Value::as_object_mut) {
                assert_eq!(key.remove("alg"), Some("ES256".into()));
            }
            if keys.iter().map(id).eq(&wanted) {
                return keys;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The keys of the own trust domain that the agent serves.
async fn of_the_agent(socket: &Path) -> Vec<Value> {
    let mut stream = jwt_bundles(socket).await.expect("bundles");
    let response = stream.message().await.expect("bundles").expect("a message");
    sorted(&response.bundles["spiffe://example.org"])
}

/// The keys of a set by their IDs, each with its ID.
fn sorted(set: &[u8]) -> Vec<Value> {
    let set: Value = serde_json::from_slice(set).expect("JSON");
    let mut keys = set["keys"].as_array().expect("a list").clone();
    keys.sort_by(|one, other| id(one).cmp(id(other)));
    keys
}

fn id(key: &Value) -> &str {
    key["kid"].as_str().expect("it has an ID")
}
