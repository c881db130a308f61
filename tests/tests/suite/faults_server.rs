//! A server that is down, slow, silent or another one, or that refuses the agent.

use std::time::Duration;

use dev::{Fault, Options};
use harness::{Agent, Conf, Sds, health, sds_request, trial, trial_as_root, x509_svid};
use libtest_mimic::Trial;
use tonic::Code;

use super::{ids, register, register_under, server, server_with};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("server_down_at_start_is_waited_for", server_down_at_start_is_waited_for),
        trial("of_several_servers_one_that_answers_is_used", one_that_answers),
        trial_as_root("a_name_server_that_is_gone_costs_nothing", name_server_gone),
        trial("server_black_holed_at_start_is_waited_for", server_black_holed_at_start),
        trial("server_slow_at_start_is_waited_for", server_slow_at_start),
        trial("server_down_later_costs_nothing", server_down_later_costs_nothing),
        trial("server_black_holed_later_is_left_and_found_again", server_black_holed_later),
        trial("server_slow_later_costs_nothing", server_slow_later_costs_nothing),
        trial("a_server_with_another_id_is_not_trusted", a_server_with_another_id_is_not_trusted),
        trial("a_server_of_another_trust_domain_is_not_trusted", a_server_of_another_trust_domain),
        trial("one_bad_entry_does_not_stop_the_others", one_bad_entry_does_not_stop_the_others),
        trial("a_spent_join_token_ends_the_agent", a_spent_join_token_ends_the_agent),
        trial("banned_ends_the_agent", banned_ends_the_agent),
        trial("evicted_by_join_token_ends_the_agent", evicted_by_join_token_ends_the_agent),
        trial("evicted_by_k8s_psat_attests_anew_in_place", evicted_by_k8s_psat_attests_anew),
        trial("expired_on_the_server_attests_anew_in_place", expired_on_the_server_attests_anew),
        trial("an_expired_token_is_read_anew", an_expired_token_is_read_anew),
        trial("unknown_authority_ends_the_agent_in_mode_never", unknown_authority_in_mode_never),
        trial("unknown_authority_is_bootstrapped_anew_in_mode_always", unknown_authority_in_mode_always),
        trial("rebootstrap_always_needs_a_reattestable_attestor", always_needs_reattestable),
    ]
}

/// The Workload API answers Unavailable after its patience. SDS streams wait until they are served.
async fn server_down_at_start_is_waited_for() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    server.fault(Fault::Down).await;
    let mut agent = Agent::start(&conf);
    agent.logged("cannot reach the server").await;
    assert!(!health(&agent.socket()).await);
    let status = x509_svid(&agent.socket()).await.expect_err("not ready");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let names = ["spiffe://example.org/web"];
    let socket = agent.socket();
    let held =
        tokio::spawn(async move { Sds::open(&socket, sds_request(&names)).await?.secrets(&names).await });
    server.fault(Fault::None).await;
    assert_eq!(held.await.expect("no panic").expect("served")[0].name, names[0]);
}

async fn one_that_answers() {
    let server = server().await;
    for load_balancing in
        ["", r#"server_load_balancing_config = "{\"loadBalancingConfig\":[{\"pick_first\":{}}]}""#]
    {
        let conf = Conf::join_token(&server);
        let agent = format!("experimental {{ {load_balancing} }}");
        let conf = Conf { server: format!("127.0.0.9, {}", server.address()), agent, ..conf };
        register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
        let mut agent = Agent::start(&conf);
        agent.logged("Agent is ready").await;
    }
    let conf = Conf { server: format!(",{}", server.address()), ..Conf::join_token(&server) };
    let exit = Agent::start(&conf).exited().await;
    assert!(exit.log.contains("server_address names servers with commas between them"), "{}", exit.log);
}

/// The server's name stands in a file of the agent's own, in the place of /etc/hosts. When it is gone from there, and the
/// server closes the connection, the address that it had is used.
async fn name_server_gone() {
    let server = server().await;
    let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 server.test\n").expect("written");
    let script = format!(
        "exec unshare --mount sh -c 'mount --bind {} /etc/hosts && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        hosts.display()
    );
    let conf = Conf {
        server: format!("server.test:{}", server.address().port()),
        agent: "experimental { sync_interval = \"200ms\" }".into(),
        shell: Some(script),
        ..Conf::join_token(&server)
    };
    let mut agent = Agent::start_in(&conf, folder);
    agent.logged("Agent is ready").await;
    std::fs::write(&hosts, "\n").expect("written");
    server.fault(Fault::Down).await;
    agent.logged("Synchronize failed").await;
    server.fault(Fault::None).await;
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "late");
    let mut stream = x509_svid(&agent.socket()).await;
    while stream.is_err() {
        stream = x509_svid(&agent.socket()).await;
    }
}

async fn waited_for(fault: Fault) {
    let server = server().await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    server.fault(fault).await;
    let mut agent = Agent::start(&conf);
    agent.logged("Failed to retrieve attestation result").await;
    assert!(!health(&agent.socket()).await);
    server.fault(Fault::None).await;
    agent.logged("Agent is ready").await;
    let mut stream = x509_svid(&agent.socket()).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
}

async fn server_black_holed_at_start() {
    waited_for(Fault::BlackHole).await;
}

async fn server_slow_at_start() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    server.fault(Fault::Slow(Duration::from_secs(2))).await;
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
}

async fn server_down_later_costs_nothing() {
    let server = server().await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    let mut held = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    let first = held.message().await.expect("served").expect("a message");
    server.fault(Fault::Down).await;
    agent.logged("Synchronize failed").await;
    assert!(health(&agent.socket()).await);
    let mut anew = x509_svid(&agent.socket()).await.expect("served from memory");
    assert_eq!(anew.message().await.expect("served").expect("a message"), first);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "second");
    server.fault(Fault::None).await;
    let both = held.message().await.expect("served").expect("a message");
    assert_eq!(both.svids.len(), 2);
    assert_eq!(server.counters().attested, 1);
}

async fn server_slow_later_costs_nothing() {
    let server = server().await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let agent = Agent::start(&conf);
    let mut held = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    let first = held.message().await.expect("served").expect("a message");
    server.fault(Fault::Slow(Duration::from_secs(2))).await;
    let mut anew = x509_svid(&agent.socket()).await.expect("served from memory");
    assert_eq!(anew.message().await.expect("served").expect("a message"), first);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "second");
    assert_eq!(held.message().await.expect("served").expect("a message").svids.len(), 2);
}

async fn server_black_holed_later() {
    let server = server().await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    let mut held = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    held.message().await.expect("served").expect("a message");
    server.fault(Fault::BlackHole).await;
    agent.logged("Synchronize failed").await;
    server.fault(Fault::None).await;
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "second");
    assert_eq!(held.message().await.expect("served").expect("a message").svids.len(), 2);
}

async fn a_server_with_another_id_is_not_trusted() {
    let server = server().await;
    server.fault(Fault::WrongServerId).await;
    let mut agent = Agent::start(&Conf::join_token(&server));
    let line = agent.logged("Failed to retrieve attestation result").await;
    assert!(
        line.contains("unexpected server ID") && line.contains("spiffe://example.org/spire/server"),
        "{line}"
    );
    assert_eq!(server.counters().attest_calls, 0);
    server.fault(Fault::None).await;
    agent.logged("Agent is ready").await;
}

async fn a_server_of_another_trust_domain() {
    let (server, other) = (
        server().await,
        server_with(Options { trust_domain: "other.org".into(), ..Options::default() }).await,
    );
    // The other server's bundle, so that only its SPIFFE ID is wrong.
    let conf = Conf {
        server: other.address().to_string(),
        bundle: Some(other.bundle_pem()),
        ..Conf::join_token(&server)
    };
    let mut agent = Agent::start(&conf);
    let line = agent.logged("Failed to retrieve attestation result").await;
    assert!(line.contains("no X.509 bundle found for trust domain") && line.contains("other.org"), "{line}");
    assert_eq!(other.counters().attest_calls, 0);
}

async fn one_bad_entry_does_not_stop_the_others() {
    let server = server().await;
    server.fault(Fault::OneBadEntry).await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("Received malformed entry").await;
    let mut stream = x509_svid(&agent.socket()).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
}

async fn a_spent_join_token_ends_the_agent() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    let mut first = Agent::start(&conf);
    first.logged("Agent is ready").await;
    let exit = Agent::start(&conf).exited().await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("join token does not exist or has already been used"), "{}", exit.log);
}

async fn refused(
    conf: Conf,
    server: &dev::Server,
    refuse: impl FnOnce(&dev::Server, &str) -> bool,
) -> harness::Exit {
    let conf = Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..conf };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    assert!(refuse(server, &server.agents()[0].id));
    let folder = agent.folder();
    let exit = agent.exited().await;
    let stored = std::fs::read_to_string(folder.path().join("data/agent-data.json")).expect("stored");
    assert!(stored.contains("\"svid\":null"), "the SVID is removed: {stored}");
    exit
}

async fn banned_ends_the_agent() {
    let server = server().await;
    let exit = refused(Conf::psat(&server), &server, dev::Server::ban).await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("Agent is banned: removing SVID and shutting down"), "{}", exit.log);
    // The agent stays banned for a new attestation too.
    let exit = Agent::start(&Conf::psat(&server)).exited().await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("banned"), "{}", exit.log);
}

async fn evicted_by_join_token_ends_the_agent() {
    let server = server().await;
    let exit = refused(Conf::join_token(&server), &server, dev::Server::evict).await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("AGENT_NOT_ATTESTED"), "{}", exit.log);
}

async fn attests_anew(refuse: impl FnOnce(&dev::Server, &str) -> bool) {
    let server = server().await;
    let conf = Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::psat(&server) };
    let parent = server.psat_agent_id("cluster", "node");
    register_under(&server, &parent, "web");
    let mut agent = Agent::start(&conf);
    let mut held = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    held.message().await.expect("served").expect("a message");
    assert!(refuse(&server, &parent));
    agent.logged("Successfully reattested node").await;
    register_under(&server, &parent, "second");
    assert_eq!(held.message().await.expect("the stream lives").expect("a message").svids.len(), 2);
}

async fn evicted_by_k8s_psat_attests_anew() {
    attests_anew(dev::Server::evict).await;
}

async fn expired_on_the_server_attests_anew() {
    attests_anew(dev::Server::expire_agent).await;
}

async fn an_expired_token_is_read_anew() {
    let server = server().await;
    let conf = Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::psat(&server) };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let (_, token) = conf.psat.clone().unwrap_or_default();
    server.expire_token(token.as_deref().unwrap_or_default());
    assert!(server.evict(&server.psat_agent_id("cluster", "node")));
    agent.logged("Failed to retrieve attestation result").await;
    let fresh = server.psat_token("cluster", "spire", "spire-agent", "node");
    std::fs::write(agent.path("token"), fresh).expect("written");
    agent.logged("Successfully reattested node").await;
}

async fn unknown_authority_in_mode_never() {
    let server = server().await;
    let conf = Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::psat(&server) };
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    server.rotate_ca();
    server.forget_old_cas();
    // The existing connection is trusted, but a new one is not.
    server.fault(Fault::Down).await;
    server.fault(Fault::None).await;
    let exit = agent.exited().await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("failed to sync with SPIRE Server"), "{}", exit.log);
}

async fn unknown_authority_in_mode_always() {
    let server = server().await;
    let settings =
        "experimental { sync_interval = \"200ms\" } rebootstrap_mode = \"always\" rebootstrap_delay = \"1s\"";
    let conf = Conf { agent: settings.into(), ..Conf::psat(&server) };
    let parent = server.psat_agent_id("cluster", "node");
    register_under(&server, &parent, "web");
    let mut agent = Agent::start(&conf);
    let mut held = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    let first = held.message().await.expect("served").expect("a message");
    server.fault(Fault::Down).await;
    server.rotate_ca();
    server.forget_old_cas();
    server.fault(Fault::None).await;
    agent.logged("Trust Bundle and Server don't agree, ignoring for now").await;
    std::fs::write(agent.path("bundle"), server.bundle_pem()).expect("written");
    agent.logged_times("Node attestation was successful", 2).await;
    // Both the bundle and the SVID change: SVIDs of the old authority are replaced at once.
    let mut renewed = first.clone();
    while renewed.svids[0].bundle == first.svids[0].bundle
        || renewed.svids[0].x509_svid == first.svids[0].x509_svid
    {
        renewed = held.message().await.expect("the stream lives").expect("a message");
    }
    assert_eq!(ids(&renewed), ["spiffe://example.org/web"]);
}

async fn always_needs_reattestable() {
    let server = server().await;
    let conf = Conf { agent: "rebootstrap_mode = \"always\"".into(), ..Conf::join_token(&server) };
    let exit = Agent::start(&conf).exited().await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("needs a node attestor that can attest anew"), "{}", exit.log);
}
