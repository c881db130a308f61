//! Whose daemon answers at a socket. The path of a user's Podman socket follows from the cgroups of a process, and lies in
//! a folder of that user.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};

/// Checks that the daemon at the other end belongs to user `owner`, if that is demanded: it listened with this user ID.
/// Root may listen for the user where the whole path is root's. Otherwise the user could make the path lead to a daemon of
/// root's, and pass the containers of others off as theirs.
pub(super) fn check(stream: &UnixStream, path: &Path, owner: Option<u32>) -> io::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    let listener = getsockopt(stream, sockopt::PeerCredentials)?.uid();
    if listener == owner || (listener == ROOT && is_of_root(path)) {
        return Ok(());
    }
    let reason = format!("its daemon runs as user {listener}, and must run as user {owner}");
    Err(io::Error::new(ErrorKind::PermissionDenied, reason))
}

/// Whether the socket, its folders, and links in the place of any of them are root's.
fn is_of_root(path: &Path) -> bool {
    let of_root = |path: &Path| path.symlink_metadata().is_ok_and(|file| file.uid() == ROOT);
    path.is_absolute() && path.ancestors().all(of_root)
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn a_daemon_belongs_to_its_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        let own = geteuid().as_raw();
        assert!(check(&stream, &path, None).is_ok());
        assert!(check(&stream, &path, Some(own)).is_ok());
        let other = check(&stream, &path, Some(own + 1));
        if own == ROOT {
            assert!(other.is_ok(), "root listens, and the path is root's");
            let link = folder.path().join("link");
            symlink(&path, &link).unwrap();
            nix::unistd::fchownat(
                nix::fcntl::AT_FDCWD,
                &link,
                Some(1.into()),
                None,
                nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
            )
            .unwrap();
            let refusal = check(&stream, &link, Some(1)).unwrap_err();
            assert_eq!(refusal.to_string(), "its daemon runs as user 0, and must run as user 1");
        } else {
            assert_eq!(other.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn paths_that_are_no_roots() {
        assert!(is_of_root(Path::new("/proc/self/../self")) == geteuid().is_root());
        assert!(!is_of_root(Path::new("run")) && !is_of_root(Path::new("/no/such/file")));
    }
}
