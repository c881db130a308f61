//! SIGUSR1: plugins are configured anew, and metrics in memory are told.

use std::process::Stdio;

use harness::{Agent, Conf, build_finial, trial};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Command;

use super::server;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("sigusr1_configures_plugins_anew", plugins),
        trial("sigusr1_tells_the_metrics_of_the_last_hour", metrics),
    ]
}

async fn plugins() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, admin) = (folder.path().join("unix.conf"), folder.path().join("admin.sock"));
    std::fs::write(&data, "discover_workload_path = false").expect("written");
    let conf = Conf {
        agent: format!("admin_socket_path = \"{}\"", admin.display()),
        workload_attestors: format!(
            "WorkloadAttestor \"unix\" {{ plugin_data_file = \"{}\" }}",
            data.display()
        ),
        ..Conf::join_token(&server)
    };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let pid = Pid::from_raw(agent.pid());
    let has_path = async || {
        let mut asking = Command::new(build_finial());
        asking
            .args(["explain", "-output", "json", "-socketPath"])
            .arg(&admin)
            .arg(std::process::id().to_string());
        let output = asking.stderr(Stdio::inherit()).output().await.expect("run");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let selectors = answer["selectors"].as_array().expect("selectors");
        selectors.iter().any(|one| one.as_str().is_some_and(|one| one.starts_with("unix:path:")))
    };
    assert!(!has_path().await);
    kill(pid, Signal::SIGUSR1).expect("it runs");
    agent.logged("Plugin not reconfigured since the config is unchanged").await;

    std::fs::write(&data, "discover_workload_path = true").expect("written");
    kill(pid, Signal::SIGUSR1).expect("it runs");
    let line = agent.logged("Plugin reconfigured").await;
    assert!(line.contains("plugin_name=unix") && line.contains("old_hash="), "{line}");
    assert!(has_path().await);

    for (text, expected) in [("discover_workload_path = 1", "write true or false"), ("{", "unable to decode")]
    {
        std::fs::write(&data, text).expect("written");
        kill(pid, Signal::SIGUSR1).expect("it runs");
        let line = agent.logged(expected).await;
        assert!(line.contains("Failed to reconfigure plugin"), "{line}");
        assert!(has_path().await, "the plugin stays as it was");
    }
    std::fs::remove_file(&data).expect("removed");
    kill(pid, Signal::SIGUSR1).expect("it runs");
    agent.logged("failed to load plugin data").await;
    assert!(has_path().await);
}

async fn metrics() {
    let server = server().await;
    let conf = Conf { blocks: "telemetry { InMem {} }".to_owned(), ..Conf::join_token(&server) };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let pid = Pid::from_raw(agent.pid());
    // The second of the start must be over. The agent syncs every five.
    server.counted(|counters| counters.syncs > 1).await;
    kill(pid, Signal::SIGUSR1).expect("it runs");
    let line = agent.logged("[C] 'spire_agent.manager.sync.fetch_entries_updates.OK.").await;
    assert!(line.contains("Count: 1 Sum: 1.000 LastUpdated: "), "{line}");
}
