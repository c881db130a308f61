//! Two Envoys that talk mutual TLS with the agent's secrets, and what they notice of the agent's restarts.
//!
//! * [`Pair`]: `front` calls `back`. `front` has the agent's socket as a container has it that mounts the socket's file: by a
//!   bind mount in a mount namespace, which goes on showing the file of its start. `back` has it by the folder.
//! * [`Node`] (in `node`): the server, the agent's configuration, and the programs to start.
//! * [`Unit`] (in `unit`): holds what systemd would hold for a unit with a descriptor store.
//! * [`Traffic`] (in `traffic`): requests through both Envoys and connects to the socket, all the time.

mod node;
mod traffic;
mod unit;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Asks, Certificates, Envoy, Sidecar};
use tokio::time::{Instant, sleep};

pub use self::node::{Node, Real, Upstream};
pub use self::traffic::{Counts, Traffic};
pub use self::unit::Unit;
use crate::running::Outcome;

/// The Envoys. Dropping the pair ends them.
#[derive(Debug)]
pub struct Pair {
    envoys: [Envoy; 2],
    /// The serial numbers of all certificates that each Envoy has had.
    seen: [HashSet<String>; 2],
    port: u16,
}

/// How long each Envoy waited for a certificate that it has not had before; `None` for one that got none in time.
pub type Waits = [Option<Duration>; 2];

impl Pair {
    /// Starts both Envoys beside a running agent, and waits until they have certificates.
    ///
    /// # Errors
    /// If a file cannot be written.
    ///
    /// # Panics
    /// If an Envoy does not start or gets no certificate.
    pub async fn start(envoy: &Path, node: &Node<impl Upstream>) -> Outcome<Self> {
        let (folder, socket) = (node.path(""), node.path("api.sock"));
        let mounted = folder.join("mounted.sock");
        let (program, front_socket) = match mounting(envoy, &socket, &mounted, &folder)? {
            Some(script) => (script, mounted),
            None => (envoy.to_owned(), socket.clone()),
        };
        let back = Envoy::start(envoy, &folder, &sidecar("back", &socket, None)).await;
        let upstream = Some(("back", back.port().await));
        let front = Envoy::start(&program, &folder, &sidecar("front", &front_socket, upstream)).await;
        let port = front.port().await;
        let mut pair = Self { envoys: [front, back], seen: Default::default(), port };
        let waits = pair.rotated(Instant::now(), START).await;
        assert!(waits.iter().all(Option::is_some), "an Envoy has no certificate");
        Ok(pair)
    }

    /// The port of `front`, which passes requests to `back`.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until each Envoy has a certificate that it has not had before. The times are counted from `since`.
    pub async fn rotated(&mut self, since: Instant, limit: Duration) -> Waits {
        let [front, back] = &self.envoys;
        let [of_front, of_back] = &mut self.seen;
        let (front, back) = tokio::join!(
            new_certificate(front, NAMES[0], of_front, since, limit),
            new_certificate(back, NAMES[1], of_back, since, limit)
        );
        [front, back]
    }

    /// Waits until both Envoys trust this number of authorities. Returns whether they do.
    pub async fn trust(&self, authorities: usize, limit: Duration) -> bool {
        let start = Instant::now();
        for envoy in &self.envoys {
            while envoy.certificates().await.authorities.len() != authorities {
                if start.elapsed() > limit {
                    return false;
                }
                sleep(PAUSE).await;
            }
        }
        true
    }
}

async fn new_certificate(
    envoy: &Envoy,
    name: &str,
    seen: &mut HashSet<String>,
    since: Instant,
    limit: Duration,
) -> Option<Duration> {
    let id = id(name);
    while since.elapsed() < limit {
        let Certificates { own, .. } = envoy.certificates().await;
        if own.into_iter().any(|(uri, serial)| uri == id && seen.insert(serial)) {
            return Some(since.elapsed());
        }
        sleep(PAUSE).await;
    }
    None
}

fn sidecar<'a>(name: &'a str, socket: &'a Path, upstream: Option<(&'a str, u16)>) -> Sidecar<'a> {
    Sidecar {
        name,
        trust_domain: DOMAIN,
        agent: socket,
        callers: if upstream.is_some() { &[] } else { &NAMES[..1] },
        upstream,
        asks: Asks::ByName,
        certificate: None,
        authorities: None,
        foreign: None,
        impatient: false,
    }
}

/// A script that starts Envoy where `socket` is mounted at `mounted`; `None` if this user may not mount.
fn mounting(envoy: &Path, socket: &Path, mounted: &Path, folder: &Path) -> Outcome<Option<PathBuf>> {
    let may = Command::new("unshare").args(["-m", "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        println!(
            "skipped: the bind mount of the socket's file (no mount namespace); both Envoys have the folder"
        );
        return Ok(None);
    }
    fs::write(mounted, "")?;
    let script = folder.join("mounting");
    let text = format!(
        "#!/bin/sh\nexec unshare -m sh -c 'mount --bind \"$0\" \"$1\" && shift && exec \"$@\"' {} {} {} \"$@\"\n",
        socket.display(),
        mounted.display(),
        envoy.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(Some(script))
}

fn id(name: &str) -> String {
    format!("spiffe://{DOMAIN}/{name}")
}

/// The names of the Envoys: the one whose socket is mounted, and the one that has the folder.
pub const NAMES: [&str; 2] = ["front", "back"];
const DOMAIN: &str = "example.org";
/// The pause between two looks at an Envoy's certificates.
const PAUSE: Duration = Duration::from_millis(20);
const START: Duration = Duration::from_secs(60);
