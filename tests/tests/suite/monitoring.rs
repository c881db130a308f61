//! The dashboard and the alerts, at a real Prometheus that scrapes a real agent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev::{Entry, Server};
use harness::{Agent, Conf, Sds, get, jwt_svid_on, needs, sds_request, skipped, trial, x509_svid};
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::peers::free_port;
use super::server;

pub(super) fn trials() -> Vec<Trial> {
    let name = "monitoring_queries_at_a_real_prometheus";
    vec![match needs("PROMETHEUS", "prometheus") {
        Ok(prometheus) => trial(name, move || queries(prometheus)),
        Err(reason) => skipped(name, &reason),
    }]
}

async fn queries(program: PathBuf) {
    let (_server, agent, port, _stream) = agent().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let prometheus = Prometheus::start(&program, folder, port).await;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    let mut empty = BTreeSet::new();
    let mut count = 0;
    for query in dashboard(&deploy).into_iter().chain(rules(&deploy)) {
        count += 1;
        prometheus.query(&query).await;
        for metric in metrics(&query) {
            if prometheus.query(&format!("count({metric})")).await == 0 {
                empty.insert(metric);
            }
        }
    }
    assert!(count > 30, "only {count} queries were found");
    eprintln!("{count} queries; no data yet for {empty:?}");
    // What happens only when something goes wrong, or after a long time, and what other programs tell.
    let absent = BTreeSet::from([
        "container_memory_working_set_bytes".to_owned(),
        "finial_sds_nacks_total".to_owned(),
        "kube_daemonset_status_number_unavailable".to_owned(),
        "spire_agent_agent_svid_rotate".to_owned(),
    ]);
    assert_eq!(empty, absent);
    drop(agent);
}

/// An agent with metrics, which has served something of each kind, and the port of its metrics.
async fn agent() -> (Server, Agent, u16, Sds) {
    let server = server().await;
    let port = free_port();
    let conf = Conf {
        blocks: format!("telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {port} }} }}"),
        ..Conf::join_token(&server)
    };
    let parent = server.join_token_agent_id(&conf.join_token.clone().unwrap_or_default());
    let uid = format!("unix:uid:{}", nix::unistd::geteuid());
    server.create_entry(Entry::new("spiffe://example.org/web", &parent, [&*uid]));
    let mut agent = Agent::start(&conf);
    agent.logged("SVID updated").await;
    let socket = agent.socket();
    x509_svid(&socket).await.expect("an identity");
    jwt_svid_on(&harness::channel(&socket).await, &["audience"], "").await.expect("a token");
    let mut stream = Sds::open(&socket, sds_request(&["spiffe://example.org/web"])).await.expect("a stream");
    stream.secrets(&["spiffe://example.org/web"]).await.expect("a secret");
    let first = Sds::open(&socket, sds_request(&["ROOTCA"])).await.expect("a stream");
    drop(first);
    (server, agent, port, stream)
}

/// A running Prometheus. Dropping it ends it.
struct Prometheus {
    _child: Child,
    port: u16,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts it, and waits until it has scraped the agent several times.
    async fn start(program: &Path, folder: TempDir, agent: u16) -> Self {
        let port = free_port();
        let config = format!(
            "global: {{ scrape_interval: 200ms }}\nscrape_configs:\n- job_name: agents\n  static_configs:\n  \
             - targets: ['127.0.0.1:{agent}']\n    labels: {{ namespace: spire, pod: agent-1 }}\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).expect("written");
        let child = Command::new(program)
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let this = Self { _child: child, port, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        while this.ask("count_over_time(finial_sds_ack_seconds_bucket[1m]) > 3").await.unwrap_or_default()
            == 0
        {
            assert!(Instant::now() < deadline, "Prometheus does not scrape the agent");
            tokio::time::sleep(PAUSE).await;
        }
        this
    }

    /// The number of series in the answer to a query.
    async fn query(&self, query: &str) -> usize {
        self.ask(query).await.unwrap_or_else(|reason| panic!("{query}: {reason}"))
    }

    async fn ask(&self, query: &str) -> Result<usize, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (_, body) = get(self.port, &format!("/api/v1/query?query={encoded}")).await?;
        let answer: Value = serde_json::from_str(&body).map_err(|reason| reason.to_string())?;
        let result = answer["data"]["result"].as_array();
        Ok(result.ok_or_else(|| answer["error"].to_string())?.len())
    }
}

/// The queries of the dashboard, with the values that Grafana would put in.
fn dashboard(deploy: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(deploy.join("dashboard.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets"));
    targets
        .map(|target| target["expr"].as_str().expect("a query"))
        .map(|query| {
            query.replace("$__rate_interval", "1m").replace("$namespace", ".*").replace("$pod", ".*")
        })
        .collect()
}

/// The expressions of the alerts.
fn rules(deploy: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(deploy.join("rules.yaml")).expect("the alerts");
    let mut queries = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(indent) = line.find("expr: |") else { continue };
        let mut query = String::new();
        while let Some(line) = lines.next_if(|line| line.len() > indent && line[..=indent].trim().is_empty())
        {
            query += line.trim();
            query.push(' ');
        }
        queries.push(query);
    }
    queries
}

/// The metrics that a query names.
fn metrics(query: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c: char| !is_name(c));
    let prefixes = ["spire_agent_", "finial_", "process_", "kube_", "container_"];
    words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned).collect()
}

/// How long Prometheus may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(100);
