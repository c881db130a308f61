//! Links to the real server that lose their connections, lead to another replica, or to a server of another authority.
//!
//! `FINIAL_SOAK_SECONDS` is the duration of `real_server_without_a_word_in_the_log`; the default is 20.

use std::path::PathBuf;
use std::time::Duration;

use dev::Entry;
use futures_util::future::join_all;
use harness::{Agent, Gate, build_finial, channel, jwt_svid_on, needs, skipped, trial_within, x509_svid};
use libtest_mimic::Trial;
use tokio::time::Instant;

use super::super::ids;
use super::attesting::{attested, served, start};
use super::real::{complaints, soak_seconds};
use super::spire_server::{Options, SpireServer};
use super::trial_with;
use super::x509pop::Pki;

pub(super) fn trials() -> Vec<Trial> {
    let server = || needs("SPIRE_SERVER", "spire-server");
    let both = || -> Result<Programs, String> { Ok((server()?, needs("SPIRE_AGENT", "spire-agent")?)) };
    let name = "real_server_without_a_word_in_the_log";
    let quiet = match both() {
        Ok(programs) => {
            trial_within(Duration::from_secs(soak_seconds() + 200), name, move || quiet(programs))
        }
        Err(reason) => skipped(name, &reason),
    };
    vec![
        quiet,
        trial_with("real_server_behind_a_proxy_that_loses_a_connection", both(), black_hole),
        trial_with("real_server_away_for_a_minute_costs_no_fetch", both(), away),
        trial_with("real_server_replicas_that_disagree_do_not_take_an_identity_away", server(), replicas),
        trial_with("real_server_of_another_authority_by_rebootstrap_mode", both(), rebootstrap),
    ]
}

type Programs = (PathBuf, PathBuf);

/// The ID of an entry.
const WEB: &str = "web";

fn uid() -> String {
    format!("unix:uid:{}", nix::unistd::getuid())
}

/// An agent that is served by `server`, and a stream of its identities.
async fn with_identity(server: &SpireServer, agent: &Agent, parent: &str) {
    server.register("web", parent, &uid()).await;
    agent.wait_for_socket().await;
    served(agent, "spiffe://example.org/web").await;
}

/// Both agents at two intervals, and fresh entries one after the other.
async fn quiet((server, real): Programs) {
    let server = SpireServer::start(&server).await;
    let mut runs = Vec::new();
    for (whose, program) in [("finial", build_finial()), ("spire-agent", real)] {
        for interval in ["5s", "60s"] {
            let (mut conf, parent) = server.agent("").await;
            conf.agent = format!("experimental {{ sync_interval = \"{interval}\" }}");
            let agent = start(&program, &conf);
            with_identity(&server, &agent, &parent).await;
            runs.push((format!("{whose}, every {interval}"), agent, parent));
        }
    }
    let begun = Instant::now();
    let fresh = runs.iter().enumerate().map(async |(place, (_, agent, parent))| {
        let (mut number, mut longest) = (0, 0.0_f64);
        while begun.elapsed() < Duration::from_secs(soak_seconds()) {
            number += 1;
            let name = format!("fresh-{place}-{number}");
            let created = Instant::now();
            server.register(&name, parent, &uid()).await;
            served(agent, &format!("spiffe://example.org/{name}")).await;
            longest = longest.max(created.elapsed().as_secs_f64());
        }
        (number, longest)
    });
    let fresh = join_all(fresh).await;
    for ((name, agent, _), (number, longest)) in runs.iter().zip(fresh) {
        let lines = complaints(agent);
        let count = lines.lines().count();
        eprintln!(
            "{name}: {number} fresh entries, served after {longest:.1} s at most, {count} lines above info"
        );
        assert!(!name.starts_with("finial") || count == 0, "{name}:\n{lines}");
    }
}

/// The connection is lost without a word, and an entry is created at that moment.
async fn black_hole((server, real): Programs) {
    for (whose, program) in [("finial", build_finial()), ("spire-agent", real)] {
        let server = SpireServer::start(&server).await;
        let gate = Gate::open(server.address()).await;
        let (mut conf, parent) = server.agent("").await;
        conf.server = gate.address().to_string();
        let agent = start(&program, &conf);
        with_identity(&server, &agent, &parent).await;
        gate.black_hole();
        let lost = Instant::now();
        server.register("late", &parent, &uid()).await;
        served(&agent, "spiffe://example.org/late").await;
        let (seconds, lines) = (lost.elapsed().as_secs_f64(), complaints(&agent));
        eprintln!(
            "{whose}: a new entry is served after {seconds:.1} s, {} lines above info",
            lines.lines().count()
        );
        assert!(whose != "finial" || lines.is_empty(), "{lines}");
    }
}

/// SVIDs of both kinds are fetched while the server cannot be reached, and a new entry when it is back.
async fn away((server, real): Programs) {
    for (whose, program) in [("finial", build_finial()), ("spire-agent", real)] {
        let server = SpireServer::start(&server).await;
        let gate = Gate::open(server.address()).await;
        let (mut conf, parent) = server.agent("").await;
        conf.server = gate.address().to_string();
        let agent = start(&program, &conf);
        let web = Entry::new("spiffe://example.org/web", &*parent, [&*uid()]);
        server.create(&Entry { id: WEB.into(), x509_svid_ttl: 600, ..web }).await;
        agent.wait_for_socket().await;
        served(&agent, "spiffe://example.org/web").await;
        let channel = channel(&agent.socket()).await;
        jwt_svid_on(&channel, &["a"], "").await.expect("signed");
        gate.shut();
        let (lost, mut slowest, mut count) = (Instant::now(), Duration::ZERO, 0);
        while lost.elapsed() < Duration::from_mins(1) {
            let asked = Instant::now();
            jwt_svid_on(&channel, &["a"], "").await.expect("cached");
            served(&agent, "spiffe://example.org/web").await;
            slowest = slowest.max(asked.elapsed());
            count += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gate.lead_to(server.address());
        let back = Instant::now();
        server.register("late", &parent, &uid()).await;
        served(&agent, "spiffe://example.org/late").await;
        let late = back.elapsed().as_secs_f64();
        eprintln!(
            "{whose}: {count} fetches of both kinds, {slowest:?} at most; {late:.1} s until a new entry is served"
        );
    }
}

/// Two servers share a datastore, and one of them reads it once an hour. The link leads to one and to the other.
async fn replicas(program: PathBuf) {
    let store = tempfile::tempdir().expect("a temporary folder");
    let options = |cache| Options { datastore: Some(store.path()), cache: Some(cache), ..Options::default() };
    let current = SpireServer::start_of(&program, &options("1s")).await;
    let gate = Gate::open(current.address()).await;
    let (mut conf, parent) = current.agent("").await;
    conf.server = gate.address().to_string();
    conf.agent = "experimental { sync_interval = \"1s\" }".into();
    current.register("first", &parent, &uid()).await;
    let lagging = SpireServer::start_of(&program, &options("1h")).await;
    // Both authorities are in the bundle now.
    conf.bundle = Some(current.ask(&["bundle", "show"]).await);
    let mut agent = start(&build_finial(), &conf);
    current
        .create(&Entry { id: WEB.into(), ..Entry::new("spiffe://example.org/web", &*parent, [&*uid()]) })
        .await;
    served(&agent, "spiffe://example.org/web").await;
    let mut stream = x509_svid(&agent.socket()).await.expect("served");
    let seen = tokio::spawn(async move {
        while let Ok(Some(response)) = stream.message().await {
            if !ids(&response).contains(&"spiffe://example.org/web") {
                return;
            }
        }
    });
    for turn in 1..=4 {
        gate.lead_to(lagging.address());
        agent.logged_times(&format!("it is withdrawn if the next sync agrees\" entry={WEB} "), turn).await;
        gate.lead_to(current.address());
        // The lagging server does not know this entry, so it is served after a sync with the current one.
        let fresh = format!("fresh-{turn}");
        current.register(&fresh, &parent, &uid()).await;
        served(&agent, &format!("spiffe://example.org/{fresh}")).await;
    }
    assert!(!seen.is_finished(), "the identity went away:\n{}", agent.log());
    // When a server says so twice, it goes.
    current.delete(WEB).await;
    agent.logged(&format!("msg=\"Entry removed\" entry={WEB} ")).await;
    seen.await.expect("it does not panic");
}

/// A server with new data answers in the place of the old one.
async fn rebootstrap((server, real): Programs) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pki = Pki::new();
    let plugin = pki.server_plugin(folder.path());
    let cases = [
        (build_finial(), "never", true),
        (real.clone(), "never", true),
        (build_finial(), "auto", false),
        (build_finial(), "always", false),
        // The real agent drops its bundle, ends, and relies on being started again.
        (real, "always", true),
    ];
    for (number, (program, mode, ends)) in cases.into_iter().enumerate() {
        let old = SpireServer::start_with(&server, &plugin).await;
        let gate = Gate::open(old.address()).await;
        let (mut conf, _) = old.agent("").await;
        conf.join_token = None;
        conf.server = gate.address().to_string();
        let name = format!("node-{number}");
        conf.node_attestor = Some(pki.agent_plugin(folder.path(), &name, &rcgen::PKCS_ECDSA_P256_SHA256));
        conf.agent = format!("rebootstrap_mode = \"{mode}\" rebootstrap_delay = \"1s\"");
        let agent = start(&program, &conf);
        agent.wait_for_socket().await;
        let parent = attested(&agent, &old, "/x509pop/").await;
        with_identity(&old, &agent, &parent).await;
        let new = SpireServer::start_with(&server, &plugin).await;
        let bundle = agent.folder().path().join("bundle");
        std::fs::write(&bundle, new.ask(&["bundle", "show"]).await).expect("written");
        gate.lead_to(new.address());
        let begun = Instant::now();
        if ends {
            let exit = agent.exited().await;
            assert_eq!(exit.code, Some(1), "{mode}: {}", exit.log);
            eprintln!("{}, {mode}: ended after {:.1} s", program.display(), begun.elapsed().as_secs_f64());
        } else {
            assert_eq!(attested(&agent, &new, "/x509pop/").await, parent);
            new.register("web", &parent, &uid()).await;
            new.register("new", &parent, &uid()).await;
            served(&agent, "spiffe://example.org/new").await;
            eprintln!(
                "finial, {mode}: serves the new server's entries after {:.1} s",
                begun.elapsed().as_secs_f64()
            );
        }
    }
}
