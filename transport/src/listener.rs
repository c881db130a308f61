//! Accepting.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use budget::{Account, Budget, Charge};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with};
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use crate::Connection;
use crate::bind::{BindError, bind};
use crate::complaints::Complaints;
use crate::peer::{Peer, Processes, Unidentified};

/// The public socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Taken from the backlog, and not looked at yet.
    arrived: VecDeque<OwnedFd>,
    /// There may be more in the backlog, but the connections of the last batch come first.
    yields: bool,
    processes: Processes,
    slots: Budget,
    bytes: Budget,
    complaints: Arc<Complaints>,
}

/// What callers may take, and where they are looked up. The socket is open to everybody on the node.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections, each of which takes one. The process of a connection takes a descriptor too, so the whole and its
    /// spare may be half as many as there are descriptors for callers.
    pub slots: budget::Limits,
    /// What is kept for callers, in bytes. Each connection gets an account in it.
    pub bytes: Budget,
    /// The `/proc` of the host.
    pub proc: PathBuf,
    /// Permissions of the socket file: 0777 for the public one, 0770 for the admin one.
    pub mode: u32,
}

impl Listener {
    /// Takes the listener that the supervisor handed over (`LISTEN_FDS`, where one of them is bound to `path`), else
    /// makes the socket file. It is never unlinked: pods bind-mount it, and a new file under the same name would be another
    /// file.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path, options: Options) -> Result<Self, BindError> {
        let io = |source| BindError::Io { path: path.to_owned(), source };
        let socket = match inherited(path) {
            Some(socket) => socket,
            None => bind(path, options.mode)?,
        };
        socket.set_nonblocking(true).map_err(io)?;
        Ok(Self {
            socket: UnixListener::from_std(socket).map_err(io)?,
            path: path.to_owned(),
            arrived: VecDeque::with_capacity(BATCH),
            yields: false,
            processes: Processes::new(options.proc),
            slots: Budget::new(options.slots),
            bytes: options.bytes,
            complaints: Arc::default(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next caller. Those that cannot be identified, or for which there is no place, are closed here. To be called
    /// again at once: others have their turn after each batch of callers.
    pub async fn accept(&mut self) -> Connection {
        loop {
            while let Some(arrived) = self.arrived.pop_front() {
                if let Some(caller) = self.admit(&arrived) {
                    match UnixStream::from_std(arrived.into()) {
                        Ok(stream) => return caller.connection(stream),
                        Err(reason) => self.failed(NOBODY, &reason),
                    }
                }
            }
            if std::mem::take(&mut self.yields) {
                tokio::task::yield_now().await;
            }
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    self.receive();
                    if let Some(caller) = self.admit(&stream) {
                        return caller.connection(stream);
                    }
                }
                // The caller waits in the backlog until a descriptor, or memory, is free again.
                Err(reason) => {
                    self.failed(NOBODY, &reason);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes those that have come with the first, at most [`BATCH`], from the backlog: it is short, and once it is full,
    /// the system refuses everybody else. What goes wrong here goes wrong again at the next first one, and is told there.
    fn receive(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while self.arrived.len() < BATCH {
            let Ok(arrived) = accept_with(&self.socket, flags) else { return };
            self.arrived.push_back(arrived);
        }
        self.yields = true;
    }

    /// Finds out who it is, and takes a place for it. `None` when there is none, or nobody to have it.
    fn admit(&mut self, socket: &impl AsFd) -> Option<Caller> {
        // Who connects and goes, again and again, is to cost us next to nothing.
        if has_gone(socket) {
            return None;
        }
        let peer = match Peer::of(socket, &self.processes, &self.bytes, &self.complaints) {
            Ok(peer) => peer,
            Err(Unidentified { reason, group }) => {
                self.failed(&group, &reason);
                return None;
            }
        };
        peer.account().work(ACCEPTED);
        let group = self.slots.group(peer.group().key());
        let slots = group.account();
        match slots.charge(1) {
            Ok(slot) => Some(Caller { peer, slots, slot }),
            Err(reason) => {
                if peer.complain("connection refused") {
                    let (group, connections) = (group.key(), group.held());
                    warn!(error = %reason, group, connections, pid = peer.process.pid, "Connection refused");
                }
                None
            }
        }
    }

    fn failed(&mut self, group: &str, reason: &io::Error) {
        if self.complaints.admit(group, "accept") {
            warn!(error = %reason, group, "Connection failed during accept");
        }
    }
}

/// A caller that has a place.
struct Caller {
    peer: Peer,
    slots: Account,
    slot: Charge,
}

impl Caller {
    fn connection(self, stream: UnixStream) -> Connection {
        Connection::new(stream, self.peer, self.slots, self.slot)
    }
}

/// Whether the other end is closed, so that nothing that we say reaches anybody.
fn has_gone(socket: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Half closed is not closed: such a caller still reads.
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
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

/// Callers taken from the backlog at once.
const BATCH: usize = 16;
/// Work that it is to find out who has connected, in nanoseconds: credentials, a pidfd, the cgroup.
const ACCEPTED: u64 = 25_000;
/// The group of the callers of whom nothing is known, as there is no descriptor for them.
const NOBODY: &str = "";
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
