//! The real spire-agent against this server. What the agent accepts defines what the server must be.
//!
//! The program is found by `SPIRE_AGENT` or on the PATH.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev::{Entry, Fault, Options, Server};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{Outcome, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let agent = find_agent();
    let test = |name: &str, run: fn(PathBuf) -> std::pin::Pin<Box<dyn Future<Output = Outcome>>>| match &agent
    {
        Some(agent) => {
            let agent = agent.clone();
            trial(name, move || run(agent))
        }
        None => {
            let name = format!("{name} (skipped: SPIRE_AGENT is not set and spire-agent is not on the PATH)");
            Trial::test(name, || Ok(())).with_ignored_flag(true)
        }
    };
    vec![
        test("real_agent_syncs_1200_entries", |agent| Box::pin(syncs_1200_entries(agent))),
        test("real_agent_attests_by_k8s_psat", |agent| Box::pin(attests_by_k8s_psat(agent))),
        test("real_agent_renews_and_outlives_an_outage", |agent| Box::pin(renews(agent))),
        test("real_agent_follows_a_rotation_of_the_ca", |agent| Box::pin(follows_a_rotation(agent))),
    ]
}

fn find_agent() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SPIRE_AGENT") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("spire-agent")).find(|file| file.is_file())
}

async fn syncs_1200_entries(spire_agent: PathBuf) -> Outcome {
    let server = Server::start(Options::default()).await?;
    let token = server.create_join_token();
    let parent = server.join_token_agent_id(&token);
    for n in 0..1199 {
        let selector = format!("unix:uid:{}", 1_000_000 + n);
        let id = format!("spiffe://example.org/other/{n}");
        server.create_entry(Entry::new(id, parent.clone(), [selector.as_str()]));
    }
    server.create_entry(Entry::new("spiffe://example.org/me", parent, [own_uid()?.as_str()]));

    let agent = Agent::start(&spire_agent, &server, "join_token", &token, "").await?;
    let fetched = agent.fetch().await?;
    assert!(fetched.contains("SPIFFE ID:\t\tspiffe://example.org/me\n"), "{fetched}");
    let counters = server.counters();
    assert_eq!((counters.attested, counters.denied), (1, 0));
    assert!(counters.paged_syncs >= 1 && counters.entries_sent == 1200, "{counters:?}");
    assert!(server.agents()[0].agent_version.starts_with("1."), "{:?}", server.agents());

    // A change reaches the agent with the next sync.
    let id = agent_entry(&server)?;
    let mut changed = server.entries().into_iter().find(|entry| entry.id == id).expect("it is there");
    changed.spiffe_id = "spiffe://example.org/renamed".to_owned();
    let signed = server.counters().signed;
    server.update_entry(changed);
    let counters = server.counted(|now| now.entries_sent > 1200 && now.signed > signed).await;
    assert_eq!(counters.entries_sent, 1201, "only the changed one is sent again");
    let fetched = agent.fetch_until("spiffe://example.org/renamed").await?;
    assert!(!fetched.contains("spiffe://example.org/me"), "{fetched}");
    agent.stop().await
}

async fn attests_by_k8s_psat(spire_agent: PathBuf) -> Outcome {
    let server = Server::start(Options { intermediate: true, ..Options::default() }).await?;
    let dir = tempfile::tempdir()?;
    let token = dir.path().join("token");
    std::fs::write(&token, server.psat_token("front", "spire", "spire-agent-front", "node-1"))?;
    let alias = "spiffe://example.org/ns/spire/sa/spire-agent-front";
    let node = ["k8s_psat:cluster:front", "k8s_psat:agent_ns:spire", "k8s_psat:agent_sa:spire-agent-front"];
    server.create_entry(Entry::new(alias, "spiffe://example.org/spire/server", node));
    let mut entry = Entry::new("spiffe://example.org/frontend", alias, [own_uid()?.as_str()]);
    entry.federates_with = vec!["other.org".to_owned()];
    server.create_entry(entry);
    let other = Server::start(Options { trust_domain: "other.org".to_owned(), ..Options::default() }).await?;
    server.set_federated_bundle_pem("other.org", &other.bundle_pem());

    let plugin = format!("cluster = \"front\"\ntoken_path = \"{}\"", token.display());
    let agent = Agent::start(&spire_agent, &server, "k8s_psat", "", &plugin).await?;
    let fetched = agent.fetch().await?;
    assert!(fetched.contains("SPIFFE ID:\t\tspiffe://example.org/frontend\n"), "{fetched}");
    assert!(fetched.contains("Intermediate #1"), "{fetched}");
    assert!(fetched.contains("[spiffe://other.org] CA #1"), "{fetched}");
    let known = &server.agents()[0];
    assert_eq!(known.id, server.psat_agent_id("front", "node-1"));

    // An evicted agent attests again without a restart.
    let before = server.counters();
    assert!(server.evict(&known.id));
    server.counted(|now| now.attested > before.attested && now.syncs > before.syncs).await;
    assert!(agent.fetch().await?.contains("spiffe://example.org/frontend"));
    agent.stop().await
}

async fn renews(spire_agent: PathBuf) -> Outcome {
    let options = Options { agent_ttl: Duration::from_secs(20), ..Options::default() };
    let server = Server::start(options).await?;
    let token = server.create_join_token();
    let parent = server.join_token_agent_id(&token);
    server.create_entry(Entry::new("spiffe://example.org/me", parent, [own_uid()?.as_str()]));
    let agent = Agent::start(&spire_agent, &server, "join_token", &token, "").await?;
    let first = server.agents()[0].serial.clone();
    server.fault(Fault::Down).await;
    assert!(agent.fetch().await?.contains("spiffe://example.org/me"), "it serves what it has");
    server.fault(Fault::None).await;
    let renewed = server.counted(|now| now.renewed > 0).await;
    server.counted(|now| now.syncs > renewed.syncs).await;
    assert_ne!(server.agents()[0].serial, first);
    assert_eq!(server.counters().denied, 0);
    agent.stop().await
}

async fn follows_a_rotation(spire_agent: PathBuf) -> Outcome {
    let options = Options { svid_ttl: Duration::from_secs(8), ..Options::default() };
    let server = Server::start(options).await?;
    let token = server.create_join_token();
    let parent = server.join_token_agent_id(&token);
    server.create_entry(Entry::new("spiffe://example.org/me", parent, [own_uid()?.as_str()]));
    let agent = Agent::start(&spire_agent, &server, "join_token", &token, "").await?;
    assert!(!agent.fetch().await?.contains("CA #2"));
    let before = server.counters();
    server.rotate_ca();
    // The agent gets the new bundle, then an SVID of the new authority.
    server.counted(|now| now.bundles > before.bundles && now.signed > before.signed).await;
    agent.fetch_until("CA #2").await?;
    agent.stop().await
}

fn own_uid() -> std::io::Result<String> {
    Ok(format!("unix:uid:{}", std::fs::metadata("/proc/self")?.uid()))
}

fn agent_entry(server: &Server) -> Result<String, &'static str> {
    let entry = server.entries().into_iter().find(|entry| entry.spiffe_id == "spiffe://example.org/me");
    Ok(entry.ok_or("the entry is gone")?.id)
}

/// A running spire-agent.
struct Agent {
    program: PathBuf,
    child: Child,
    socket: PathBuf,
    log: JoinHandle<()>,
    _dir: TempDir,
}

impl Agent {
    /// Starts the agent. Returns when it serves its APIs.
    async fn start(
        program: &Path,
        server: &Server,
        attestor: &str,
        join_token: &str,
        plugin: &str,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("agent.sock");
        std::fs::write(dir.path().join("bundle.pem"), server.bundle_pem())?;
        let config = dir.path().join("agent.conf");
        std::fs::write(&config, configuration(dir.path(), server, attestor, join_token, plugin))?;
        let mut child = Command::new(program)
            .args(["run".as_ref(), "-config".as_ref(), config.as_os_str()])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut log = String::new();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                writeln!(log, "{line}").expect("a string takes it");
                if line.contains(READY) {
                    return Ok(());
                }
            }
            Err(std::io::Error::other("it ended"))
        };
        let ready = timeout(Duration::from_secs(60), ready).await;
        if !matches!(ready, Ok(Ok(()))) {
            let lines: Vec<_> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(30)..].join("\n");
            return Err(format!("the agent did not start: {ready:?}\n{end}").into());
        }
        let log = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { program: program.to_owned(), child, socket, log, _dir: dir })
    }

    /// The output of `spire-agent api fetch x509`.
    async fn fetch(&self) -> Result<String, Box<dyn std::error::Error>> {
        let output = Command::new(&self.program)
            .args(["api", "fetch", "x509", "-timeout", "30s", "-socketPath"])
            .arg(&self.socket)
            .output()
            .await?;
        let text = String::from_utf8(output.stdout)?;
        match output.status.success() {
            true => Ok(text),
            false => Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    /// Fetches until the output contains `wanted`. The trial's deadline limits it.
    async fn fetch_until(&self, wanted: &str) -> Result<String, Box<dyn std::error::Error>> {
        loop {
            let fetched = self.fetch().await?;
            if fetched.contains(wanted) {
                return Ok(fetched);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(mut self) -> Outcome {
        let pid = self.child.id().ok_or("the agent has ended by itself")?.to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await?;
        let status = timeout(Duration::from_secs(20), self.child.wait()).await??;
        self.log.abort();
        match status.success() {
            true => Ok(()),
            false => Err(format!("the agent ended with {status}").into()),
        }
    }
}

fn configuration(dir: &Path, server: &Server, attestor: &str, join_token: &str, plugin: &str) -> String {
    let dir = dir.display();
    let token = match join_token {
        "" => String::new(),
        token => format!("join_token = \"{token}\""),
    };
    format!(
        r#"
agent {{
    data_dir = "{dir}"
    log_level = "DEBUG"
    server_address = "127.0.0.1"
    server_port = {port}
    socket_path = "{dir}/agent.sock"
    trust_bundle_path = "{dir}/bundle.pem"
    trust_domain = "{trust_domain}"
    {token}
}}
plugins {{
    NodeAttestor "{attestor}" {{ plugin_data {{
        {plugin}
    }} }}
    KeyManager "memory" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#,
        port = server.address().port(),
        trust_domain = server.trust_domain(),
    )
}

/// The agent's log line when its socket listens.
const READY: &str = "Starting agent APIs";
