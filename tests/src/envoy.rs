//! Real Envoys: started with a bootstrap of their own, and asked on their admin ports.
//!
//! * [`Sidecar`] (in `sidecar`): the configuration.
//! * [`Envoy`]: a running one. It takes free ports by itself and we read them back. It tells no one when something
//!   changes in it, so it is asked again and again: [`Envoy::until`].
//! * `http`: the GETs.

mod http;
mod sidecar;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::Instant;

pub use sidecar::Sidecar;

use crate::needs;
use sidecar::SDS_CLUSTER;

/// Envoy's program itself, also where the variable names the script that PyPI's package installs.
///
/// # Errors
/// The reason to show for skipping.
pub fn envoy_program() -> Result<PathBuf, String> {
    let found = needs("ENVOY", "envoy")?;
    let canonical = found.canonicalize().map_err(|reason| format!("{}: {reason}", found.display()))?;
    let mut start = [0; 2];
    let opened = File::open(&canonical).and_then(|mut file| file.read_exact(&mut start));
    opened.map_err(|reason| format!("{}: {reason}", found.display()))?;
    if &start != b"#!" {
        return Ok(canonical);
    }
    let libraries = canonical.ancestors().nth(2).map(|environment| environment.join("lib"));
    let pythons = libraries.and_then(|libraries| libraries.read_dir().ok()).into_iter().flatten().flatten();
    pythons
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|program| program.is_file())
        .ok_or_else(|| format!("{} is a script without its program", found.display()))
}

/// A running Envoy; ended when dropped.
#[derive(Debug)]
pub struct Envoy {
    _child: Child,
    name: String,
    log: PathBuf,
    admin: u16,
}

/// What `/certs` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// URI and serial number of its own certificates.
    pub own: Vec<(String, String)>,
    /// URIs of the authorities.
    pub authorities: Vec<String>,
}

impl Envoy {
    /// Starts a program with this configuration; its files go into the folder.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(program: &Path, folder: &Path, sidecar: &Sidecar<'_>) -> Self {
        Self::start_with(program, folder, sidecar.name, &sidecar.bootstrap()).await
    }

    /// Starts a program with any configuration.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(program: &Path, folder: &Path, name: &str, configuration: &Value) -> Self {
        let file = |kind: &str| folder.join(format!("{name}.{kind}"));
        let (bootstrap, address, log) = (file("json"), file("admin"), file("log"));
        std::fs::write(&bootstrap, configuration.to_string()).expect("written");
        let output = File::create(&log).expect("created");
        let mut command = Command::new(program);
        command.arg("-c").arg(&bootstrap).arg("--admin-address-path").arg(&address);
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("cloned")).stderr(output);
        let child = command.kill_on_drop(true).spawn().expect("Envoy starts");
        let mut envoy = Self { _child: child, name: name.to_owned(), log, admin: 0 };
        let written =
            async || std::fs::read_to_string(&address).ok()?.rsplit_once(':')?.1.trim().parse().ok();
        envoy.admin = envoy.until("has an admin port", written).await;
        envoy
    }

    /// Asks until there is an answer.
    ///
    /// # Panics
    /// When there is none in a long time, with Envoy's log.
    pub async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            if Instant::now() > deadline {
                let stats = self.admin("/stats?usedonly&filter=sds|ssl").await.unwrap_or_default();
                panic!("no: {} {what}; its log:\n{}\nits stats:\n{stats}", self.name, self.log());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The port of its listener, once it listens.
    pub async fn port(&self) -> u16 {
        *self.ports().await.values().next().expect("there is one")
    }

    /// The ports of its listeners by name, once it listens.
    pub async fn ports(&self) -> BTreeMap<String, u16> {
        let ask = async || {
            let body = self.admin("/listeners?format=json").await?;
            let listeners: Value = serde_json::from_str(&body).ok()?;
            let port = |listener: &Value| {
                let port = listener["local_address"]["socket_address"]["port_value"].as_u64()?;
                Some((listener["name"].as_str()?.to_owned(), u16::try_from(port).ok()?))
            };
            let ports: BTreeMap<_, _> =
                listeners["listener_statuses"].as_array()?.iter().filter_map(port).collect();
            (!ports.is_empty()).then_some(ports)
        };
        let ports = self.until("has a listener", ask).await;
        let ready = async || (self.admin("/ready").await?.trim() == "LIVE").then_some(());
        self.until("is live", ready).await;
        ports
    }

    /// Sends a request to its listener.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn request(port: u16) -> Result<u16, String> {
        http::get(port, "/").await.map(|(status, _)| status)
    }

    /// What `/certs` shows now.
    pub async fn certificates(&self) -> Certificates {
        let body = self.admin("/certs").await.unwrap_or_default();
        let all: Value = serde_json::from_str(&body).unwrap_or_default();
        let mut certificates = Certificates::default();
        for context in all["certificates"].as_array().into_iter().flatten() {
            certificates.own.extend(read(&context["cert_chain"]));
            certificates.authorities.extend(read(&context["ca_cert"]).map(|(uri, _)| uri));
        }
        certificates
    }

    /// The serial number of its certificate, once it has one with this SPIFFE ID.
    pub async fn serial(&self, id: &str) -> String {
        let ask = async || {
            let own = self.certificates().await.own;
            own.into_iter().find_map(|(uri, serial)| (uri == id).then_some(serial))
        };
        self.until(&format!("has a certificate for {id}"), ask).await
    }

    /// A counter; 0 when it was never touched.
    pub async fn stat(&self, name: &str) -> u64 {
        let body = self.admin(&format!("/stats?usedonly&filter=^{}$", name.replace('.', "%5C."))).await;
        let value = body.and_then(|body| body.rsplit_once(": ")?.1.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// The lines of `/clusters` about the way to the agent that matter: the connection and the health.
    pub async fn agent_connection(&self) -> Vec<String> {
        let body = self.admin("/clusters").await.unwrap_or_default();
        let wanted = |line: &&str| {
            line.starts_with(SDS_CLUSTER)
                && ["::cx_active::", "::health_flags::"].iter().any(|key| line.contains(key))
        };
        body.lines().filter(wanted).map(ToOwned::to_owned).collect()
    }

    /// All that it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn admin(&self, path: &str) -> Option<String> {
        http::get(self.admin, path).await.ok().map(|(_, body)| body)
    }
}

/// URIs and serial numbers.
fn read(certificates: &Value) -> impl Iterator<Item = (String, String)> {
    let uri = |certificate: &Value| {
        let names = certificate["subject_alt_names"].as_array()?;
        names.iter().find_map(|name| name["uri"].as_str()).map(ToOwned::to_owned)
    };
    certificates.as_array().into_iter().flatten().filter_map(move |certificate| {
        Some((uri(certificate)?, certificate["serial_number"].as_str()?.to_owned()))
    })
}

/// Beyond Envoy's longest pause between two tries (30 s) on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);
