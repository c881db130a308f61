//! The listener: binds the socket, or takes one that is bound, and accepts connections from callers that can be identified.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    /// Makes the socket file and listens. The file is never unlinked: pods bind-mount it, and a new file of the same
    /// name would not reach them.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path, options: Options) -> Result<Self, BindError> {
        Self::inherit(bind(path, options.mode)?, path, options)
    }

    /// Listens on a socket that another process has bound to `path`.
    ///
    /// # Errors
    /// [`BindError::Io`].
    pub fn inherit(socket: unix::UnixListener, path: &Path, options: Options) -> Result<Self, BindError> {
        let io = |source| BindError::Io { path: path.to_owned(), source };
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

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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

/// Connections that are taken from the backlog at once, beside the first.
const BATCH: usize = 16;
/// Work, in nanoseconds, to find out who has connected: credentials, a pidfd, the cgroup.
const ACCEPTED: u64 = 25_000;
/// The log's group for callers of which nothing is known, because no descriptor was free for them.
const NO_GROUP: &str = "";
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
