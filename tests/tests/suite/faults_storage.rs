//! Files that are missing, empty, garbage, or cannot be written.

use std::sync::Arc;

use dev::Server;
use harness::{Agent, Conf, Exit, trial, x509_svid};
use libtest_mimic::Trial;

use super::{ids, register, server};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a_bundle_file_that_is_missing_empty_or_garbage_is_read_anew", bundle_file),
        trial("a_token_file_that_is_missing_or_empty_is_read_anew", token_file),
        trial("an_empty_join_token_file_is_named", empty_join_token_file),
        trial("a_corrupt_key_file_is_named_and_kept", corrupt_key_file),
        trial("a_corrupt_agent_data_file_is_kept_aside", corrupt_agent_data),
        trial("a_full_disk_does_not_stop_the_agent", full_disk),
        trial("what_stands_in_the_socket_s_place_is_waited_out", socket_in_the_way),
        trial("all_errors_of_a_configuration_at_once", all_errors_at_once),
    ]
}

/// Starts an agent with a bad file, waits for its log line, repairs the file, and waits until the agent is ready.
async fn mended(server: &Server, conf: &Conf, file: &str, bad: &[Option<&str>], good: &str, complaint: &str) {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    if let Some(content) = bad[0] {
        std::fs::write(folder.path().join(file), content).expect("written");
    }
    let mut agent = Agent::start_in(conf, folder);
    for (place, content) in bad.iter().enumerate() {
        if let (true, Some(content)) = (place > 0, content) {
            std::fs::write(agent.path(file), content).expect("written");
        }
        let line = agent.logged_times("Failed to retrieve attestation result", place + 1).await;
        assert!(line.contains(file) && line.contains(complaint), "{line}");
    }
    assert_eq!(server.counters().attested, 0);
    std::fs::write(agent.path(file), good).expect("written");
    agent.logged("Agent is ready").await;
}

async fn bundle_file() {
    let server = server().await;
    let conf = Conf { bundle: None, ..Conf::join_token(&server) };
    let bad = [None, Some(""), Some("-----BEGIN RUBBISH-----\n-----END RUBBISH-----\n")];
    mended(&server, &conf, "bundle", &bad, &server.bundle_pem(), "trust_bundle_path").await;
}

async fn token_file() {
    let server = server().await;
    let mut conf = Conf::psat(&server);
    let token = conf.psat.as_mut().and_then(|(_, token)| token.take()).unwrap_or_default();
    mended(&server, &conf, "token", &[None, Some("")], &token, "unable to load token").await;
}

async fn failed(conf: &Conf, file: &str, content: &str) -> (Exit, Arc<tempfile::TempDir>) {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let path = folder.path().join(file);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(&path, content).expect("written");
    let exit = Agent::start_in(conf, Arc::clone(&folder)).exited().await;
    assert_eq!(exit.code, Some(1));
    (exit, folder)
}

async fn empty_join_token_file() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("join-token");
    std::fs::write(&file, " \n").expect("written");
    let agent = format!("join_token_file = \"{}\"", file.display());
    let (exit, _) =
        failed(&Conf { agent, join_token: None, ..Conf::join_token(&server) }, "unused", "").await;
    assert!(exit.log.contains("join") && exit.log.contains("empty"), "{}", exit.log);
}

async fn corrupt_key_file() {
    let server = server().await;
    let conf = Conf { disk_keys: true, ..Conf::join_token(&server) };
    let (exit, folder) = failed(&conf, "keys/keys.json", "{\"keys\":").await;
    assert!(exit.log.contains("keys.json") && exit.log.contains("move it away"), "{}", exit.log);
    assert_eq!(std::fs::read_to_string(folder.path().join("keys/keys.json")).expect("kept"), "{\"keys\":");
}

async fn corrupt_agent_data() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    std::fs::create_dir(folder.path().join("data")).expect("made");
    std::fs::write(folder.path().join("data/agent-data.json"), "{\"svid\":[\"AAAA\"]}").expect("written");
    let mut agent = Agent::start_in(&conf, folder);
    let line = agent.logged("agent-data.json is corrupt").await;
    assert!(line.contains("agent-data.json.corrupt"), "{line}");
    agent.logged("Agent is ready").await;
    let aside = std::fs::read_to_string(agent.path("data/agent-data.json.corrupt"));
    assert_eq!(aside.expect("kept aside"), "{\"svid\":[\"AAAA\"]}");
}

/// The data is written to /dev/full, where every write fails as on a full disk.
async fn full_disk() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("made");
    std::os::unix::fs::symlink("/dev/full", data.join("agent-data.json.tmp")).expect("linked");
    let mut agent = Agent::start_in(&conf, folder);
    let line = agent.logged("Failed to store agent data").await;
    assert!(line.contains("No space left on device"), "{line}");
    let mut stream = x509_svid(&agent.socket()).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
}

/// The agent runs without its socket, logs the reason once, and serves when the operator has removed the obstacle.
async fn socket_in_the_way() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    std::fs::write(folder.path().join("api.sock"), "precious").expect("written");
    let mut agent = Agent::start_in(&conf, folder);
    let line = agent.logged("The public socket cannot be opened").await;
    assert!(line.contains("api.sock is a regular file: move it away"), "{line}");
    agent.logged("Agent is ready").await;
    assert_eq!(std::fs::read_to_string(agent.socket()).expect("left alone"), "precious");
    std::fs::remove_file(agent.socket()).expect("removed");
    agent.logged("The public socket can be opened now").await;
    assert!(harness::health(&agent.wait_for_socket().await).await);
}

async fn all_errors_at_once() {
    let server = server().await;
    let agent = "rebootstrap_mode = \"sometimes\"\n log_level = \"loud\"\n availability_target = \"1h\"";
    let conf = Conf { agent: agent.into(), ..Conf::join_token(&server) };
    let exit = Agent::start(&conf).exited().await;
    assert_eq!(exit.code, Some(1));
    for word in ["sometimes", "loud", "availability_target"] {
        assert!(exit.log.contains(word), "{word}: {}", exit.log);
    }
}
