//! Making the socket file: what may stand in its place, its folder and its mode.
//!
//! | what is at `socket_path` | what happens |
//! |---|---|
//! | nothing | the socket is made, its folder too |
//! | a socket that answers | [`BindError::InUse`] |
//! | a socket that nobody serves | replaced |
//! | an empty folder (a container runtime makes one of a bind mount whose source is absent) | replaced |
//! | a folder with something in it, a file, a FIFO, a link, a device, a mount point | [`BindError::InTheWay`] |
//!
//! A link is never followed, and nothing that somebody else made is removed or changed but for the two replaced kinds.

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

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers on it.
    #[error("another process is serving on {0}: stop it first, or choose another socket_path")]
    InUse(PathBuf),
    /// The name does not fit into a socket address.
    #[error("{path} is {len} bytes long, a socket path may have 107: choose a shorter socket_path", len = path.as_os_str().len())]
    TooLong {
        /// The configured path.
        path: PathBuf,
    },
    /// Something is there that is not ours to remove.
    #[error("{path} is {what}: move it away, or choose another socket_path")]
    InTheWay {
        /// The configured path.
        path: PathBuf,
        /// What it is.
        what: Leftover,
    },
    /// A part of the path before the last is not a folder.
    #[error(
        "{folder} is not a folder, so {path} cannot be made in it: move it away, or choose another socket_path"
    )]
    NotAFolder {
        /// The configured path.
        path: PathBuf,
        /// The part of it that is something else.
        folder: PathBuf,
    },
    /// The agent's user lacks a right.
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
    /// Between making a file and opening it to all, somebody put another one in its place.
    #[error("{path} was replaced by another process while it was made: find out who writes to its folder")]
    Replaced {
        /// The file that was made.
        path: PathBuf,
    },
    /// The system says no for another reason.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The configured path.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

impl BindError {
    /// Whether trying again is of no use: the configuration names a socket that this agent cannot have.
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

/// What is found at the path of the socket and is left alone.
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

/// Makes the socket with these permissions, and listens. A slash at the end of the path is ignored, as spire-agent does.
///
/// # Errors
/// [`BindError`].
pub(crate) fn bind(path: &Path, mode: u32) -> Result<unix::UnixListener, BindError> {
    let path: &Path = &path.components().collect::<PathBuf>();
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(BindError::TooLong { path: path.to_owned() });
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // Whoever may use the socket must get there, and nobody else need.
        make_folder(path, folder, if mode & 0o7 == 0 { 0o750 } else { 0o755 })?;
    }
    make_room(path)?;
    let socket = unix::UnixListener::bind(path).map_err(|reason| BindError::of(path, reason))?;
    set_mode(path, sys::FileType::Socket, mode)?;
    Ok(socket)
}

/// Makes the socket's folder where there is none, and those above it.
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
        // Whatever the umask is.
        Ok(()) => set_mode(folder, sys::FileType::Directory, mode),
        Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => {
            // Made by somebody else meanwhile, or a link that leads nowhere.
            if folder.is_dir() { Ok(()) } else { Err(not_a_folder()) }
        }
        Err(reason) => Err(BindError::of(path, reason)),
    }
}

/// Removes what may be removed of what stands at the path.
fn make_room(path: &Path) -> Result<(), BindError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(reason) => return Err(BindError::of(path, reason)),
    };
    let removed = if found.is_socket() {
        match connect(path) {
            // With a full backlog (a server that is stopped, say) there is no waiting for a place. A socket of another
            // type (datagrams) has somebody who reads it.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => return Err(BindError::InUse(path.to_owned())),
            Err(Errno::CONNREFUSED) => fs::remove_file(path),
            Err(reason) => Err(reason.into()),
        }
    } else if found.is_dir() {
        fs::remove_dir(path)
    } else {
        return Err(BindError::InTheWay { path: path.to_owned(), what: Leftover::of(found) });
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

/// Sets the permissions of a file that was made just now, for the umask has cut them.
///
/// Not by its path: somebody who may write to the folder could have put a link to another file there. And not by the
/// socket before it is bound: Linux applies the umask to that mode too, and the umask belongs to the whole process.
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
    // The path of a descriptor leads to its file and nowhere else. (fchmod refuses a descriptor of this kind.)
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mode = found.st_mode & 0o7000 | permissions;
    fs::set_permissions(opened, Permissions::from_mode(mode)).map_err(failed)
}

const PATH_LIMIT: usize = 107;
