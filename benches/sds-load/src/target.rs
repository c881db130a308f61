//! Checks the socket and the process behind it before a run starts.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::Error;
use crate::process::Process;

/// The process to measure: `pid`, or the one that listens.
pub(crate) fn find(socket: &Path, pid: Option<u32>) -> Result<Option<Process>, Error> {
    let path = || socket.to_owned();
    if !std::fs::metadata(socket).map_err(|error| refusal(socket, error))?.file_type().is_socket() {
        return Err(Error::NotASocket(path()));
    }
    let connected = UnixStream::connect(socket).map_err(|error| refusal(socket, error))?;
    match pid {
        Some(pid) => Process::of(pid).map(Some).ok_or(Error::NoProcess(pid)),
        None => Ok(Process::behind(&connected)),
    }
}

fn refusal(socket: &Path, error: std::io::Error) -> Error {
    let path = socket.to_owned();
    match error.kind() {
        ErrorKind::NotFound => Error::NoSocket(path),
        ErrorKind::PermissionDenied => Error::Forbidden(path),
        ErrorKind::ConnectionRefused => Error::Refused(path),
        _ => Error::Connect { path, source: error },
    }
}

/// Raises the limit of open files of this process and its children as far as possible, and checks that it suffices.
pub(crate) fn raise_descriptors(connections: usize, processes: usize, streams: usize) -> Result<(), Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    // If the limit cannot be raised, the present one counts.
    let allowed = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_or(soft, |()| hard);
    let needed = (connections.div_ceil(processes)).max(4 * processes) as u64 + SPARE;
    if needed > allowed {
        return Err(Error::Descriptors { streams, needed, allowed });
    }
    Ok(())
}

const SPARE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_wrong_socket_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let found = |path: &Path| find(path, None).map(drop).unwrap_err();
        assert!(matches!(found(&socket), Error::NoSocket(_)));
        assert!(matches!(found(folder.path()), Error::NotASocket(_)));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(matches!(found(&socket), Error::Refused(_)));
    }

    #[test]
    fn the_listener_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(find(&socket, None).unwrap().map(Process::id), Some(std::process::id()));
        assert!(matches!(find(&socket, Some(u32::MAX / 2)), Err(Error::NoProcess(_))));
    }
}
