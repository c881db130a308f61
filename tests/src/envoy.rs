//! Real Envoys, each with its own bootstrap, observed on its admin port.
//!
//! * [`Sidecar`] (in `sidecar`): the configuration.
//! * [`Envoy`]: a running Envoy. It chooses free ports, which it is then asked for. It does not notify us of changes,
//!   so its admin port is polled: [`Envoy::until`].

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

pub use sidecar::{Asks, Sidecar};

use crate::{http, needs};
use sidecar::SDS_CLUSTER;

/// The path of Envoy's program, even if the variable names the script that PyPI's package installs.
///
/// # Errors
/// The reason for skipping the test.
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

/// A running Envoy. Dropping it ends it.
#[derive(Debug)]
pub struct Envoy {
    _child: Child,
    name: String,
    log: PathBuf,
    admin: u16,
}

/// The certificates in `/certs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The URI and serial number of each of Envoy's own certificates.
    pub own: Vec<(String, String)>,
    /// The URIs of the authorities.
    pub authorities: Vec<String>,
}

impl Envoy {
    /// Starts an Envoy with this configuration. Its files are in `folder`.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(program: &Path, folder: &Path, sidecar: &Sidecar<'_>) -> Self {
        Self::start_with(program, folder, sidecar.name, &sidecar.bootstrap()).await
    }

    /// Starts an Envoy with any configuration.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_with(program: &Path, folder: &Path, name: &str, configuration: &Value) -> Self {
        // JSON is YAML.
        Self::start_yaml(program, folder, name, &configuration.to_string()).await
    }

    /// Starts an Envoy with any configuration, as YAML.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_yaml(program: &Path, folder: &Path, name: &str, configuration: &str) -> Self {
        let file = |kind: &str| folder.join(format!("{name}.{kind}"));
        let (bootstrap, address, log) = (file("yaml"), file("admin"), file("log"));
        std::fs::write(&bootstrap, configuration).expect("written");
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

    /// Calls `ask` until it returns a value.
    ///
    /// # Panics
    /// If there is none after `PATIENCE`. The message has Envoy's log.
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

    /// Waits until Envoy listens, and returns the port of its only listener.
    pub async fn port(&self) -> u16 {
        *self.ports().await.values().next().expect("there is one")
    }

    /// Waits until Envoy listens, and returns the ports of its listeners by name.
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

    /// Sends a GET to a listener, and returns the status.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn request(port: u16) -> Result<u16, String> {
        http::get(port, "/").await.map(|(status, _)| status)
    }

    /// Sends a GET to a listener, and returns the status and the body.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get(port: u16) -> Result<(u16, String), String> {
        http::get(port, "/").await
    }

    /// The present certificates in `/certs`.
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

    /// Waits until Envoy has a certificate with this SPIFFE ID, and returns its serial number.
    pub async fn serial(&self, id: &str) -> String {
        let ask = async || {
            let own = self.certificates().await.own;
            own.into_iter().find_map(|(uri, serial)| (uri == id).then_some(serial))
        };
        self.until(&format!("has a certificate for {id}"), ask).await
    }

    /// The value of a counter; 0 if it was never used.
    pub async fn stat(&self, name: &str) -> u64 {
        let body = self.admin(&format!("/stats?usedonly&filter=^{}$", name.replace('.', "%5C."))).await;
        let value = body.and_then(|body| body.rsplit_once(": ")?.1.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// The lines of `/clusters` about the connection to the agent and its health.
    pub async fn agent_connection(&self) -> Vec<String> {
        let body = self.admin("/clusters").await.unwrap_or_default();
        let wanted = |line: &&str| {
            line.starts_with(SDS_CLUSTER)
                && ["::cx_active::", "::health_flags::"].iter().any(|key| line.contains(key))
        };
        body.lines().filter(wanted).map(ToOwned::to_owned).collect()
    }

    /// All that Envoy has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn admin(&self, path: &str) -> Option<String> {
        http::get(self.admin, path).await.ok().map(|(_, body)| body)
    }
}

/// The URI and serial number of each certificate.
fn read(certificates: &Value) -> impl Iterator<Item = (String, String)> {
    let uri = |certificate: &Value| {
        let names = certificate["subject_alt_names"].as_array()?;
        names.iter().find_map(|name| name["uri"].as_str()).map(ToOwned::to_owned)
    };
    certificates.as_array().into_iter().flatten().filter_map(move |certificate| {
        Some((uri(certificate)?, certificate["serial_number"].as_str()?.to_owned()))
    })
}

/// Longer than Envoy's longest pause between two attempts (30 s), on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);
