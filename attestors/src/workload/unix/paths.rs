//! Whether the path of a process's binary is one of the host. The kernel shows the path as the binary's mount has it. Any
//! user can make a mount namespace in which a binary of theirs lies at any path, and even a process outside of it can run
//! that binary, so a process's namespace says nothing of its path.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Which paths become selectors (`experimental { unix_paths }`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paths {
    /// All, as with spire-agent.
    #[default]
    Any,
    /// Those that lead to the same file in the mount namespace of the agent or of pid 1.
    Host,
}

impl Paths {
    /// Whether `path`, which the link `exe` shows, becomes a selector. It may wait for a file system.
    pub(super) fn admit(self, proc: &Path, exe: &Path, path: &Path) -> bool {
        self == Self::Any || leads_to(path, exe) || leads_to(&below(&proc.join("1/root"), path), exe)
    }
}

/// Whether both are one file.
fn leads_to(path: &Path, exe: &Path) -> bool {
    // The path is the kernel's, so it has no links, unless somebody has changed it since: then it is not followed.
    match (fs::symlink_metadata(path), fs::metadata(exe)) {
        (Ok(one), Ok(other)) => one.is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A proc in which the root of pid 1 is the folder `root`.
    #[test]
    fn a_path_must_lead_to_the_very_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("root/usr/bin")).unwrap();
        fs::create_dir_all(at("proc/1")).unwrap();
        symlink(at("root"), at("proc/1/root")).unwrap();
        fs::write(at("root/usr/bin/web"), "host's").unwrap();
        fs::write(at("own"), "user's").unwrap();
        let admits = |exe: &str, path: &str| Paths::Host.admit(&at("proc"), &at(exe), Path::new(path));
        assert!(admits("root/usr/bin/web", "/usr/bin/web"), "in the namespace of pid 1");
        assert!(admits("own", at("own").to_str().unwrap()), "in that of the agent");
        assert!(!admits("own", "/usr/bin/web"));
        assert!(!admits("root/usr/bin/web", "/usr/bin/other"));
        assert!(!admits("gone", "/usr/bin/web"));
        symlink(at("own"), at("link")).unwrap();
        assert!(!admits("own", at("link").to_str().unwrap()), "not by a link");
        assert!(!admits("root/usr/bin/web", "/usr/bin/web (deleted)"));
        assert!(Paths::Any.admit(&at("proc"), &at("own"), Path::new("/usr/bin/web")));
    }
}
