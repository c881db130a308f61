//! The hand-over from a running agent to its successor: a new version of a DaemonSet's pod beside the old one
//! (`maxSurge: 1`), or whoever else starts `finial keep` with the same configuration.
//!
//! ```text
//!  successor                                   predecessor
//!  connects to <data_dir>/handover.sock
//!  "finial-handover 1"              ────────>
//!                                   <────────  "take NAME ..." with a descriptor for each name: sockets and memory
//!  attests if it must, syncs
//!  accepts callers; "ready"         ────────>  accepts no more; ends its connections one after another
//!  holds the connection             ─ ─ ─ ─    is asked to end by whoever started it
//! ```
//!
//! If the successor is gone before it is ready, its predecessor has lost nothing and goes on. If it is gone later, the
//! predecessor ends, and its keeper starts an agent again with the same sockets. The socket belongs to the agent's user and
//! has mode 0600; both sides check the other's user besides.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holder::{Channel, Received};
use rustix::process::geteuid;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// A connection between two agents.
#[derive(Debug)]
pub(crate) struct Line {
    stream: UnixStream,
    /// The same socket, for messages with descriptors.
    channel: Channel,
}

/// Why there is no hand-over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The other side does something else than was agreed.
    #[error("the other agent says {0:?}")]
    Words(String),
    /// It belongs to another user.
    #[error("the other agent belongs to user {0}")]
    User(u32),
    /// It says nothing.
    #[error("the other agent has not answered within {LIMIT:?}")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Line {
    /// Connects to an agent that runs with this data folder. `None` if there is none.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn connect(data_dir: &Path) -> Result<Option<Self>, Refused> {
        match UnixStream::connect(path(data_dir)).await {
            Ok(stream) => Self::new(stream).map(Some),
            Err(reason)
                if matches!(
                    reason.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(reason) => Err(reason.into()),
        }
    }

    fn new(stream: UnixStream) -> Result<Self, Refused> {
        let uid = stream.peer_cred()?.uid();
        if uid != geteuid().as_raw() {
            return Err(Refused::User(uid));
        }
        let channel = Channel::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self { stream, channel })
    }

    /// Asks for all that the other agent has, and returns it with its names.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn take(&self) -> Result<Vec<(String, OwnedFd)>, Refused> {
        self.channel.send(HELLO, &[])?;
        let answer = timeout(LIMIT, self.receive()).await.map_err(|_| Refused::Silent)??;
        let Some(Received { text, descriptors }) = answer else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        };
        let names = text.strip_prefix(TAKE).map(|names| names.split_ascii_whitespace().map(str::to_owned));
        match names {
            Some(names) if names.clone().count() == descriptors.len() => Ok(names.zip(descriptors).collect()),
            _ => Err(Refused::Words(text)),
        }
    }

    /// Says that callers are served from now on.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub(crate) fn ready(&self) -> io::Result<()> {
        self.channel.send(READY, &[])
    }

    /// Waits for a successor that wants to take over, and checks what it says.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn asked(&self) -> Result<(), Refused> {
        match timeout(LIMIT, self.receive()).await.map_err(|_| Refused::Silent)?? {
            Some(Received { text, .. }) if text == HELLO => Ok(()),
            Some(Received { text, .. }) => Err(Refused::Words(text)),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Gives what this agent has.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub(super) fn give(&self, things: &[(String, OwnedFd)]) -> io::Result<()> {
        let names: Vec<&str> = things.iter().map(|(name, _)| &**name).collect();
        let descriptors: Vec<_> = things.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
        self.channel.send(&format!("{TAKE}{}", names.join(" ")), &descriptors)
    }

    /// Whether the successor has said that it is ready. It may take as long as it needs.
    pub(super) async fn is_ready(&self) -> bool {
        matches!(self.receive().await, Ok(Some(Received { text, .. })) if text == READY)
    }

    /// Ends when the other agent is gone.
    pub(crate) async fn gone(&self) {
        while let Ok(Some(_)) = self.receive().await {}
    }

    async fn receive(&self) -> io::Result<Option<Received>> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_io(Interest::READABLE, || self.channel.receive()) {
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }
}

/// Where an agent waits for its successor.
#[derive(Debug)]
pub(crate) struct Post(UnixListener);

impl Post {
    /// Opens the socket, and replaces one that nobody serves.
    ///
    /// # Errors
    /// Those of bind(2); [`io::ErrorKind::AddrInUse`] if another agent waits there.
    pub(super) fn open(data_dir: &Path) -> io::Result<unix::UnixListener> {
        fs::create_dir_all(data_dir)?;
        let path = path(data_dir);
        match unix::UnixStream::connect(&path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            // Another file refuses connections, too, and is not ours to remove.
            Err(reason) if reason.kind() == io::ErrorKind::ConnectionRefused => {
                if fs::symlink_metadata(&path)?.file_type().is_socket() {
                    fs::remove_file(&path)?;
                }
            }
            Err(_) => {}
        }
        let listener = unix::UnixListener::bind(&path)?;
        // The umask has left it writable for nobody else in the meantime.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    pub(super) fn new(listener: unix::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self(UnixListener::from_std(listener)?))
    }

    /// Waits for a connection of an agent of the same user.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) async fn accept(&self) -> Result<Line, Refused> {
        let (stream, _) = self.0.accept().await?;
        Line::new(stream)
    }
}

/// The path of the socket.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("handover.sock")
}

/// The first words of a successor. The number is the version of what follows.
const HELLO: &str = "finial-handover 1";
const TAKE: &str = "take ";
const READY: &str = "ready";
/// How long to wait for words that need no work.
const LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    async fn pair(folder: &Path) -> (Line, Line) {
        let post = Post::new(Post::open(folder).unwrap()).unwrap();
        let (successor, predecessor) = tokio::join!(Line::connect(folder), post.accept());
        (successor.unwrap().unwrap(), predecessor.unwrap())
    }

    #[tokio::test]
    async fn what_is_given_is_taken_and_both_notice_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (successor, predecessor) = pair(folder.path()).await;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"kept").unwrap();
        let giving = async {
            predecessor.asked().await.unwrap();
            predecessor.give(&[("memory".to_owned(), OwnedFd::from(file))]).unwrap();
            assert!(predecessor.is_ready().await);
            predecessor.gone().await;
        };
        let taking = async {
            let [(name, descriptor)] = <[_; 1]>::try_from(successor.take().await.unwrap()).unwrap();
            let (mut file, mut text) = (File::from(descriptor), String::new());
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!((&*name, &*text), ("memory", "kept"));
            successor.ready().unwrap();
            drop(successor);
        };
        tokio::join!(giving, taking);
    }

    #[tokio::test]
    async fn a_successor_that_goes_is_not_ready() {
        let folder = tempfile::tempdir().unwrap();
        let (successor, predecessor) = pair(folder.path()).await;
        drop(successor);
        assert!(!predecessor.is_ready().await);
        assert!(predecessor.asked().await.is_err());
    }

    #[tokio::test]
    async fn other_words_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (successor, predecessor) = pair(folder.path()).await;
        successor.channel.send("finial-handover 2", &[]).unwrap();
        assert!(matches!(predecessor.asked().await, Err(Refused::Words(_))));
        predecessor.channel.send("take a b", &[]).unwrap();
        assert!(matches!(successor.take().await, Err(Refused::Words(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (successor, predecessor) = pair(folder.path()).await;
        assert!(matches!(predecessor.asked().await, Err(Refused::Silent)));
        assert!(matches!(successor.take().await, Err(Refused::Silent)));
    }

    #[tokio::test]
    async fn the_socket_is_for_its_user_alone_and_a_dead_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Line::connect(folder.path()).await.unwrap().is_none());
        let first = Post::open(folder.path()).unwrap();
        let mode = fs::metadata(path(folder.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Post::open(folder.path()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(Line::connect(folder.path()).await.unwrap().is_none());
        drop(Post::open(folder.path()).unwrap());
        fs::remove_file(path(folder.path())).unwrap();
        fs::write(path(folder.path()), "mine").unwrap();
        assert_eq!(Post::open(folder.path()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(path(folder.path())).unwrap(), b"mine");
    }
}
