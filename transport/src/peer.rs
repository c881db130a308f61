//! The caller: credentials, and its process by pidfd.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::task::AtomicWaker;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::Limits;

/// Who is on the other end of one connection. Credentials are those of the moment of `connect(2)`.
pub struct Peer {
    /// The effective user ID.
    pub uid: u32,
    /// The effective group ID.
    pub gid: u32,
    /// The process, shared by all its connections.
    pub process: Arc<Process>,
    hung_up: AtomicBool,
    waker: AtomicWaker,
    limits: Limits,
}

impl Peer {
    /// Reads the credentials of an accepted socket.
    ///
    /// # Errors
    /// When the caller has no pid in our pid namespace (the agent needs hostPID), or is gone already.
    pub(crate) fn of(socket: &impl AsFd, processes: &Processes, limits: Limits) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        if credentials.pid() <= 0 {
            return Err(io::Error::other(
                "caller has no pid here: the agent must share the host's pid namespace (hostPID)",
            ));
        }
        let process = processes.process(socket, credentials.pid())?;
        let taken = process.connections.fetch_add(1, Ordering::Relaxed);
        // Constructed before the check, so that the count goes down again by drop.
        let peer = Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            process,
            hung_up: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            limits,
        };
        if taken >= limits.connections_per_process {
            let reason = format!("process {} has {taken} connections, no more are taken", peer.process.pid);
            // Said once: a process that hammers the socket must not fill the log too.
            let said = peer.process.refused.swap(true, Ordering::Relaxed);
            return Err(if said { io::ErrorKind::QuotaExceeded.into() } else { io::Error::other(reason) });
        }
        Ok(peer)
    }

    /// Closes the connection: the caller turned out not to be what it was.
    pub fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// One more stream of this caller's process; `None` when it has as many as it may.
    #[must_use]
    pub fn open_stream(&self) -> Option<StreamPermit> {
        let process = Arc::clone(&self.process);
        let open = process.streams.fetch_add(1, Ordering::Relaxed);
        let permit = StreamPermit { process };
        (open < self.limits.streams_per_process).then_some(permit)
    }

    pub(crate) fn is_hung_up(&self, context: &std::task::Context<'_>) -> bool {
        self.waker.register(context.waker());
        self.hung_up.load(Ordering::Acquire)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("pid", &self.process.pid)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .finish_non_exhaustive()
    }
}

/// Counts as one open stream of a process until dropped.
#[derive(Debug)]
pub struct StreamPermit {
    process: Arc<Process>,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.process.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A process, held by its pidfd: while that says alive, the pid means this process and no other.
#[derive(Debug)]
pub struct Process {
    /// In our pid namespace.
    pub pid: i32,
    pidfd: OwnedFd,
    connections: AtomicUsize,
    streams: AtomicUsize,
    /// A connection too many has been logged.
    refused: AtomicBool,
}

impl Process {
    /// Whether the process has not exited. To be asked *after* reading facts of it by pid.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // A pidfd turns readable when its process exits.
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            connections: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
        }
    }
}

/// The processes that have a connection: one pidfd each, however many connections they open.
#[derive(Debug, Default)]
pub(crate) struct Processes(Mutex<HashMap<i32, Weak<Process>>>);

impl Processes {
    /// The process with this pid, whose socket this is. A caller that has exited is refused, as its pid may mean
    /// another process by now, one that has connections of its own.
    fn process(&self, socket: &impl AsFd, pid: i32) -> io::Result<Arc<Process>> {
        // Opened for every connection: that this process and the one we hold are alive, in this order, proves that
        // they are the same one.
        let fresh = Process::new(pid, pidfd(socket, pid)?);
        if !fresh.is_alive() {
            return Err(io::Error::other(format!("process {pid} has exited")));
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = held.get(&pid).and_then(Weak::upgrade).filter(|process| process.is_alive()) {
            return Ok(process);
        }
        let process = Arc::new(fresh);
        if held.len() == held.capacity() {
            held.retain(|_, process| process.strong_count() > 0);
        }
        held.insert(pid, Arc::downgrade(&process));
        Ok(process)
    }
}

/// The kernel's own pidfd of the peer (Linux 6.5), else one opened by pid: that one could in theory be of a successor
/// that got the pid between `connect` and now, as with every agent on such a kernel.
fn pidfd(socket: &impl AsFd, pid: i32) -> io::Result<OwnedFd> {
    match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(pidfd),
        Err(Errno::ENOPROTOOPT) => {
            let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
            Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
        }
        // The kernel knows the option and has no pidfd to give: the process is gone.
        Err(reason) => Err(reason.into()),
    }
}
