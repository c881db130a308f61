//! Descriptors that come with the start of the process.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::{env, io};

use listenfd::ListenFd;

use crate::channel::{Channel, Holder};
use crate::{CHANNEL, memory};

/// Things with the names under which the holder has them.
pub type Named<T> = Vec<(String, T)>;

/// What the holder has passed. Empty if there is none.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: Named<UnixListener>,
    memories: Named<File>,
    holder: Option<Holder>,
}

impl Inherited {
    /// Takes all that was passed. Only the first call finds descriptors. It changes the environment, so there must be no other
    /// thread yet.
    #[must_use]
    pub fn take() -> Self {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(str::to_owned);
        let notify = env::var("NOTIFY_SOCKET").ok().filter(|address| !address.is_empty());
        let mut passed = ListenFd::from_env();
        let mut this = Self::default();
        for place in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            if name == CHANNEL {
                let channel = passed.take_custom::<OwnedFd>(
                    place,
                    nix::libc::AF_UNIX,
                    nix::libc::SOCK_SEQPACKET,
                    "a channel",
                );
                this.holder = channel.ok().flatten().map(|socket| Holder::Keep(Channel::from(socket)));
            } else if let Ok(Some(listener)) = passed.take_unix_listener(place) {
                this.listeners.push((name, listener));
            } else if let Ok(Some(number)) = passed.take_raw_fd(place)
                && let Ok(file) = reopened(number)
            {
                this.memories.push((name, file));
            }
        }
        if this.holder.is_none() {
            this.holder = notify.and_then(|address| Holder::systemd(&address).ok());
        }
        this
    }

    /// Adds what another process has passed later.
    pub fn add(&mut self, name: String, descriptor: OwnedFd) {
        if rustix::net::sockopt::socket_acceptconn(&descriptor).unwrap_or(false) {
            self.listeners.push((name, UnixListener::from(descriptor)));
        } else {
            self.memories.push((name, File::from(descriptor)));
        }
    }

    /// The listener that is bound to `path`, if one was passed and the path still leads to a socket.
    pub fn listener(&mut self, path: &Path) -> Option<UnixListener> {
        let is_ours = |(_, socket): &(String, UnixListener)| {
            let bound = socket.local_addr();
            bound.is_ok_and(|address| address.as_pathname().is_some_and(|bound| same_file(bound, path)))
        };
        // A unit of systemd may have one socket twice: from its socket unit, and stored by an earlier process.
        let mut ours = Vec::new();
        while let Some(place) = self.listeners.iter().position(is_ours) {
            ours.push(self.listeners.remove(place).1);
        }
        ours.into_iter().next().filter(|_| is_socket(path))
    }

    /// Whether listeners were passed that nobody has taken yet.
    #[must_use]
    pub fn has_listeners(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// The names of the listeners that nobody has taken. They are closed.
    pub fn leftovers(&mut self) -> Vec<String> {
        self.listeners.drain(..).map(|(name, _)| name).collect()
    }

    /// The sealed memories, the newest first, and their names.
    pub fn memories(&mut self) -> Named<File> {
        let mut memories = std::mem::take(&mut self.memories);
        memories.sort_by_key(|(_, file)| std::cmp::Reverse(memory::number(file)));
        memories
    }

    /// All listeners and memories with their names, to be passed on.
    #[must_use]
    pub fn into_parts(self) -> (Named<UnixListener>, Named<File>) {
        (self.listeners, self.memories)
    }

    /// Where messages go.
    pub fn holder(&mut self) -> Option<Holder> {
        self.holder.take()
    }
}

/// A descriptor of ours for a file that was passed, in place of the one that was passed.
fn reopened(number: i32) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{number}"))?;
    nix::unistd::close(number)?;
    Ok(file)
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}

/// Whether two paths name the same socket file. One folder may have two names: `/var/run` is often a link to `/run`.
fn same_file(a: &Path, b: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
    a == b || (a.file_name() == b.file_name() && folder(a).is_some() && folder(a) == folder(b))
}
