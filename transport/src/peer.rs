//! The caller: its credentials, its process, held by a pidfd, and its group.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use budget::{Account, Budget, Group};
use futures_util::task::AtomicWaker;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::complaints::Complaints;
use crate::group::Place;

/// The caller at the other end of a connection. Its credentials are those of the moment of `connect(2)`.
pub struct Peer {
    /// The effective user ID.
    pub uid: u32,
    /// The effective group ID.
    pub gid: u32,
    /// The caller's process, shared by all its connections.
    pub process: Arc<Process>,
    group: Group,
    account: Account,
    complaints: Arc<Complaints>,
    hung_up: AtomicBool,
    waker: AtomicWaker,
}

/// Why a caller cannot be identified.
#[derive(Debug)]
pub(crate) struct Unidentified {
    pub(crate) reason: io::Error,
    /// The name of its group, as far as it is known: the user's.
    pub(crate) group: String,
}

impl Peer {
    /// Reads the credentials of an accepted socket, and opens an account for it in the budget of bytes.
    ///
    /// # Errors
    /// The caller has no pid in the agent's pid namespace (the agent needs hostPID), or it is gone already.
    pub(crate) fn of(
        socket: &impl AsFd,
        processes: &Processes,
        bytes: &Budget,
        complaints: &Arc<Complaints>,
    ) -> Result<Self, Unidentified> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials);
        let credentials = credentials
            .map_err(|reason| Unidentified { reason: reason.into(), group: "unknown".to_owned() })?;
        let uid = credentials.uid();
        let process = processes
            .process(socket, credentials.pid())
            .map_err(|reason| Unidentified { reason, group: Place::Host.group(uid) })?;
        let group = bytes.group(&processes.place(&process).group(uid));
        Ok(Self {
            uid,
            gid: credentials.gid(),
            process,
            account: group.account(),
            group,
            complaints: Arc::clone(complaints),
            hung_up: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        })
    }

    /// A peer for another process, found by its pid, on behalf of this caller: its costs are charged to this caller.
    /// `uid` and `gid` are the process's present ones.
    ///
    /// # Errors
    /// There is no such process.
    pub fn on_behalf(&self, pid: i32, uid: u32, gid: u32) -> io::Result<Self> {
        let raw = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())?;
        Ok(Self {
            uid,
            gid,
            process: Arc::new(Process { pid, pidfd, place: OnceLock::new() }),
            group: self.group.clone(),
            account: self.account.clone(),
            complaints: Arc::clone(&self.complaints),
            hung_up: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        })
    }

    /// The caller group in the budget of bytes: the callers of the same pod or container, or else of the same user.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The connection's account in the budget of bytes. Everything that is kept for this caller is charged there.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Whether a log line of this kind about this caller may be written now. See [`Complaints::admit`].
    #[must_use]
    pub fn complain(&self, kind: &'static str) -> bool {
        self.complaints.admit(self.group.key(), kind)
    }

    /// Closes the connection, because the caller is no longer the process that it was.
    pub fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn is_hung_up(&self, context: &std::task::Context<'_>) -> bool {
        self.waker.register(context.waker());
        self.hung_up.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("pid", &self.process.pid)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("group", &self.group.key())
            .finish_non_exhaustive()
    }
}

/// A process, held by its pidfd: while the process is alive, its pid names this process and no other.
#[derive(Debug)]
pub struct Process {
    /// The pid in the agent's pid namespace.
    pub pid: i32,
    pidfd: OwnedFd,
    /// Read once: a process that moves to another cgroup stays in its group as long as it has connections.
    place: OnceLock<Place>,
}

impl Process {
    /// Whether the process has not exited. Callers ask this *after* they have read facts about it by pid.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // A pidfd becomes readable when its process exits.
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

/// All processes that have a connection. Each has one pidfd, no matter how many connections it opens.
#[derive(Debug)]
pub(crate) struct Processes {
    /// The path of the host's `/proc`.
    proc: PathBuf,
    held: Mutex<HashMap<i32, Weak<Process>>>,
}

impl Processes {
    pub(crate) fn new(proc: PathBuf) -> Self {
        Self { proc, held: Mutex::default() }
    }

    /// The process with this pid at the other end of `socket`. A process that has exited is refused, because its pid
    /// may already name another process with connections of its own.
    fn process(&self, socket: &impl AsFd, pid: i32) -> io::Result<Arc<Process>> {
        if pid <= 0 {
            return Err(io::Error::other(
                "caller has no pid here: the agent must share the host's pid namespace (hostPID)",
            ));
        }
        // A new pidfd is opened for every connection. If its process is alive, and after that the held one is too,
        // both are the same process.
        let fresh = Process { pid, pidfd: pidfd(socket, pid)?, place: OnceLock::new() };
        if !fresh.is_alive() {
            return Err(io::Error::other(format!("process {pid} has exited")));
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// The place of a process. One that cannot be read counts as the host, and is read again for the next connection.
    fn place(&self, process: &Process) -> Place {
        if let Some(place) = process.place.get() {
            return place.clone();
        }
        match Place::of_process(&self.proc, process.pid) {
            // It was read by pid, so it may be a successor's, unless the process is still alive.
            Ok(place) if process.is_alive() => process.place.get_or_init(|| place).clone(),
            _ => Place::Host,
        }
    }
}

/// The kernel's own pidfd of the peer (Linux 6.5), or, on older kernels, one opened by pid. The latter may in theory
/// be of a process that got the pid between `connect` and now, as with every agent on such a kernel.
fn pidfd(socket: &impl AsFd, pid: i32) -> io::Result<OwnedFd> {
    match getsockopt(socket, sockopt::PeerPidfd) {
        Ok(pidfd) => Ok(pidfd),
        Err(Errno::ENOPROTOOPT) => {
            let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
            Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
        }
        // The kernel supports the option but has no pidfd, because the process is gone.
        Err(reason) => Err(reason.into()),
    }
}
