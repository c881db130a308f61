//! Envoys that use one agent, and requests through them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Agent, Asks, Envoy, Sidecar};
use tokio::time::{Instant, MissedTickBehavior};

/// A group of Envoys. The agent distinguishes them by the path of their program, so each has its own link to Envoy.
pub(super) struct Mesh {
    program: PathBuf,
    folder: PathBuf,
    socket: PathBuf,
}

/// The plugin data that the unix attestor needs for this.
pub(super) const BY_PATH: &str = "discover_workload_path = true workload_size_limit = -1";

impl Mesh {
    /// A mesh that uses this agent, in the agent's folder.
    pub(super) fn new(program: &Path, agent: &Agent) -> Self {
        let folder = agent.folder().path().canonicalize().expect("it exists");
        Self { program: program.to_owned(), folder, socket: agent.socket() }
    }

    /// The selector of the Envoy with this name.
    pub(super) fn selector(&self, name: &str) -> String {
        format!("unix:path:{}", self.folder.join(name).display())
    }

    /// The configuration of an Envoy that answers anyone itself.
    pub(super) fn sidecar<'a>(&'a self, name: &'a str) -> Sidecar<'a> {
        Sidecar {
            name,
            trust_domain: "example.org",
            agent: &self.socket,
            callers: &[],
            upstream: None,
            asks: Asks::ByName,
            names: None,
            impatient: false,
        }
    }

    pub(super) async fn start(&self, sidecar: Sidecar<'_>) -> Envoy {
        Envoy::start(&self.program_of(sidecar.name), &self.folder, &sidecar).await
    }

    /// Starts an Envoy with this configuration, in YAML.
    pub(super) async fn start_yaml(&self, name: &str, configuration: &str) -> Envoy {
        Envoy::start_yaml(&self.program_of(name), &self.folder, name, configuration).await
    }

    fn program_of(&self, name: &str) -> PathBuf {
        let program = self.folder.join(name);
        if std::fs::hard_link(&self.program, &program).is_err() {
            // A hard link fails across file systems, and to a file of another owner.
            std::fs::copy(&self.program, &program).expect("copied");
        }
        program
    }

    /// Starts an Envoy that only `caller` may call.
    pub(super) async fn backend(&self, caller: &str) -> Envoy {
        self.start(Sidecar { callers: &[caller], ..self.sidecar("backend") }).await
    }

    /// Starts frontend and backend, which must both be registered.
    pub(super) async fn pair(&self) -> Pair {
        self.pair_of(|sidecar| sidecar).await
    }

    /// The same with configurations that `changed` has changed.
    pub(super) async fn pair_of(&self, changed: impl for<'a> Fn(Sidecar<'a>) -> Sidecar<'a>) -> Pair {
        let backend = changed(Sidecar { callers: &["frontend"], ..self.sidecar("backend") });
        let backend = self.start(backend).await;
        let upstream = Some(("backend", backend.port().await));
        let frontend = changed(Sidecar { upstream, ..self.sidecar("frontend") });
        let frontend = self.start(frontend).await;
        let port = frontend.port().await;
        frontend.serial(FRONTEND).await;
        backend.serial(BACKEND).await;
        Pair { frontend, backend, port }
    }
}

/// A caller and its callee.
pub(super) struct Pair {
    pub(super) frontend: Envoy,
    pub(super) backend: Envoy,
    port: u16,
}

/// Observations during requests.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) failures: Vec<String>,
    /// The serial numbers of the frontend's and of the backend's certificates.
    pub(super) serials: [BTreeSet<String>; 2],
    pub(super) seconds: f64,
}

impl Figures {
    pub(super) fn serials_of_each(&self) -> usize {
        self.serials.iter().map(BTreeSet::len).min().unwrap_or_default()
    }
}

impl Pair {
    /// Sends 25 requests a second through both until `enough` is true.
    pub(super) async fn drive(&self, mut enough: impl FnMut(&Figures) -> bool) -> Figures {
        let mut figures = Figures::default();
        let start = Instant::now();
        let mut pace = tokio::time::interval(Duration::from_millis(40));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !enough(&figures) {
            pace.tick().await;
            match Envoy::request(self.port).await {
                Ok(200) => {}
                other => figures.failures.push(format!("request {}: {other:?}", figures.requests)),
            }
            figures.requests += 1;
            if figures.requests % 10 == 0 {
                figures.serials[0].insert(self.frontend.serial(FRONTEND).await);
                figures.serials[1].insert(self.backend.serial(BACKEND).await);
            }
            figures.seconds = start.elapsed().as_secs_f64();
        }
        figures
    }

    /// The serial numbers of the frontend's and of the backend's present certificates.
    pub(super) async fn serials(&self) -> [String; 2] {
        [self.frontend.serial(FRONTEND).await, self.backend.serial(BACKEND).await]
    }

    /// The number of handshakes that the frontend and the backend have counted.
    pub(super) async fn handshakes(&self) -> [u64; 2] {
        let frontend = self.frontend.stat("cluster.backend.ssl.handshake").await;
        [frontend, self.backend.stat("listener.in.ssl.handshake").await]
    }

    /// Waits until each has one healthy connection to the agent. Returns the lines of `/clusters`.
    pub(super) async fn connected_once(&self) -> Vec<String> {
        let mut all = Vec::new();
        for envoy in [&self.frontend, &self.backend] {
            let connected = async || {
                let lines = envoy.agent_connection().await;
                let has = |end: &str| lines.iter().any(|line| line.ends_with(end));
                (has("::cx_active::1") && has("::health_flags::healthy")).then_some(lines)
            };
            all.extend(envoy.until("has one healthy connection to the agent", connected).await);
        }
        all
    }
}

pub(super) const FRONTEND: &str = "spiffe://example.org/frontend";
pub(super) const BACKEND: &str = "spiffe://example.org/backend";
