//! Envoys that use one agent, and requests through them.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Agent, Asks, Envoy, Sidecar};
use tokio::time::{Instant, MissedTickBehavior};

/// A group of Envoys. The agent distinguishes them by the path of their program, so each has its own link to Envoy.
pub(super) struct Mesh {
    trust_domain: String,
    program: PathBuf,
    folder: PathBuf,
    socket: PathBuf,
}

/// The plugin data that the unix attestor needs for this.
pub(super) const BY_PATH: &str = "discover_workload_path = true workload_size_limit = -1";

impl Mesh {
    /// A mesh of `example.org` that uses this agent, in the agent's folder.
    pub(super) fn new(program: &Path, agent: &Agent) -> Self {
        Self::of("example.org", program, agent)
    }

    /// A mesh of this trust domain that uses this agent, in the agent's folder.
    pub(super) fn of(trust_domain: &str, program: &Path, agent: &Agent) -> Self {
        let folder = agent.folder().path().canonicalize().expect("it exists");
        let trust_domain = trust_domain.to_owned();
        Self { trust_domain, program: program.to_owned(), folder, socket: agent.socket() }
    }

    /// The selector of the Envoy with this name.
    pub(super) fn selector(&self, name: &str) -> String {
        path_selector(&self.folder.join(name))
    }

    /// The configuration of an Envoy that answers anyone itself.
    pub(super) fn sidecar<'a>(&'a self, name: &'a str) -> Sidecar<'a> {
        Sidecar {
            name,
            trust_domain: &self.trust_domain,
            agent: &self.socket,
            callers: &[],
            upstream: None,
            asks: Asks::ByName,
            certificate: None,
            authorities: None,
            foreign: None,
            impatient: false,
        }
    }

    pub(super) async fn start(&self, sidecar: Sidecar<'_>) -> Envoy {
        let program = linked(&self.program, &self.folder, sidecar.name);
        Envoy::start(&program, &self.folder, &sidecar).await
    }

    /// Starts an Envoy with this configuration, in YAML.
    pub(super) async fn start_yaml(&self, name: &str, configuration: &str) -> Envoy {
        let program = linked(&self.program, &self.folder, name);
        Envoy::start_yaml(&program, &self.folder, name, configuration).await
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
        Pair::new([frontend, backend], [FRONTEND, BACKEND]).await
    }
}

/// Gives a program another path, by which an agent can tell it from others.
pub(super) fn linked(program: &Path, folder: &Path, name: &str) -> PathBuf {
    let path = folder.canonicalize().expect("it exists").join(name);
    if std::fs::hard_link(program, &path).is_err() {
        // A hard link fails across file systems, and to a file of another owner.
        std::fs::copy(program, &path).expect("copied");
    }
    path
}

/// The selector of the processes that run this program.
pub(super) fn path_selector(program: &Path) -> String {
    format!("unix:path:{}", program.display())
}

/// The selector of this process.
pub(super) fn this_program() -> String {
    path_selector(&std::env::current_exe().expect("this program has a path"))
}

/// A caller and its callee.
pub(super) struct Pair {
    pub(super) frontend: Envoy,
    pub(super) backend: Envoy,
    /// The SPIFFE IDs of the frontend and of the backend.
    ids: [String; 2],
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
    /// A frontend and its backend with these SPIFFE IDs. Waits until both have certificates.
    pub(super) async fn new([frontend, backend]: [Envoy; 2], ids: [&str; 2]) -> Self {
        let port = frontend.port().await;
        let this = Self { frontend, backend, ids: ids.map(str::to_owned), port };
        this.serials().await;
        this
    }

    /// Runs `steps` while the frontend sends requests.
    pub(super) async fn drive_during<T>(&self, steps: impl AsyncFnOnce() -> T) -> (Figures, T) {
        let over = Cell::new(false);
        let steps = async {
            let result = steps().await;
            over.set(true);
            result
        };
        tokio::join!(self.drive(|_| over.get()), steps)
    }

    /// Waits until these sides (0 is the frontend) have certificates other than before.
    pub(super) async fn replaced(&self, before: &[String; 2], sides: &[usize]) {
        for place in sides.iter().copied() {
            let envoy = [&self.frontend, &self.backend][place];
            let replaced = async || (envoy.serial(&self.ids[place]).await != before[place]).then_some(());
            envoy.until("has another certificate", replaced).await;
        }
    }

    /// The status of one request through both.
    pub(super) async fn request(&self) -> Result<u16, String> {
        Envoy::request(self.port).await
    }

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
                for (seen, serial) in figures.serials.iter_mut().zip(self.serials().await) {
                    seen.insert(serial);
                }
            }
            figures.seconds = start.elapsed().as_secs_f64();
        }
        figures
    }

    /// The serial numbers of the frontend's and of the backend's present certificates.
    pub(super) async fn serials(&self) -> [String; 2] {
        [self.frontend.serial(&self.ids[0]).await, self.backend.serial(&self.ids[1]).await]
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
