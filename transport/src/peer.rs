//! The caller: credentials, its process by pidfd, its group.

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

/// Who is on the other end of one connection. Credentials are those of the moment of `connect(2)`.
pub struct Peer {
    /// The effective user ID.
    pub uid: u32,
    /// The effective group ID.
    pub gid: u32,
    /// The process, shared by all its connections.
    pub process: Arc<Process>,
    group: Group,
    account: Account,
    complaints: Arc<Complaints>,
    hung_up: AtomicBool,
    waker: AtomicWaker,
}

/// A caller that cannot be identified.
#[derive(Debug)]
pub(crate) struct Unidentified {
    pub(crate) reason: io::Error,
    /// What is known of its group: its user.
    pub(crate) group: String,
}

impl Peer {
    /// Reads the credentials of an accepted socket, and opens an account for it in the budget of bytes.
    ///
    /// # Errors
    /// When the caller has no pid in our pid namespace (the agent needs hostPID), or is gone already.
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

    /// Another process, by its pid, on behalf of this caller: what it costs is charged here. The credentials are those of
    /// now.
    ///
    /// # Errors
    /// When there is no such process.
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

    /// The callers that share one budget with this one, in bytes: those of its pod or container, else of its user.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The connection's account in the budget of bytes: what is kept for this caller is charged here.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Whether a line of the log of this kind about the caller is to be written: one in a while for each group of callers.
    #[must_use]
    pub fn complain(&self, kind: &'static str) -> bool {
        self.complaints.admit(self.group.key(), kind)
    }

    /// Closes the connection: the caller turned out not to be what it was.
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

/// A process, held by its pidfd: while that says alive, the pid means this process and no other.
#[derive(Debug)]
pub struct Process {
    /// In our pid namespace.
    pub pid: i32,
    pidfd: OwnedFd,
    /// Read once: a process that is moved to another cgroup stays in its group while it has connections.
    place: OnceLock<Place>,
}

impl Process {
    /// Whether the process has not exited. To be asked *after* reading facts of it by pid.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // A pidfd turns readable when its process exits.
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

/// The processes that have a connection: one pidfd each, however many connections they open.
#[derive(Debug)]
pub(crate) struct Processes {
    /// The `/proc` of the host.
    proc: PathBuf,
    held: Mutex<HashMap<i32, Weak<Process>>>,
}

impl Processes {
    pub(crate) fn new(proc: PathBuf) -> Self {
        Self { proc, held: Mutex::default() }
    }

    /// The process with this pid, whose socket this is. A caller that has exited is refused, as its pid may mean
    /// another process by now, one that has connections of its own.
    fn process(&self, socket: &impl AsFd, pid: i32) -> io::Result<Arc<Process>> {
        if pid <= 0 {
            return Err(io::Error::other(
                "caller has no pid here: the agent must share the host's pid namespace (hostPID)",
            ));
        }
        // Opened for every connection: that this process and the one we hold are alive, in this order, proves that
        // they are the same one.
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

    /// Where a process is. What cannot be read now is read again for its next connection.
    fn place(&self, process: &Process) -> Place {
        if let Some(place) = process.place.get() {
            return place.clone();
        }
        match Place::of_process(&self.proc, process.pid) {
            // Read by pid, so it may be of a successor, unless the process is still there.
            Ok(place) if process.is_alive() => process.place.get_or_init(|| place).clone(),
            _ => Place::Host,
        }
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
