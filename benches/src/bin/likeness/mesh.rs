//! Eight real Envoys in four pairs. Each frontend calls its backend by mutual TLS, with a new connection for each
//! request.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use benches::running::Outcome;
use harness::{Asks, Envoy, Sidecar};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Running Envoys, and tasks that send requests all the time.
pub(crate) struct Mesh {
    /// The tasks that send requests. They are dropped before the Envoys.
    drivers: JoinSet<()>,
    envoys: Vec<Envoy>,
    requests: Arc<Requests>,
}

/// Counts of requests.
#[derive(Debug, Default)]
struct Requests {
    sent: AtomicU64,
    failed: AtomicU64,
}

impl Mesh {
    /// Starts the Envoys. All have the identity `web`, and fetch its certificate and the trust bundle from the socket
    /// `agent`.
    pub(crate) fn start(runtime: &Runtime, program: &Path, folder: &Path, agent: &Path) -> Outcome<Self> {
        let mut mesh = Self { drivers: JoinSet::new(), envoys: Vec::new(), requests: Arc::default() };
        for pair in 0..PAIRS {
            let [back, front] = ["backend", "frontend"].map(|kind| folder.join(format!("{kind}-{pair}")));
            std::fs::create_dir(&back)?;
            std::fs::create_dir(&front)?;
            let port = runtime.block_on(async {
                let backend =
                    Envoy::start(program, &back, &Sidecar { callers: &[NAME], ..sidecar(agent) }).await;
                let upstream = Some((NAME, backend.port().await));
                let frontend = Envoy::start(program, &front, &Sidecar { upstream, ..sidecar(agent) }).await;
                backend.serial(ID).await;
                frontend.serial(ID).await;
                let port = frontend.port().await;
                mesh.envoys.extend([backend, frontend]);
                port
            });
            mesh.drivers.spawn_on(drive(port, Arc::clone(&mesh.requests)), runtime.handle());
        }
        Ok(mesh)
    }

    /// The numbers of requests that were sent and that failed.
    pub(crate) fn requests(&self) -> [u64; 2] {
        [&self.requests.sent, &self.requests.failed].map(|count| count.load(Ordering::Relaxed))
    }

    /// The number of certificates that each Envoy has had.
    pub(crate) fn certificates(&self, runtime: &Runtime) -> Vec<u64> {
        let stat = async |envoy: &Envoy| envoy.stat(UPDATES).await;
        self.envoys.iter().map(|envoy| runtime.block_on(stat(envoy))).collect()
    }
}

async fn drive(port: u16, requests: Arc<Requests>) {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let answer = Envoy::request(port).await;
        requests.sent.fetch_add(1, Ordering::Relaxed);
        if answer != Ok(200) {
            eprintln!("a request failed: {answer:?}");
            requests.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn sidecar(agent: &Path) -> Sidecar<'_> {
    Sidecar {
        name: NAME,
        trust_domain: "example.org",
        agent,
        callers: &[],
        upstream: None,
        asks: Asks::ByName,
        certificate: None,
        authorities: None,
        foreign: None,
        impatient: false,
    }
}

pub(crate) const ENVOYS: usize = 2 * PAIRS;
pub(crate) const ID: &str = "spiffe://example.org/web";
const PAIRS: usize = 4;
const NAME: &str = "web";
/// The counter of secret updates. Envoy escapes the name of the secret in it.
const UPDATES: &str = "sds.spiffe_example.org/web.update_success";
const PACE: Duration = Duration::from_millis(200);
