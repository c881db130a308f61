//! The keeper (`finial keep`): starts `finial run`, holds what it stores, and starts it again when it has ended.
//!
//! The agent opens its sockets and stores them here; when it is started again it gets them back, so that connects queue in
//! their backlogs meanwhile, and a socket file that is mounted into a container stays the one that is served. The same
//! holds for its sealed memory. This process reads no configuration, speaks no TLS, and never reads what a caller sends:
//! it is small, and there is nothing in it that could fail with the agent.
//!
//! The protocol is systemd's (see the crate `holder`), so a unit with a descriptor store holds the same things.

#![expect(clippy::disallowed_types, reason = "there is no runtime here, and no paused time")]

mod log;
mod pace;
mod signals;
mod store;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::time::Instant;

use command_fds::{CommandFdExt as _, FdMapping};
use holder::{CHANNEL, Channel, Holder, Inherited, Message, Received, pair};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use self::pace::{End, Pace};
use self::signals::{Caught, Signals};
use self::store::Store;

/// Runs `PROGRAM run` with these arguments until it is told to stop. Returns the agent's last exit code.
#[must_use]
pub fn run(program: PathBuf, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let keeper = Keeper::new(program, arguments);
    let ended = keeper.and_then(|mut keeper| {
        let ended = keeper.run();
        keeper.store.erase();
        ended
    });
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(reason) => {
            log::line("error", "The keeper ends", &[("error", reason.to_string())]);
            ExitCode::FAILURE
        }
    }
}

struct Keeper {
    /// The program's path. It is not the file that runs: after an upgrade there is another file at this path.
    program: PathBuf,
    arguments: Vec<OsString>,
    signals: Signals,
    store: Store,
    /// Who has started this process, if it wants to know.
    holder: Option<Holder>,
    agent: Option<Agent>,
    pace: Pace,
    /// An agent has served, so its successors are not refused for their configuration alone.
    has_served: bool,
    /// A signal has asked this process to end.
    stops: bool,
}

/// The process that runs at present.
struct Agent {
    pid: Pid,
    /// `None` when its end is closed, so that the agent ends soon.
    channel: Option<Channel>,
    started: Instant,
    /// It has said that it serves callers.
    serves: bool,
}

impl Keeper {
    fn new(program: PathBuf, arguments: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let mut inherited = Inherited::take();
        Ok(Self {
            signals: Signals::new()?,
            holder: inherited.holder(),
            program,
            arguments: std::iter::once("run".into()).chain(arguments).collect(),
            store: Store::new(inherited),
            agent: None,
            pace: Pace::default(),
            has_served: false,
            stops: false,
        })
    }

    fn run(&mut self) -> io::Result<u8> {
        let mut start_at = Instant::now();
        loop {
            let until_start = start_at.saturating_duration_since(Instant::now());
            if self.agent.is_none() && until_start.is_zero() {
                match self.start() {
                    Ok(agent) => self.agent = Some(agent),
                    // The program may just be replaced.
                    Err(reason) if self.has_served => {
                        let pause = self.pace.next(End::Crashed, Duration::ZERO, false);
                        let fields = [("error", reason.to_string()), ("restart_in", format!("{pause:?}"))];
                        log::line("error", "The agent cannot be started", &fields);
                        start_at = Instant::now() + pause;
                        continue;
                    }
                    Err(reason) => return Err(reason),
                }
            }
            self.wait(self.agent.is_none().then_some(until_start))?;
            self.take_messages();
            for caught in self.signals.caught() {
                match caught {
                    Caught::Child => {}
                    Caught::Stop(signal) => {
                        self.stops = true;
                        self.pass_on(signal);
                    }
                    Caught::Other(signal) => self.pass_on(signal),
                }
            }
            if let Some((status, lived)) = self.reaped() {
                // What it has sent before its end.
                self.take_messages();
                let served = self.agent.take().is_some_and(|agent| agent.serves);
                let end = End::of(status);
                if self.stops || (!self.has_served && end == End::Refused) {
                    return Ok(code(status));
                }
                let pause = self.pace.next(end, lived, served);
                let fields = [("status", words(status)), ("restart_in", format!("{pause:?}"))];
                log::line("warning", "The agent has ended; starting it again", &fields);
                start_at = Instant::now() + pause;
            } else if self.stops && self.agent.is_none() {
                return Ok(0);
            }
        }
    }

    /// Starts the agent with all that is held.
    fn start(&self) -> io::Result<Agent> {
        let (ours, theirs) = pair()?;
        let (mut names, mut descriptors): (Vec<&str>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        for (name, descriptor) in self.store.held() {
            names.push(name);
            descriptors.push(descriptor.try_clone()?);
        }
        names.push(CHANNEL);
        descriptors.push(theirs.into());
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env("LISTEN_FDS", descriptors.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            // The agent's own pid is not known before it runs, and nobody is between it and this process.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS_FIRST_FD")
            // It tells this process, which tells who has started it.
            .env_remove("NOTIFY_SOCKET");
        let mappings =
            (FIRST..).zip(descriptors).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Agent { pid, channel: Some(ours), started: Instant::now(), serves: false })
    }

    /// Waits for a signal, for a message, or for this long.
    fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        let timeout = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut polled = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        let channel: Option<BorrowedFd<'_>> =
            self.agent.as_ref().and_then(|agent| Some(agent.channel.as_ref()?.as_fd()));
        polled.extend(channel.map(|channel| PollFd::from_borrowed_fd(channel, PollFlags::IN)));
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(reason) => Err(reason.into()),
        }
    }

    fn take_messages(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        while let Some(channel) = &agent.channel {
            let Received { text, descriptors } = match channel.receive() {
                Ok(Some(received)) => received,
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => return,
                Err(reason) if reason.kind() == io::ErrorKind::InvalidData => continue,
                Ok(None) | Err(_) => {
                    agent.channel = None;
                    return;
                }
            };
            match Message::parse(&text) {
                Some(Message::Store(name)) => self.store.keep(&name, descriptors),
                Some(Message::Remove(name)) => self.store.remove(&name),
                Some(Message::Ready) => {
                    agent.serves = true;
                    if !std::mem::replace(&mut self.has_served, true)
                        && let Some(holder) = &self.holder
                    {
                        // systemd waits for it where the unit says so.
                        let _ = holder.tell(&Message::Ready, &[]);
                    }
                }
                None => {}
            }
        }
    }

    fn pass_on(&self, signal: Signal) {
        if let Some(agent) = &self.agent {
            // It may have ended just now.
            let _ = kill_process(agent.pid, signal);
        }
    }

    /// The end of the agent, and how long it lived. Other children, which a first process of a container gets, are reaped,
    /// too.
    fn reaped(&self) -> Option<(WaitStatus, Duration)> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(agent) = self.agent.as_ref().filter(|agent| agent.pid == pid) {
                ended = Some((status, agent.started.elapsed()));
            }
        }
        ended
    }
}

/// The exit code of a process, as a shell has it.
fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| Some(128 + status.terminating_signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn words(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// The number of the first descriptor that is passed (sd_listen_fds(3)).
const FIRST: i32 = 3;
