//! `/proc/self/mountinfo` (proc(5)): on which mount a path lies.

use std::path::{Path, PathBuf};

/// A mount, as far as it matters to a socket's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) point: PathBuf,
    /// The folder of its file system that is mounted.
    pub(super) root: String,
    /// The type of its file system.
    pub(super) kind: String,
    /// It is mounted read-only.
    pub(super) is_read_only: bool,
    /// How mounts below it spread to other mount namespaces.
    pub(super) propagation: &'static str,
}

/// The mount on which `path` lies; the topmost where several lie on one another. Malformed lines are passed over.
pub(super) fn of(path: &Path, mountinfo: &str) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse).filter(|mount| path.starts_with(&mount.point));
    // `max_by_key` returns the last of several.
    mounts.max_by_key(|mount| mount.point.components().count())
}

/// Whether the root of this process is a container's: an overlay, and not a disk.
pub(super) fn is_container(mountinfo: &str) -> bool {
    of(Path::new("/"), mountinfo).is_some_and(|root| root.kind == "overlay")
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    let tagged = |tag: &str| before.split(' ').skip(6).any(|field| field.starts_with(tag));
    Some(Mount {
        point: unescaped(point).into(),
        root: unescaped(root),
        kind: after.split(' ').next()?.to_owned(),
        is_read_only: options.split(',').any(|option| option == "ro"),
        propagation: match (tagged("shared:"), tagged("master:")) {
            (true, _) => "shared",
            (false, true) => "slave",
            (false, false) => "private",
        },
    })
}

/// A path without the octal escapes of spaces, tabs, newlines and backslashes.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.into_iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
        22 1 0:21 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/l\n\
        nonsense\n\
        30 22 8:1 /var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/run /run/spire rw shared:5 - ext4 /dev/sda rw\n\
        31 30 8:1 /a\\040b /run/spire/agent\\040x ro,nosuid - tmpfs none rw\n\
        32 22 8:1 /x /run/spire rw,noatime - ext4 /dev/sda rw\n";

    #[test]
    fn the_topmost_mount_is_found() {
        let point = |path: &str| of(Path::new(path), TEXT).map(|mount| (mount.point, mount.propagation));
        assert_eq!(point("/etc/x"), Some(("/".into(), "slave")));
        assert_eq!(point("/run/spire-other"), Some(("/".into(), "slave")));
        let mount = of(Path::new("/run/spire/s"), TEXT).unwrap();
        assert_eq!((&*mount.root, &*mount.kind, mount.propagation), ("/x", "ext4", "private"));
        let escaped = of(Path::new("/run/spire/agent x/api.sock"), TEXT).unwrap();
        assert_eq!((&*escaped.root, escaped.is_read_only), ("/a b", true));
        assert!(is_container(TEXT));
        assert_eq!(of(Path::new("/"), ""), None);
    }
}
