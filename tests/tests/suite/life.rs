//! The agent's life without faults, and through restarts.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use dev::Options;
use harness::{
    Agent, Conf, Sds, health, needs, sds_request, skipped, trial, trial_as_root, x509_bundles, x509_svid,
};
use libtest_mimic::Trial;

use super::{ids, register, register_under, server, server_with};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("join_token_to_svid", join_token_to_svid),
        trial("k8s_psat_to_svid", k8s_psat_to_svid),
        trial("svids_rotate_on_held_streams", svids_rotate_on_held_streams),
        trial("the_agents_own_svid_is_renewed", the_agents_own_svid_is_renewed),
        trial("a_reattestable_agent_attests_anew_instead_of_renewing", a_reattestable_agent_attests_anew),
        trial("late_registration_reaches_a_held_stream", late_registration_reaches_a_held_stream),
        trial("late_registration_of_a_further_name_is_asked_for", a_further_name_is_asked_for),
        trial("more_than_4_mib_of_entries", more_than_4_mib_of_entries),
        trial("paged_sync_asks_for_changes_only", paged_sync_asks_for_changes_only),
        trial("ca_rotation_reaches_bundle_streams", ca_rotation_reaches_bundle_streams),
        trial("what_a_tainted_authority_signed_is_replaced", what_a_tainted_authority_signed_is_replaced),
        trial("connections_that_the_server_closes_are_not_missed", connections_that_the_server_closes),
        trial("federated_bundles_are_served", federated_bundles_are_served),
        trial("restart_with_disk_keys_does_not_attest_again", restart_with_disk_keys),
        trial("the_socket_is_open_to_all_and_stays_when_the_agent_ends", the_socket_stays),
        trial("a_second_agent_does_not_take_the_socket", a_second_agent_does_not_take_the_socket),
        trial("sigterm_ends_with_0_also_while_starting", sigterm_ends_with_0),
        trial_as_root("as_pid_1_it_ends_on_sigterm", as_pid_1_it_ends_on_sigterm),
        trial("sigint_ends_with_0_and_sigusr1_does_not_end", sigint_and_sigusr1),
        trial("sigusr2_opens_the_log_file_anew", sigusr2_opens_the_log_file_anew),
        trial("an_agent_that_was_frozen_past_all_lifetimes_recovers_in_place", frozen),
        trial("the_security_header_is_demanded", the_security_header_is_demanded),
    ];
    match needs("SPIRE_AGENT", "spire-agent") {
        Ok(real) => trials.push(trial("the_real_agent_and_finial_go_on_where_the_other_stopped", || {
            the_real_agent_and_finial_in_turn(real)
        })),
        Err(reason) => {
            trials.push(skipped("the_real_agent_and_finial_go_on_where_the_other_stopped", &reason))
        }
    }
    trials
}

async fn join_token_to_svid() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("Node attestation was successful").await;
    agent.logged("Agent is ready").await;
    assert!(health(&agent.socket()).await);
    let first = x509_svid(&agent.socket())
        .await
        .expect("served")
        .message()
        .await
        .expect("served")
        .expect("a message");
    assert_eq!(ids(&first), ["spiffe://example.org/web"]);
    let counters = server.counted(|counters| counters.post_status > 0).await;
    assert_eq!(counters.attested, 1);
    let version = &server.agents()[0].agent_version;
    assert!(version.starts_with("1.15.3+finial."), "{version}");
}

async fn k8s_psat_to_svid() {
    let server = server().await;
    let conf = Conf::psat(&server);
    register_under(&server, &server.psat_agent_id("cluster", "node"), "web");
    let mut agent = Agent::start(&conf);
    let line = agent.logged("Node attestation was successful").await;
    assert!(line.contains("reattestable=true"), "{line}");
    let mut stream = x509_svid(&agent.socket()).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
}

async fn svids_rotate_on_held_streams() {
    let server = server_with(Options { svid_ttl: Duration::from_secs(4), ..Options::default() }).await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let agent = Agent::start(&conf);
    let mut workload = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    let names = ["spiffe://example.org/web"];
    let mut sds = Sds::open(&agent.socket(), sds_request(&names)).await.expect("served");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let response = workload.message().await.expect("served").expect("a message");
        seen.push(response.svids[0].x509_svid.clone());
        assert_eq!(sds.secrets(&names).await.expect("served").len(), 1);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2]);
    // The lifetime is so short that half of it is over on arrival. The SVID is still renewed, but not without pauses.
    assert!(server.counters().signed <= 6, "{:?}", server.counters());
}

async fn the_agents_own_svid_is_renewed() {
    let options = Options { agent_ttl: Duration::from_secs(4), ..Options::default() };
    let server = server_with(options).await;
    let mut agent = Agent::start(&Conf::join_token(&server));
    let counters = server.counted(|counters| counters.renewed >= 2).await;
    assert_eq!(counters.attested, 1);
    agent.logged_times("Successfully rotated agent SVID", 2).await;
}

async fn a_reattestable_agent_attests_anew() {
    let options = Options { agent_ttl: Duration::from_secs(4), ..Options::default() };
    let server = server_with(options).await;
    let _agent = Agent::start(&Conf::psat(&server));
    let counters = server.counted(|counters| counters.attested >= 2).await;
    assert_eq!(counters.renewed, 0);
}

async fn late_registration_reaches_a_held_stream() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    let agent = Agent::start(&conf);
    let names = ["spiffe://example.org/late"];
    let mut sds = Sds::open(&agent.wait_for_socket().await, sds_request(&names)).await.expect("held");
    server.counted(|counters| counters.syncs >= 2).await;
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "late");
    assert_eq!(sds.secrets(&names).await.expect("on the same stream")[0].name, names[0]);
}

/// A process that has an identity asks for another one. The agent then syncs at once, not at the end of the interval.
async fn a_further_name_is_asked_for() {
    let server = server().await;
    let conf = Conf { agent: "experimental { sync_interval = \"1h\" }".into(), ..Conf::join_token(&server) };
    let token = conf.join_token.clone().unwrap_or_default();
    register(&server, &token, "web");
    let agent = Agent::start(&conf);
    let names = ["spiffe://example.org/web", "spiffe://example.org/late"];
    let mut sds = Sds::open(&agent.wait_for_socket().await, sds_request(&names)).await.expect("held");
    let first = sds.secrets(&names).await.expect("served");
    assert_eq!(first.len(), 1);
    register(&server, &token, "late");
    // The agent syncs after 0, 1, 2, 4 and 6 s.
    let second = sds.secrets(&names).await.expect("served");
    assert!(second.iter().any(|secret| secret.name == names[1]), "{second:?}");
}

async fn more_than_4_mib_of_entries() {
    let server = server_with(Options { full_sync_limit: Some(100_000), ..Options::default() }).await;
    let conf = Conf::join_token(&server);
    let token = conf.join_token.as_deref().unwrap_or_default();
    let parent = server.join_token_agent_id(token);
    let long = format!("k8s:pod-label:{}", "x".repeat(10_000));
    for place in 0..600 {
        let entry =
            dev::Entry::new(format!("spiffe://example.org/{place}"), &*parent, [&*format!("{long}{place}")]);
        server.create_entry(entry);
    }
    register(&server, token, "web");
    let agent = Agent::start(&conf);
    let mut stream = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
    assert_eq!(server.counters().paged_syncs, 0);
}

async fn paged_sync_asks_for_changes_only() {
    let options = Options { entry_page_size: 7, full_sync_limit: Some(7), ..Options::default() };
    let server = server_with(options).await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"100ms\" }".into(), ..Conf::join_token(&server) };
    let token = conf.join_token.clone().unwrap_or_default();
    let parent = server.join_token_agent_id(&token);
    for place in 0..30 {
        let selector = format!("unix:uid:{}", 100_000 + place);
        server.create_entry(dev::Entry::new(format!("spiffe://example.org/{place}"), &*parent, [&*selector]));
    }
    let id = register(&server, &token, "web");
    let agent = Agent::start(&conf);
    let mut stream = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
    assert_eq!(server.counters().entries_sent, 31);
    let mut entry = server.entries().into_iter().find(|entry| entry.id == id).expect("registered");
    entry.spiffe_id = "spiffe://example.org/renamed".into();
    server.update_entry(entry);
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/renamed"]
    );
    assert_eq!(server.counters().entries_sent, 32);
}

async fn ca_rotation_reaches_bundle_streams() {
    let server = server().await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let agent = Agent::start(&conf);
    let mut bundles = x509_bundles(&agent.wait_for_socket().await).await.expect("served");
    let first = bundles.message().await.expect("served").expect("a message");
    server.rotate_ca();
    let second = bundles.message().await.expect("served").expect("a message");
    let size =
        |response: &proto::workload::X509BundlesResponse| response.bundles["spiffe://example.org"].len();
    assert!(size(&second) > size(&first), "both authorities");
}

async fn what_a_tainted_authority_signed_is_replaced() {
    let server = server().await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
    let token = conf.join_token.clone().unwrap_or_default();
    register(&server, &token, "web");
    let mut agent = Agent::start(&conf);
    let mut svids = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    let mut next = async || svids.message().await.expect("served").expect("a message");
    let first = next().await;
    let serial = |server: &dev::Server| server.agents()[0].serial.clone();
    let own = serial(&server);
    server.rotate_ca();
    server.taint_old_cas();
    let mut second = next().await;
    while second.svids[0].x509_svid == first.svids[0].x509_svid {
        // This update has only the changed bundle.
        second = next().await;
    }
    agent.logged("Agent SVID is tainted by a root authority, forcing rotation").await;
    agent.logged("New tainted X.509 authorities found").await;
    agent.logged("Successfully rotated agent SVID").await;
    // No SVID needs the old authority any more.
    server.forget_old_cas();
    register(&server, &token, "other");
    while ids(&next().await).len() < 2 {}
    assert_ne!(serial(&server), own);
    assert!(!agent.log().contains("level=error"), "{}", agent.log());
}

async fn connections_that_the_server_closes() {
    let options = Options { max_connection_age: Duration::from_millis(500), ..Options::default() };
    let server = server_with(options).await;
    let conf =
        Conf { agent: "experimental { sync_interval = \"200ms\" }".into(), ..Conf::join_token(&server) };
    let token = conf.join_token.clone().unwrap_or_default();
    register(&server, &token, "web");
    let agent = Agent::start(&conf);
    let mut svids = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    let mut count = ids(&svids.message().await.expect("served").expect("a message")).len();
    // Each registration takes a sync and a mint call, so all of them take several connections.
    for number in 0..10 {
        register(&server, &token, &format!("web-{number}"));
        while count < number + 2 {
            count = ids(&svids.message().await.expect("served").expect("a message")).len();
        }
    }
    assert!(server.counters().connections >= 4, "{:?}", server.counters());
    assert!(!agent.log().contains("level=error"), "{}", agent.log());
}

async fn federated_bundles_are_served() {
    let server = server().await;
    let other = server_with(Options { trust_domain: "other.org".into(), ..Options::default() }).await;
    server.set_federated_bundle_pem("other.org", &other.bundle_pem());
    let conf = Conf::join_token(&server);
    let parent = server.join_token_agent_id(conf.join_token.as_deref().unwrap_or_default());
    let uid = format!("unix:uid:{}", nix::unistd::getuid());
    let mut entry = dev::Entry::new("spiffe://example.org/web", &*parent, [&*uid]);
    entry.federates_with = vec!["other.org".into(), "absent.org".into(), "empty.org".into()];
    server.set_federated_bundle("empty.org", Vec::new());
    server.create_entry(entry);
    let mut agent = Agent::start(&conf);
    let mut stream = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    let response = stream.message().await.expect("served").expect("a message");
    let mut federated: Vec<_> = response.federated_bundles.keys().collect();
    federated.sort();
    assert_eq!(federated, ["spiffe://empty.org", "spiffe://other.org"]);
    let said = agent.logged("Bundle has no X.509 authorities").await;
    assert!(said.contains("trust_domain=empty.org"), "{said}");
    let mut sds =
        Sds::open(&agent.socket(), sds_request(&["spiffe://other.org", "ALL"])).await.expect("served");
    let mut names: Vec<String> =
        sds.secrets(&[]).await.expect("served").into_iter().map(|secret| secret.name).collect();
    names.sort();
    assert_eq!(names, ["ALL", "spiffe://other.org"]);
}

async fn restart_with_disk_keys() {
    let server = server().await;
    let mut conf = Conf { disk_keys: true, ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let folder = agent.folder();
    assert_eq!(agent.stop().await.code, Some(0));
    conf.join_token = None;
    let agent = Agent::start_in(&conf, folder);
    let mut stream = x509_svid(&agent.wait_for_socket().await).await.expect("served");
    assert_eq!(
        ids(&stream.message().await.expect("served").expect("a message")),
        ["spiffe://example.org/web"]
    );
    assert_eq!(server.counters().attest_calls, 1);
}

async fn the_real_agent_and_finial_in_turn(real: std::path::PathBuf) {
    let server = server().await;
    let mut conf = Conf { disk_keys: true, ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let finial = harness::build_finial();
    for program in [&finial, &real, &finial, &real] {
        let mut agent = Agent::start_program(program, &conf, Arc::clone(&folder));
        if program == &finial {
            agent.logged("Agent is ready").await;
        } else {
            agent.logged("Starting agent APIs").await;
        }
        let stream = x509_svid(&agent.wait_for_socket().await).await;
        let response = stream.expect("served").message().await.expect("served").expect("a message");
        assert_eq!(ids(&response), ["spiffe://example.org/web"]);
        conf.join_token = None;
        agent.stop().await;
    }
    assert_eq!(server.counters().attest_calls, 1);
}

async fn the_socket_stays() {
    let server = server().await;
    let mut agent = Agent::start(&Conf::join_token(&server));
    agent.logged("Starting agent APIs").await;
    let socket = agent.socket();
    let before = std::fs::metadata(&socket).expect("a socket");
    assert!(before.file_type().is_socket());
    assert_eq!(before.permissions().mode() & 0o777, 0o777);
    let folder = agent.folder();
    agent.stop().await;
    assert_eq!(std::fs::metadata(&socket).expect("still there").ino(), before.ino());
    drop(folder);
}

async fn a_second_agent_does_not_take_the_socket() {
    let server = server().await;
    let mut first = Agent::start(&Conf::join_token(&server));
    first.logged("Agent is ready").await;
    let second = Agent::start_in(&Conf::join_token(&server), first.folder());
    let exit = second.exited().await;
    assert_eq!(exit.code, Some(1));
    assert!(exit.log.contains("another process is serving on"), "{}", exit.log);
    assert!(health(&first.socket()).await);
}

async fn sigterm_ends_with_0() {
    let server = server().await;
    let conf = Conf::join_token(&server);
    server.fault(dev::Fault::Down).await;
    let mut starting = Agent::start(&conf);
    starting.logged("Starting agent APIs").await;
    let exit = starting.stop().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(exit.log.contains("Agent stopped gracefully"));
}

async fn as_pid_1_it_ends_on_sigterm() {
    let server = server().await;
    // In its own pid namespace the agent is pid 1, for which a signal without a handler has no effect.
    let shell = "exec unshare --pid --fork --mount-proc --kill-child=SIGTERM \"$0\" \"$@\"";
    let mut agent = Agent::start(&Conf { shell: Some(shell.into()), ..Conf::join_token(&server) });
    agent.logged("Agent is ready").await;
    let parent = agent.pid();
    let children =
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("a child");
    let inner: i32 = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(inner), nix::sys::signal::Signal::SIGTERM)
        .expect("it runs");
    let exit = agent.exited().await;
    assert!(exit.log.contains("Agent stopped gracefully"), "{}", exit.log);
    assert_eq!(exit.code, Some(0));
}

async fn sigint_and_sigusr1() {
    let server = server().await;
    let mut agent = Agent::start(&Conf::join_token(&server));
    agent.logged("Agent is ready").await;
    let pid = nix::unistd::Pid::from_raw(agent.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).expect("it runs");
    assert!(health(&agent.socket()).await);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let exit = agent.exited().await;
    assert!(exit.code == Some(0) && exit.log.contains("Agent stopped gracefully"), "{exit:?}");
}

async fn sigusr2_opens_the_log_file_anew() {
    let server = server().await;
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let log = folder.path().join("agent.log");
    let agent = format!("log_file = \"{}\" experimental {{ sync_interval = \"100ms\" }}", log.display());
    let agent = Agent::start_in(&Conf { agent, ..Conf::join_token(&server) }, Arc::clone(&folder));
    server.counted(|counters| counters.syncs > 0).await;
    std::fs::rename(&log, folder.path().join("agent.log.1")).expect("rotated");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.pid()), nix::sys::signal::Signal::SIGUSR2)
        .expect("it runs");
    let seen = server.counters().syncs;
    server.counted(move |counters| counters.syncs > seen + 2).await;
    agent.stop().await;
    let fresh = std::fs::read_to_string(&log).expect("a fresh file");
    assert!(fresh.contains("Log file reopened") && fresh.contains("Agent stopped gracefully"), "{fresh}");
}

async fn the_security_header_is_demanded() {
    use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
    let server = server().await;
    let agent = Agent::start(&Conf::join_token(&server));
    let mut client = SpiffeWorkloadApiClient::new(harness::channel(&agent.wait_for_socket().await).await);
    for values in [&[][..], &["false"], &["true", "true"], &["TRUE"]] {
        let mut request = tonic::Request::new(proto::workload::X509BundlesRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().expect("ASCII"));
        }
        let status = client.fetch_x509_bundles(request).await.expect_err("refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), "security header missing from request");
    }
}

/// A suspended machine, or a stopped process. Another agent tells when everything that the frozen one has is over: it has
/// renewed its own SVID, of the same lifetime, three times.
async fn frozen() {
    let (agent_ttl, svid_ttl) = (Duration::from_secs(4), Duration::from_secs(4));
    let server = server_with(Options { agent_ttl, svid_ttl, ..Options::default() }).await;
    register_under(&server, &server.psat_agent_id("cluster", "node"), "web");
    let mut agent = Agent::start(&Conf::psat(&server));
    agent.logged("SVID updated").await;
    let mut held = x509_svid(&agent.socket()).await.expect("served");
    let before = held.message().await.expect("served").expect("a message").svids[0].x509_svid.clone();
    let pid = nix::unistd::Pid::from_raw(agent.pid());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("it runs");
    let mut clock = Agent::start(&Conf::join_token(&server));
    clock.logged_times("Successfully rotated agent SVID", 3).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("it runs");
    let after = loop {
        let message = held.message().await.expect("the stream is open").expect("a message");
        if message.svids[0].x509_svid != before {
            break message.svids[0].x509_svid.clone();
        }
    };
    let fresh =
        x509_svid(&agent.socket()).await.expect("served").message().await.expect("served").expect("one");
    assert_eq!(ids(&fresh), ["spiffe://example.org/web"]);
    assert!(after != before && agent.log().matches("Starting agent APIs").count() == 1);
}
