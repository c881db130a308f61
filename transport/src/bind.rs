//! Makes the socket file: what may be replaced at its path, its folder and its mode.
//!
//! | what is at `socket_path` | what happens |
//! |---|---|
//! | nothing | the socket is made, and its folder if there is none |
//! | a socket that answers | [`BindError::InUse`] |
//! | a socket that nobody serves | replaced |
//! | an empty folder (a container runtime makes one of a bind mount whose source is absent) | replaced |
//! | a folder with something in it, a file, a FIFO, a link, a device, a mount point | [`BindError::InTheWay`] |
//!
//! A link is never followed. Nothing that another process made is removed or changed, except the two replaced kinds.

use std::fmt;
use std::fs::{self, FileType, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};

use rustix::fs as sys;
use rustix::io::Errno;
use rustix::net;
use rustix::process::geteuid;

#[cfg(test)]
mod tests;

/// Why the agent cannot listen on the socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process serves the socket.
    #[error("another process is serving on {0}: stop it first, or choose another socket_path")]
    InUse(PathBuf),
    /// The path does not fit into a socket address.
    #[error("{path} is {len} bytes long, a socket path may have 107: choose a shorter socket_path", len = path.as_os_str().len())]
    TooLong {
        /// The configured path.
        path: PathBuf,
    },
    /// The path names something that the agent must not remove.
    #[error("{path} is {what}: move it away, or choose another socket_path")]
    InTheWay {
        /// The configured path.
        path: PathBuf,
        /// The kind of thing at the path.
        what: Leftover,
    },
    /// A part of the path, other than the last, is not a folder.
    #[error(
        "{folder} is not a folder, so {path} cannot be made in it: move it away, or choose another socket_path"
    )]
    NotAFolder {
        /// The configured path.
        path: PathBuf,
        /// The part of the path that is something else.
        folder: PathBuf,
    },
    /// The agent's user may not write to the folder, or not replace the socket.
    #[error(
        "user {uid} may not make or replace {path}: give it write access to the folder, or choose another socket_path"
    )]
    Denied {
        /// The configured path.
        path: PathBuf,
        /// The agent's effective user ID.
        uid: u32,
    },
    /// The file system of the folder is mounted read-only.
    #[error("{path} is on a read-only file system: mount it writable, or choose another socket_path")]
    ReadOnly {
        /// The configured path.
        path: PathBuf,
    },
    /// Between making a file and setting its mode, another process replaced it.
    #[error("{path} was replaced by another process while it was made: find out who writes to its folder")]
    Replaced {
        /// The file that was made.
        path: PathBuf,
    },
    /// The system call failed for another reason.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The configured path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl BindError {
    /// Whether trying again is useless, because the configuration names a socket that this agent cannot have.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::InUse(_) | Self::TooLong { .. })
    }

    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::ACCESS | Errno::PERM) => Self::Denied { path, uid: geteuid().as_raw() },
            Some(Errno::ROFS) => Self::ReadOnly { path },
            Some(Errno::BUSY) => Self::InTheWay { path, what: Leftover::MountPoint },
            _ => Self::Io { path, source },
        }
    }
}

/// What is at the path of the socket and is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// A regular file.
    File,
    /// A named pipe.
    Fifo,
    /// A symbolic link, wherever it leads.
    Link,
    /// A folder that is not empty.
    Folder,
    /// A character or block device.
    Device,
    /// A file or an empty folder on which something is mounted.
    MountPoint,
}

impl Leftover {
    fn of(found: FileType) -> Self {
        if found.is_symlink() {
            Self::Link
        } else if found.is_fifo() {
            Self::Fifo
        } else if found.is_dir() {
            Self::Folder
        } else if found.is_file() {
            Self::File
        } else {
            Self::Device
        }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a regular file",
            Self::Fifo => "a FIFO",
            Self::Link => "a symbolic link, which is not followed",
            Self::Folder => "a folder that is not empty",
            Self::Device => "a device",
            Self::MountPoint => "a mount point",
        })
    }
}

/// Makes the socket file with permissions `mode` and listens. A slash at the end of the path is ignored, as by
/// spire-agent.
///
/// # Errors
/// [`BindError`].
pub(crate) fn bind(path: &Path, mode: u32) -> Result<unix::UnixListener, BindError> {
    let path: &Path = &path.components().collect::<PathBuf>();
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(BindError::TooLong { path: path.to_owned() });
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // Those who may use the socket must reach it; others need not.
        make_folder(path, folder, if mode & 0o7 == 0 { 0o750 } else { 0o755 })?;
    }
    make_room(path)?;
    let socket = unix::UnixListener::bind(path).map_err(|reason| BindError::of(path, reason))?;
    set_mode(path, sys::FileType::Socket, mode)?;
    Ok(socket)
}

/// Makes the socket's folder, and those above it, if they do not exist. `path` is the socket, for errors.
fn make_folder(path: &Path, folder: &Path, mode: u32) -> Result<(), BindError> {
    let not_a_folder = || BindError::NotAFolder { path: path.to_owned(), folder: folder.to_owned() };
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(not_a_folder()),
        Err(reason) if matches!(reason.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(reason) => return Err(BindError::of(path, reason)),
    }
    if let Some(above) = folder.parent() {
        make_folder(path, above, mode)?;
    }
    match fs::DirBuilder::new().mode(mode).create(folder) {
        // The umask has cut the mode.
        Ok(()) => set_mode(folder, sys::FileType::Directory, mode),
        Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => {
            // Another process made it meanwhile, or it is a link that leads nowhere.
            if folder.is_dir() { Ok(()) } else { Err(not_a_folder()) }
        }
        Err(reason) => Err(BindError::of(path, reason)),
    }
}

/// Finds out what is at the path, and changes nothing: what [`Listener::bind`](crate::Listener::bind) would meet there.
///
/// # Errors
/// [`BindError`], for what it would not replace. A folder with something in it is found only when it is to be removed.
pub fn inspect(path: &Path) -> Result<Present, BindError> {
    let path: &Path = &path.components().collect::<PathBuf>();
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(BindError::TooLong { path: path.to_owned() });
    }
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
        Err(reason) => return Err(BindError::of(path, reason)),
    };
    if found.is_socket() {
        match connect(path) {
            // EAGAIN: the backlog is full, as with a stopped server. EPROTOTYPE: a socket of another type, for
            // example a datagram socket, which some process has open.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(BindError::InUse(path.to_owned())),
            Err(Errno::CONNREFUSED) => Ok(Present::DeadSocket),
            // It was removed meanwhile.
            Err(Errno::NOENT) => Ok(Present::Nothing),
            Err(reason) => Err(BindError::of(path, reason.into())),
        }
    } else if found.is_dir() {
        Ok(Present::Folder)
    } else {
        Err(BindError::InTheWay { path: path.to_owned(), what: Leftover::of(found) })
    }
}

/// What is at the path of a socket and may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// There is nothing.
    Nothing,
    /// A socket that nobody serves.
    DeadSocket,
    /// A folder, which is replaced if it is empty.
    Folder,
}

/// Removes a dead socket or an empty folder at the path. Anything else there is an error.
fn make_room(path: &Path) -> Result<(), BindError> {
    let removed = match inspect(path)? {
        Present::Nothing => return Ok(()),
        Present::DeadSocket => fs::remove_file(path),
        Present::Folder => fs::remove_dir(path),
    };
    match removed {
        Ok(()) => Ok(()),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(reason) if reason.kind() == io::ErrorKind::DirectoryNotEmpty => {
            Err(BindError::InTheWay { path: path.to_owned(), what: Leftover::Folder })
        }
        Err(reason) => Err(BindError::of(path, reason)),
    }
}

fn connect(path: &Path) -> Result<(), Errno> {
    let flags = net::SocketFlags::NONBLOCK | net::SocketFlags::CLOEXEC;
    let socket = net::socket_with(net::AddressFamily::UNIX, net::SocketType::STREAM, flags, None)?;
    net::connect(&socket, &net::SocketAddrUnix::new(path)?)
}

/// Sets the permissions of a file that was just made, because the umask has cut them.
///
/// It does not use the path: a process that may write to the folder could have put a link to another file there. It
/// does not set the mode of the socket before it is bound either: Linux applies the umask to that mode too, and the
/// umask belongs to the whole process.
fn set_mode(path: &Path, kind: sys::FileType, permissions: u32) -> Result<(), BindError> {
    let failed = |reason| BindError::of(path, reason);
    let flags = sys::OFlags::PATH | sys::OFlags::NOFOLLOW | sys::OFlags::CLOEXEC;
    let file = sys::open(path, flags, sys::Mode::empty()).map_err(|reason| failed(reason.into()))?;
    let found = sys::fstat(&file).map_err(|reason| failed(reason.into()))?;
    if sys::FileType::from_raw_mode(found.st_mode) != kind || found.st_uid != geteuid().as_raw() {
        return Err(BindError::Replaced { path: path.to_owned() });
    }
    if found.st_mode & 0o777 == permissions {
        return Ok(());
    }
    // This path leads to the file of the descriptor and nowhere else. `fchmod` refuses descriptors that were opened
    // with O_PATH.
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mode = found.st_mode & 0o7000 | permissions;
    fs::set_permissions(opened, Permissions::from_mode(mode)).map_err(failed)
}

const PATH_LIMIT: usize = 107;
