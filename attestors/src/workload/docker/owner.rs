//! Whose daemon answers at a socket. The path of a user's Podman socket follows from the cgroups of a process, and lies in
//! a folder of that user.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};

/// The user that a daemon must belong to: it listened with this user ID.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    /// Any user: the socket's path is configured, and the container's cgroups are root's.
    Any,
    /// This user: the container is in cgroups of the user.
    User(u32),
    /// This user, or root where the whole path is root's. Otherwise the user could make the path lead to a daemon of
    /// root's, and pass the containers of others off as theirs.
    UserOrRoot(u32),
}

impl Owner {
    /// Checks the owner of the daemon at the other end.
    pub(super) fn check(self, stream: &UnixStream, path: &Path) -> io::Result<()> {
        let listener = getsockopt(stream, sockopt::PeerCredentials)?.uid();
        let owner = match self {
            Self::Any => return Ok(()),
            Self::UserOrRoot(_) if listener == ROOT && is_of_root(path) => return Ok(()),
            Self::User(owner) | Self::UserOrRoot(owner) => owner,
        };
        if listener == owner {
            return Ok(());
        }
        let reason = format!("its daemon runs as user {listener}, and must run as user {owner}");
        Err(io::Error::new(ErrorKind::PermissionDenied, reason))
    }
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
        for owner in [Owner::Any, Owner::User(own), Owner::UserOrRoot(own)] {
            assert!(owner.check(&stream, &path).is_ok(), "{owner:?}");
        }
        assert!(Owner::User(own + 1).check(&stream, &path).is_err());
        let other = Owner::UserOrRoot(own + 1).check(&stream, &path);
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
            let refusal = Owner::UserOrRoot(1).check(&stream, &link).unwrap_err();
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
