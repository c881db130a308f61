//! The `docker` attestor: from a process to its container, and from the container to its labels, environment and image,
//! which Docker or Podman knows (SPIRE, `workloadattestor/docker`).
//!
//! 1. `place` reads from the cgroups, on every call, which container the process is in and whose daemon knows it. A process
//!    outside of containers is a success without selectors.
//! 2. `daemon` asks that daemon. A container's labels, environment and image never change, so callers of one container
//!    share a look, and it holds for a second.
//! 3. `parse` keeps what becomes a selector, up to a limit.
//!
//! The daemon of a user may say anything of that user's containers, and be as slow as it likes. `owner` makes sure that it
//! is the user's, and that a container in the cgroups of a user is none of another daemon. Each user's daemon has turns and limits of its own, so that it holds up nobody else's containers.

mod daemon;
mod owner;
mod parse;
mod place;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::debug;

pub use self::daemon::DaemonError;
use self::daemon::Endpoint;
use self::owner::Owner;
pub use self::parse::{
    Container as Inspected, ParseError, container as parse_container, image_id as parse_image_id,
};
use self::place::{Daemon, Matcher};
use super::looks::Looks;
use crate::container::{self, ContainerError, Locator};
use crate::lock;

/// The `docker` workload attestor.
#[derive(Debug)]
pub struct Docker {
    options: Options,
    matchers: Vec<Matcher>,
    turns: Turns,
    looks: Looks<(Daemon, String), Inspected, DockerError>,
}

/// The settings of [`Docker`], named as in agent.conf.
#[derive(Debug, Clone)]
pub struct Options {
    /// The socket of the Docker daemon.
    pub docker_socket_path: PathBuf,
    /// The version of the API, major and minor; `None` to negotiate it.
    pub docker_version: Option<(u32, u32)>,
    /// Patterns that find the container ID in a cgroup path. If there are none, [`Locator::Ids`] finds it.
    pub container_id_cgroup_matchers: Vec<String>,
    /// Whether to log the cgroups of each process and the outcome, at `debug`.
    pub verbose_container_locator_logs: bool,
    /// The socket of root's Podman.
    pub podman_socket_path: PathBuf,
    /// The socket of a user's Podman: the path before and after the user ID.
    pub podman_user_sockets: (String, String),
    /// Where proc is mounted.
    pub proc: PathBuf,
}

/// Why a process could not be attested. The text is SPIRE's.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// The container of the process cannot be found.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Two cgroups of the process name different containers, by the configured patterns.
    #[error("workloadattestor/docker: multiple container IDs found in cgroups ({0}, {1})")]
    TwoContainers(String, String),
    /// A pattern matched a cgroup in which the place of the ID is empty.
    #[error("workloadattestor/docker: a pattern matched, but no container id was found")]
    BlankId,
    /// A pattern matched a cgroup in which the place of the ID has something else.
    #[error("container id {0:?} is not 64 hexadecimal digits")]
    NoId(String),
    /// The daemon gives no answer; this is the last failure.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The daemon is asked about so many containers that none was asked about this one in time.
    #[error("the daemon is busy")]
    Busy,
    /// The task that reads files was cancelled or has panicked.
    #[error("attestation was interrupted")]
    Interrupted,
    /// The look that this process shared with others has failed.
    #[error("{0}")]
    Shared(Arc<Self>),
}

impl DockerError {
    /// SPIRE's gRPC code for this error. It appears only in the log.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Container(ContainerError::ContainerIds(..)) => "FailedPrecondition",
            Self::Container(_) | Self::Interrupted => "Internal",
            Self::Shared(reason) => reason.code(),
            _ => "Unknown",
        }
    }
}

impl Docker {
    /// Makes an attestor with these settings.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let matchers = options.container_id_cgroup_matchers.iter().map(|text| Matcher::new(text)).collect();
        Self { options, matchers, turns: Turns::default(), looks: Looks::default() }
    }

    /// What its daemon knows of the container of a process; empty if it runs in none. The caller must check afterwards
    /// that the pid still names that process.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn attest(&self, pid: i32) -> Result<Arc<Inspected>, DockerError> {
        let Some((daemon, id)) = self.place(pid).await? else { return Ok(Arc::default()) };
        let look = look(self.endpoint(daemon), id.clone(), self.turns.of(daemon));
        self.looks.get((daemon, id), look).await.map_err(DockerError::Shared)
    }

    /// The container of a process and the daemon that knows it. It is read on every call, as a process can move to
    /// another cgroup.
    async fn place(&self, pid: i32) -> Result<Option<(Daemon, String)>, DockerError> {
        let cgroup = container::read_cgroup(&self.options.proc, pid)?;
        let found = self.id(pid, &cgroup).await;
        if self.options.verbose_container_locator_logs {
            let shown: String = cgroup.chars().take(LOGGED).collect();
            debug!(pid, cgroup = %shown, container = ?found, "Located the container of a process");
        }
        Ok(found?.map(|id| (place::daemon(&cgroup, &id), id)))
    }

    async fn id(&self, pid: i32, cgroup: &str) -> Result<Option<String>, DockerError> {
        if !self.matchers.is_empty() {
            return place::matched_id(cgroup, &self.matchers);
        }
        if let Some(id) = container::container_id(cgroup)? {
            return Ok(Some(id));
        }
        if !place::is_near(cgroup) {
            return Ok(None);
        }
        let proc = self.options.proc.clone();
        let work = tokio::task::spawn_blocking(move || container::locate_by_mounts(&proc, pid, Locator::Ids));
        Ok(work.await.map_err(|_| DockerError::Interrupted)??.map(|container| container.id))
    }

    fn endpoint(&self, daemon: Daemon) -> Endpoint {
        let options = &self.options;
        let (docker, version) = (options.docker_socket_path.clone(), options.docker_version);
        match daemon {
            Daemon::Docker => Endpoint { socket: docker, owner: Owner::Any, version, most: ANSWER },
            Daemon::DockerOf(uid) => {
                Endpoint { socket: docker, owner: Owner::User(uid), version, most: ANSWER_OF_USER }
            }
            Daemon::Podman => {
                let socket = options.podman_socket_path.clone();
                Endpoint { socket, owner: Owner::Any, version: None, most: ANSWER }
            }
            Daemon::PodmanOf(uid) => {
                let (before, after) = &options.podman_user_sockets;
                let socket = format!("{before}{uid}{after}").into();
                Endpoint { socket, owner: Owner::UserOrRoot(uid), version: None, most: ANSWER_OF_USER }
            }
        }
    }
}

/// Asks the daemon, and again after each of [`PAUSES`] if it fails: it may be starting, and a container's first process may
/// be faster than its daemon.
async fn look(endpoint: Endpoint, id: String, turns: Arc<Semaphore>) -> Result<Inspected, DockerError> {
    let mut pauses = PAUSES.into_iter();
    loop {
        let turn = timeout(BUSY, Arc::clone(&turns).acquire_owned()).await.map_err(|_| DockerError::Busy)?;
        let turn = turn.map_err(|_| DockerError::Interrupted)?;
        match (endpoint.look(&id, turn).await, pauses.next()) {
            (Ok(found), _) => return Ok(found),
            (Err(_), Some(pause)) => sleep(pause).await,
            (Err(reason), None) => return Err(reason.into()),
        }
    }
}

/// How many looks each daemon has at a time. The daemon of one user does not use up those of another.
#[derive(Debug)]
struct Turns {
    docker: Arc<Semaphore>,
    podman: Arc<Semaphore>,
    users: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

impl Turns {
    fn of(&self, daemon: Daemon) -> Arc<Semaphore> {
        match daemon {
            Daemon::Docker => Arc::clone(&self.docker),
            Daemon::Podman => Arc::clone(&self.podman),
            Daemon::DockerOf(uid) | Daemon::PodmanOf(uid) => {
                let mut users = lock(&self.users);
                // Somebody who holds or awaits a turn has another reference.
                users.retain(|other, turns| *other == uid || Arc::strong_count(turns) > 1);
                Arc::clone(users.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(LOOKS_OF_USER))))
            }
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        let of_root = || Arc::new(Semaphore::new(LOOKS));
        Self { docker: of_root(), podman: of_root(), users: Mutex::default() }
    }
}

/// The pauses between tries (SPIRE, `retry.go`).
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];
/// How long a look waits for its turn.
const BUSY: Duration = Duration::from_secs(20);
/// Looks at a time at a daemon of root's, and at that of a user.
const LOOKS: usize = 4;
const LOOKS_OF_USER: usize = 2;
/// The longest answer of a daemon of root's, and of that of a user. Usually it has some kilobytes.
const ANSWER: usize = 4 << 20;
const ANSWER_OF_USER: usize = 256 << 10;
/// How much of a process's cgroups is logged.
const LOGGED: usize = 1024;
