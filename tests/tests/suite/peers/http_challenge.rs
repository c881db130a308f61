//! Node attestation by `http_challenge` at the real server, of finial and of the real agent. The hosts are addresses of
//! the loopback network, because the server takes no `localhost`.

use std::net::{Ipv6Addr, TcpListener};
use std::path::PathBuf;

use harness::{Conf, build_finial, needs};
use libtest_mimic::Trial;

use super::attesting::{attested, attests_and_again, served, start};
use super::spire_server::SpireServer;
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    let server = needs("SPIRE_SERVER", "spire-server");
    let agent = needs("SPIRE_AGENT", "spire-agent");
    let both = server.and_then(|server| Ok((server, agent?)));
    let low = both.clone().and_then(|(server, agent)| Ok((server, agent, low_port()?)));
    vec![
        trial_with("real_server_attests_by_http_challenge_again_and_again", low, again),
        trial_with("real_server_attests_by_http_challenge_at_first_use", both, first_use),
    ]
}

/// A free port that only root may listen on.
fn low_port() -> Result<u16, String> {
    let is_free = |port: &u16| TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).is_ok();
    (600..1024).rev().find(is_free).ok_or_else(|| "it needs a port below 1024: run it as root".to_owned())
}

/// Without trust on first use, which the server allows for ports of root alone.
async fn again((server, real, port): (PathBuf, PathBuf, u16)) {
    let plugin = plugin(&format!("required_port = {port} allow_non_root_ports = false tofu = false"));
    let server = SpireServer::start_with(&server, &plugin).await;
    for (program, host) in [(build_finial(), "127.0.0.2"), (real, "127.0.0.3")] {
        let conf = conf(&server, &format!("hostname = \"{host}\" agentname = \"a-1\" port = {port}")).await;
        attests_and_again(&program, &server, &conf, &format!("/http_challenge/{host}")).await;
    }
}

/// On a random port. A second agent of the same host is refused.
async fn first_use((server, real): (PathBuf, PathBuf)) {
    let server = SpireServer::start_with(&server, &plugin("tofu = true")).await;
    for (program, host) in [(build_finial(), "127.0.0.4"), (real, "127.0.0.5")] {
        let conf = conf(&server, &format!("hostname = \"{host}\"")).await;
        let agent = start(&program, &conf);
        let id = attested(&agent, &server, &format!("/http_challenge/{host}")).await;
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        server.register(host, &id, &uid).await;
        agent.wait_for_socket().await;
        served(&agent, &format!("spiffe://example.org/{host}")).await;
        let second = start(&program, &conf).exited().await;
        assert_eq!(second.code, Some(1), "{}", second.log);
        assert!(second.log.contains("attestation data has already been used"), "{}", second.log);
        // Evicted, it may not attest again by itself either.
        server.evict(&id).await;
        let evicted = agent.exited().await;
        assert_eq!(evicted.code, Some(1), "{}", evicted.log);
    }
}

fn plugin(data: &str) -> String {
    format!(
        "NodeAttestor \"http_challenge\" {{ plugin_data {{ {data} allowed_dns_patterns = [\"^127\\\\.0\\\\.0\\\\.[0-9]$\"] }} }}"
    )
}

async fn conf(server: &SpireServer, data: &str) -> Conf {
    let (mut conf, _) = server.agent("").await;
    conf.join_token = None;
    conf.node_attestor = Some(format!("NodeAttestor \"http_challenge\" {{ plugin_data {{ {data} }} }}"));
    conf
}
