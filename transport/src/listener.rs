//! The listener: binds or inherits the socket, and accepts connections from callers that can be identified.

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

/// A listening Unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Connections that were taken from the backlog and not looked at yet.
    arrived: VecDeque<OwnedFd>,
    /// The backlog may hold more, but the connections of the last batch run first.
    yields: bool,
    processes: Processes,
    slots: Budget,
    bytes: Budget,
    complaints: Arc<Complaints>,
}

/// Limits for callers, and where their processes are looked up. The public socket is open to every process of the
/// node.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limits of connections. Each takes a descriptor, and so may its process, so `whole` and `spare` together may be
    /// half of the descriptors that are meant for callers.
    pub slots: budget::Limits,
    /// The budget of bytes that are kept for callers. Each connection gets an account in it.
    pub bytes: Budget,
    /// The path of the host's `/proc`.
    pub proc: PathBuf,
    /// Permissions of the socket file: 0777 for the public socket, 0770 for the admin socket.
    pub mode: u32,
}

impl Listener {
    /// Takes the listener that the supervisor passed (`LISTEN_FDS`), if one is bound to `path`; otherwise makes the
    /// socket file. The file is never unlinked: pods bind-mount it, and a new file of the same name would not reach
    /// them.
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

    /// The path of the socket file, as configured.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the next caller. A caller that cannot be identified, or for which there is no slot, is closed here.
    /// The owner may call it again at once: other tasks run after each batch of callers.
    pub async fn accept(&mut self) -> Connection {
        loop {
            while let Some(arrived) = self.arrived.pop_front() {
                if let Some(caller) = self.admit(&arrived) {
                    match UnixStream::from_std(arrived.into()) {
                        Ok(stream) => return caller.connection(stream),
                        Err(reason) => self.log_failure(NO_GROUP, &reason),
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
                // The caller waits in the backlog until a descriptor or memory is free again.
                Err(reason) => {
                    self.log_failure(NO_GROUP, &reason);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes up to [`BATCH`] further connections from the backlog: it is short, and once it is full, the system
    /// refuses all callers. An error here comes again at the next accept, and is logged there.
    fn receive(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while self.arrived.len() < BATCH {
            let Ok(arrived) = accept_with(&self.socket, flags) else { return };
            self.arrived.push_back(arrived);
        }
        self.yields = true;
    }

    /// Identifies the caller and takes a slot for it. `None` when the caller is gone or not identifiable, or no slot
    /// is free.
    fn admit(&mut self, socket: &impl AsFd) -> Option<Caller> {
        // A caller that connects and leaves again and again must cost next to nothing.
        if is_closed_by_caller(socket) {
            return None;
        }
        let peer = match Peer::of(socket, &self.processes, &self.bytes, &self.complaints) {
            Ok(peer) => peer,
            Err(Unidentified { reason, group }) => {
                self.log_failure(&group, &reason);
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

    fn log_failure(&mut self, group: &str, reason: &io::Error) {
        if self.complaints.admit(group, "accept") {
            warn!(error = %reason, group, "Connection failed during accept");
        }
    }
}

/// An identified caller with a slot.
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

/// Whether the other end is closed, so that nothing reaches it any more.
fn is_closed_by_caller(socket: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A half-closed socket does not count: such a caller still reads.
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

/// A listener that the supervisor passed and that is bound to `path`. All passed listeners are taken from the
/// environment once; those for other paths are kept for later calls.
fn inherited(path: &Path) -> Option<unix::UnixListener> {
    static HANDED_OVER: OnceLock<Mutex<Vec<unix::UnixListener>>> = OnceLock::new();
    let waiting = HANDED_OVER.get_or_init(|| {
        let mut handed = listenfd::ListenFd::from_env();
        Mutex::new((0..handed.len()).filter_map(|n| handed.take_unix_listener(n).ok().flatten()).collect())
    });
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours = |socket: &unix::UnixListener| {
        socket
            .local_addr()
            .is_ok_and(|address| address.as_pathname().is_some_and(|bound| same_file(bound, path)))
    };
    waiting.iter().position(is_ours).map(|ours| waiting.swap_remove(ours))
}

/// Whether two paths name the same socket file. One folder may have two names: `/var/run` is often a link to `/run`.
fn same_file(a: &Path, b: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
    a == b || (a.file_name() == b.file_name() && folder(a).is_some() && folder(a) == folder(b))
}

/// Connections that are taken from the backlog at once, beside the first.
const BATCH: usize = 16;
/// Work, in nanoseconds, to find out who has connected: credentials, a pidfd, the cgroup.
const ACCEPTED: u64 = 25_000;
/// The log's group for callers of which nothing is known, because no descriptor was free for them.
const NO_GROUP: &str = "";
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
