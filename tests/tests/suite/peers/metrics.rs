//! The metrics of finial and of the real agent after the same calls: their names, types and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::path::PathBuf;

use harness::{Conf, Sds, build_finial, get, sds_request};
use libtest_mimic::Trial;
use tokio::process::Command;

use super::agents::{Agents, entry, real_programs};
use super::attesting::{attested, evicted_and_served_again, start};
use super::spire_server::{SpireServer, free_port};
use super::x509pop::Pki;
use super::{rows, trial_with};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial_with("metrics_are_named_alike", real_programs(), alike),
        trial_with("metrics_are_named_alike_after_an_eviction", real_programs(), alike_after_an_eviction),
    ]
}

async fn alike(programs: (PathBuf, PathBuf)) {
    let mut agents = Agents::both(programs).await;
    rows::call_everything(&mut agents).await;
    let commands: [&[&str]; 4] = [
        &["debug", "getinfo"],
        &["logger", "get"],
        &["logger", "set", "-level", "debug"],
        &["logger", "reset"],
    ];
    for running in &agents.all {
        for command in commands {
            admin(command, &running.admin_socket).await;
        }
        let stream = Sds::open(&running.agent.socket(), sds_request(&["ROOTCA"])).await;
        let mut stream = stream.expect("a stream");
        let response = stream.next().await.expect("a response");
        assert_eq!(response.resources.len(), 1);
    }
    agents.create(&[entry("last", ["unix:uid:4242"])]).await;
    agents.delete("last").await;
    let mut scraped = Vec::new();
    for running in &agents.all {
        let (status, text) = get(running.metrics, "/metrics").await.expect("metrics");
        assert_eq!(status, 200);
        scraped.push(Scrape::read(&text));
    }
    let [ours, theirs] = &scraped[..] else { unreachable!("two agents") };
    report(ours, theirs);
    for (place, dialect) in ["statsd", "DogStatsD"].into_iter().enumerate() {
        let [ours, theirs] = [0, 1].map(|agent| lines(&agents.all[agent].statsd[place]));
        let missing: Vec<_> = theirs.difference(&ours).filter(|line| !is_left_out(line)).collect();
        eprintln!("{dialect}: {} kinds of lines, all of which finial sends, too", theirs.len());
        assert!(!theirs.is_empty() && missing.is_empty(), "{dialect}: {missing:#?}");
    }
}

/// Both agents attest by a certificate, serve, are evicted, attest again in the same process, and serve.
async fn alike_after_an_eviction((server, real): (PathBuf, PathBuf)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pki = Pki::new();
    let server = SpireServer::start_with(&server, &pki.server_plugin(folder.path())).await;
    let mut scraped = Vec::new();
    for (program, whose) in [(build_finial(), "finial"), (real, "real")] {
        let (conf, _) = server.agent("").await;
        let port = free_port();
        let conf = Conf {
            join_token: None,
            node_attestor: Some(pki.agent_plugin(folder.path(), whose, &rcgen::PKCS_ECDSA_P256_SHA256)),
            agent: "experimental { sync_interval = \"500ms\" }".to_owned(),
            blocks: format!("telemetry {{ Prometheus {{ port = {port} }} }}"),
            ..conf
        };
        let agent = start(&program, &conf);
        evicted_and_served_again(&agent, &server, "/x509pop/").await;
        let (status, text) = get(port, "/metrics").await.expect("metrics");
        assert_eq!(status, 200);
        scraped.push(Scrape::read(&text));
        let id = attested(&agent, &server, "/x509pop/").await;
        assert_eq!(agent.stop().await.code, Some(0));
        server.evict(&id).await;
    }
    let [ours, theirs] = &scraped[..] else { unreachable!("two agents") };
    report(ours, theirs);
}

/// The lines that were sent to a socket, each once, without their numbers.
fn lines(socket: &UdpSocket) -> BTreeSet<String> {
    let (mut lines, mut packet) = (BTreeSet::new(), [0; 65_536]);
    while let Ok(len) = socket.recv(&mut packet) {
        for line in String::from_utf8_lossy(&packet[..len]).lines() {
            let (name, rest) = line.split_once(':').expect("a name");
            let (number, rest) = rest.split_once('|').expect("a number");
            let form = if number.contains('.') { "1.0" } else { "1" };
            // A sample may be a whole number or not.
            let form = if rest.starts_with('g') { "gauge" } else { form };
            lines.insert(format!("{name}:{form}|{rest}"));
        }
    }
    lines
}

/// Whether a line is of a metric that finial has not, or has the version of the program in it.
fn is_left_out(line: &str) -> bool {
    let name = line.replace('.', "_");
    // datadog-go tells of itself, too.
    line.starts_with("datadog.")
        || line.contains("version")
        || LEFT_OUT.iter().any(|left| name.starts_with(left))
        || line.contains(".started")
}

async fn admin(command: &[&str], socket: &std::path::Path) {
    let output = Command::new(build_finial()).args(command).arg("-socketPath").arg(socket).output().await;
    let output = output.expect("run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Compares two scrapes, and prints what was compared.
fn report(ours: &Scrape, theirs: &Scrape) {
    let mut wrong = Vec::new();
    let mut left = BTreeSet::new();
    for (name, family) in &theirs.0 {
        let Some(same) = ours.0.get(name) else {
            left.insert(name.as_str());
            continue;
        };
        if family.kind != same.kind {
            wrong.push(format!("{name} is a {} instead of a {}", same.kind, family.kind));
        }
        for labels in family.series.difference(&same.series) {
            wrong.push(format!("{name} lacks {labels}; it has {:?}", same.series));
        }
    }
    let explained: BTreeSet<_> = LEFT_OUT.iter().copied().collect();
    let (more, fewer): (Vec<_>, Vec<_>) =
        (left.difference(&explained).collect(), explained.difference(&left).collect());
    let both = theirs.0.keys().filter(|name| ours.0.contains_key(*name)).count();
    eprintln!("{both} metrics alike; left out {left:?}");
    let own = ours.0.keys().filter(|name| !theirs.0.contains_key(*name)).collect::<Vec<_>>();
    eprintln!("only finial has {own:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(more.is_empty(), "not explained: {more:?}");
    assert!(fewer.is_empty(), "explained, but there are none: {fewer:?}");
}

/// Metrics by name.
struct Scrape(BTreeMap<String, Family>);

#[derive(Default)]
struct Family {
    kind: String,
    /// The labels of each series, without those that differ between two agents.
    series: BTreeSet<String>,
}

impl Scrape {
    /// Reads Prometheus's text format. Keeps spire-agent's metrics and those of the process.
    fn read(text: &str) -> Self {
        let mut families = BTreeMap::<String, Family>::new();
        let mut last = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                kind.clone_into(&mut families.entry(name.to_owned()).or_default().kind);
                name.clone_into(&mut last);
            } else if !line.starts_with('#') {
                let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
                let labels = labels.map_or("", |(labels, _)| labels);
                let mut labels: Vec<_> = labels.split(',').filter(|label| !differs(label)).collect();
                labels.sort_unstable();
                families.entry(last.clone()).or_default().series.insert(labels.join(","));
            }
        }
        families.retain(|name, _| !name.starts_with("go_") && !name.starts_with("promhttp_"));
        Self(families)
    }
}

/// Labels whose values differ between two programs.
fn differs(label: &str) -> bool {
    label.starts_with("version=")
}

/// What finial has not, and why.
const LEFT_OUT: &[&str] = &[
    // Of the network namespace, which every process in it counts.
    "process_network_receive_bytes_total",
    "process_network_transmit_bytes_total",
    // Of Go's runtime.
    "spire_agent_runtime_alloc_bytes",
    "spire_agent_runtime_free_count",
    "spire_agent_runtime_gc_pause_ns",
    "spire_agent_runtime_heap_objects",
    "spire_agent_runtime_malloc_count",
    "spire_agent_runtime_num_goroutines",
    "spire_agent_runtime_sys_bytes",
    "spire_agent_runtime_total_gc_pause_ns",
    "spire_agent_runtime_total_gc_runs",
    // Of SVID stores, which finial does not have.
    "spire_agent_store_store_svid_updates",
    "spire_agent_store_store_svid_updates_elapsed_time",
];
