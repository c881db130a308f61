//! Binding and accepting.

use std::io;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tracing::warn;

use crate::Connection;
use crate::bind::{BindError, bind};
use crate::peer::{Peer, Processes};

/// The public socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    processes: Processes,
    limits: Limits,
    slots: Arc<Semaphore>,
}

/// What callers may take. The socket is open to everybody on the node.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of one process.
    pub connections_per_process: usize,
    /// Streams of one process, over all its connections.
    pub streams_per_process: usize,
    /// Connections of all processes; more wait in the socket's backlog, and descriptors stay free for health.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_per_process: 1024, streams_per_process: 4096, connections: 65_536 }
    }
}

impl Listener {
    /// Takes the listener that the supervisor handed over (`LISTEN_FDS`, where one of them is bound to `path`), else
    /// makes the socket file. It is open to all (0777) and never unlinked: pods bind-mount it, and a new file under the
    /// same name would be another file.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path, limits: Limits) -> Result<Self, BindError> {
        let io = |source| BindError::Io { path: path.to_owned(), source };
        let socket = match inherited(path) {
            Some(socket) => socket,
            None => bind(path)?,
        };
        socket.set_nonblocking(true).map_err(io)?;
        Ok(Self {
            socket: UnixListener::from_std(socket).map_err(io)?,
            path: path.to_owned(),
            processes: Processes::default(),
            limits,
            slots: Arc::new(Semaphore::new(limits.connections)),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next caller. Those that cannot be identified are closed here, with a warning.
    pub async fn accept(&self) -> Connection {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await.expect("the semaphore is never closed");
            match self.socket.accept().await {
                Ok((stream, _)) => match Peer::of(&stream, &self.processes, self.limits) {
                    Ok(peer) => return Connection::new(stream, peer, slot),
                    Err(reason) if reason.kind() == io::ErrorKind::QuotaExceeded => {}
                    Err(reason) => warn!(error = %reason, "Connection failed during accept"),
                },
                // EMFILE and the like: the caller waits in the backlog until a descriptor is free again.
                Err(reason) => {
                    warn!(error = %reason, "Connection failed during accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The listeners that were handed over are taken from the environment once: each waits here for its `bind`.
fn inherited(path: &Path) -> Option<unix::UnixListener> {
    static HANDED_OVER: OnceLock<Mutex<Vec<unix::UnixListener>>> = OnceLock::new();
    let waiting = HANDED_OVER.get_or_init(|| {
        let mut handed = listenfd::ListenFd::from_env();
        Mutex::new((0..handed.len()).filter_map(|n| handed.take_unix_listener(n).ok().flatten()).collect())
    });
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |socket: &unix::UnixListener| {
        socket.local_addr().is_ok_and(|address| address.as_pathname().is_some_and(|bound| same(bound, path)))
    };
    waiting.iter().position(is_ours).map(|ours| waiting.swap_remove(ours))
}

/// Whether two paths name one socket file; a folder may have two names (`/var/run` is often a link to `/run`).
fn same(a: &Path, b: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
    a == b || (a.file_name() == b.file_name() && folder(a).is_some() && folder(a) == folder(b))
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
