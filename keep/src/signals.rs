//! Signals, as something to wait for.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use rustix::process::Signal;
use signal_hook::{flag, low_level::pipe};

/// The signals that this process handles.
pub(super) struct Signals {
    wake: UnixStream,
    flags: [(Caught, Arc<AtomicBool>); 6],
}

/// A signal that has come, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caught {
    /// A child has ended.
    Child,
    /// This process shall end, and the agent before it.
    Stop(Signal),
    /// For the agent alone.
    Other(Signal),
}

impl Signals {
    /// Handles them from now on.
    pub(super) fn new() -> io::Result<Self> {
        let (wake, wakes) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        wakes.set_nonblocking(true)?;
        let handle = |number, caught| {
            let came = Arc::<AtomicBool>::default();
            // The flag is set before the wake-up: handlers run in the order of their registration.
            flag::register(number, Arc::clone(&came))?;
            pipe::register(number, wakes.try_clone()?)?;
            io::Result::Ok((caught, came))
        };
        let flags = [
            handle(SIGCHLD, Caught::Child)?,
            handle(SIGTERM, Caught::Stop(Signal::TERM))?,
            handle(SIGINT, Caught::Stop(Signal::INT))?,
            // The agent does not handle it, and ends by it.
            handle(SIGHUP, Caught::Stop(Signal::HUP))?,
            handle(SIGUSR1, Caught::Other(Signal::USR1))?,
            handle(SIGUSR2, Caught::Other(Signal::USR2))?,
        ];
        Ok(Self { wake, flags })
    }

    /// The signals that have come since the last call, each once.
    pub(super) fn caught(&mut self) -> Vec<Caught> {
        let mut woken = [0; 64];
        while self.wake.read(&mut woken).is_ok_and(|count| count > 0) {}
        let came = |(_, came): &&(Caught, Arc<AtomicBool>)| came.swap(false, Ordering::SeqCst);
        self.flags.iter().filter(came).map(|(caught, _)| *caught).collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
