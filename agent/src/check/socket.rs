//! The sockets: what is in their place, their folders, and the mounts below.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use config::Settings;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use transport::{BindError, Present, inspect};

use super::Line;
use super::mounts::{self, Mount};

/// The lines of both sockets.
pub(super) fn lines(settings: &Settings) -> Vec<Line> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut lines = Vec::new();
    match crate::wiring::socket_path(settings) {
        Some(path) => {
            let facts = Facts::of(path);
            lines.push(facts.line(&PUBLIC));
            lines.extend(mount_line(&facts.path, mounts::of(&facts.path, &mountinfo), &mountinfo));
        }
        None => lines.push(Line::ok(PUBLIC.name, "both APIs are off, so there is no socket")),
    }
    if let Some(path) = &settings.admin_socket_path {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        lines.push(Facts::of(path).line(&ADMIN));
    }
    lines
}

/// How a socket is called.
struct Kind {
    name: &'static str,
    setting: &'static str,
    /// Whether callers of any user must reach it.
    is_public: bool,
}

#[derive(Debug)]
struct Facts {
    path: PathBuf,
    folder: Folder,
    /// `None` if the folder is not there.
    present: Option<Result<Present, BindError>>,
    /// What is in a folder that is in the socket's place.
    is_full: bool,
}

/// The folder of a socket.
#[derive(Debug)]
enum Folder {
    /// It is there, with this mode.
    Usable(u32),
    /// It is not there, and can be made below this folder.
    Missing(PathBuf),
    /// This part of the path is something else.
    Other(PathBuf),
    /// The agent's user may not make files in this folder.
    Closed(PathBuf, io::Error),
}

impl Facts {
    fn of(path: PathBuf) -> Self {
        let folder = Folder::of(path.parent().unwrap_or_else(|| Path::new("/")));
        let present = matches!(folder, Folder::Usable(_)).then(|| inspect(&path));
        let is_full = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some());
        Self { path, folder, present, is_full }
    }

    fn line(&self, kind: &Kind) -> Line {
        let (path, Kind { name, setting, is_public }) = (self.path.display(), kind);
        let fail = |summary: String, action: String| Line::failure(name, summary, action);
        match (&self.folder, &self.present) {
            (Folder::Other(part), _) => fail(
                format!("{} is not a folder, so {path} cannot be made in it", part.display()),
                format!("Move it away, or choose another {setting}."),
            ),
            (Folder::Closed(folder, reason), _) => fail(
                format!("{} is not writable: {reason}", folder.display()),
                format!(
                    "Mount it writable and give the agent's user write access, or choose another {setting}."
                ),
            ),
            (_, Some(Err(BindError::InUse(_)))) => fail(
                format!("an agent is already running: another process serves on {path}"),
                format!("Stop it first, or choose another {setting}. A second agent would end at once."),
            ),
            (_, Some(Err(reason))) => fail(reason.to_string(), format!("Make room at {setting} {path}.")),
            (_, Some(Ok(Present::Folder))) if self.is_full => fail(
                format!("{path} is a folder that is not empty"),
                format!("Move it away, or choose another {setting}."),
            ),
            (_, Some(Ok(Present::Folder))) => {
                Line::ok(name, format!("{path} is an empty folder, which the agent replaces"))
            }
            (_, Some(Ok(Present::DeadSocket))) => {
                Line::ok(name, format!("{path} is a socket that nobody serves; the agent replaces it"))
            }
            (Folder::Usable(mode), _) if *is_public && mode & 0o001 == 0 => Line::warning(
                name,
                format!(
                    "{path} can be made, but its folder has the mode {mode:04o}: other users cannot reach it"
                ),
                "Run `chmod o+x` on the folder, unless all callers have the agent's user.",
            ),
            (Folder::Missing(above), _) => {
                Line::ok(name, format!("{path} can be made, with its folder, below {}", above.display()))
            }
            (Folder::Usable(mode), _) => {
                Line::ok(name, format!("{path} can be made in its folder (mode {mode:04o})"))
            }
        }
    }
}

impl Folder {
    fn of(folder: &Path) -> Self {
        match fs::metadata(folder) {
            Ok(found) if !found.is_dir() => Self::Other(folder.to_owned()),
            Ok(found) => match may_write(folder) {
                Ok(()) => Self::Usable(found.permissions().mode() & 0o7777),
                Err(reason) => Self::Closed(folder.to_owned(), reason),
            },
            Err(reason)
                if matches!(reason.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                match folder.parent().map(Self::of) {
                    Some(Self::Usable(_)) => Self::Missing(folder.parent().unwrap_or(folder).to_owned()),
                    Some(other) => other,
                    None => Self::Closed(folder.to_owned(), reason),
                }
            }
            Err(reason) => Self::Closed(folder.to_owned(), reason),
        }
    }
}

/// Whether the agent's user may make files in a folder. A read-only file system refuses even root.
pub(super) fn may_write(folder: &Path) -> io::Result<()> {
    Ok(accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// The line of the mount below the public socket.
fn mount_line(path: &Path, mount: Option<Mount>, mountinfo: &str) -> Option<Line> {
    let mount = mount?;
    let (name, shown, point) = ("socket-mount", path.display(), mount.point.display());
    Some(if mount.point == path {
        Line::failure(
            name,
            format!("{shown} is a mount of its own, which the agent cannot replace by its socket"),
            "Mount the folder of the socket, not the socket itself.",
        )
    } else if mount.is_read_only {
        Line::failure(
            name,
            format!("{point}, where the socket is made, is mounted read-only"),
            "Mount it writable for the agent; workloads may have it read-only.",
        )
    } else if mount.root.contains("/kubernetes.io~empty-dir/") {
        Line::warning(
            name,
            format!("{point} is an emptyDir: only containers of this pod will see the socket"),
            "Mount a hostPath there, which other pods mount as well.",
        )
    } else if mount.point == Path::new("/") && mounts::is_container(mountinfo) {
        Line::warning(
            name,
            format!("{shown} is in the container's own file system: nobody outside will see the socket"),
            "Mount a folder of the host there (hostPath, -v), which callers mount as well.",
        )
    } else {
        Line::ok(
            name,
            format!("the socket lies on {point} ({}, propagation {})", mount.kind, mount.propagation),
        )
    })
}

const PUBLIC: Kind = Kind { name: "socket", setting: "socket_path", is_public: true };
const ADMIN: Kind = Kind { name: "admin-socket", setting: "admin_socket_path", is_public: false };

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::Status;
    use super::*;

    fn line(path: PathBuf) -> Line {
        Facts::of(path).line(&PUBLIC)
    }

    #[test]
    fn what_is_in_the_way_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(line(at("new")).status, Status::Ok);
        assert!(line(at("a/b/new")).summary.contains("with its folder"));
        fs::write(at("file"), "precious").unwrap();
        assert!(line(at("file")).summary.contains("a regular file"));
        assert!(line(at("file/below")).summary.contains("file is not a folder"));
        assert!(line(at("file/a/b")).summary.contains("file is not a folder"));
        let server = UnixListener::bind(at("live")).unwrap();
        assert!(line(at("live")).summary.starts_with("an agent is already running"));
        drop(server);
        assert!(line(at("live")).summary.contains("nobody serves"));
        assert!(at("live").exists());
        fs::create_dir(at("empty")).unwrap();
        assert_eq!(line(at("empty")).status, Status::Ok);
        fs::write(at("empty/x"), "").unwrap();
        assert!(line(at("empty")).summary.contains("not empty"));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let closed = line(at("new"));
        assert_eq!((closed.status, closed.action.contains("chmod")), (Status::Warning, true));
    }

    #[test]
    fn mounts_that_hide_a_socket_are_named() {
        let of = |point: &str, root: &str, is_read_only| Mount {
            point: point.into(),
            root: root.into(),
            kind: "ext4".into(),
            is_read_only,
            propagation: "private",
        };
        let container = "1 0 0:1 / / rw - overlay o rw\n";
        let told = |mount| {
            let line = mount_line(Path::new("/run/s/api.sock"), Some(mount), container).unwrap();
            (line.status, line.action)
        };
        assert_eq!(told(of("/run/s", "/run", false)).0, Status::Ok);
        assert!(told(of("/run/s/api.sock", "/x", false)).1.contains("not the socket itself"));
        assert_eq!(told(of("/run", "/run", true)).0, Status::Failure);
        assert!(
            told(of("/run/s", "/pods/u/volumes/kubernetes.io~empty-dir/r", false)).1.contains("hostPath")
        );
        assert_eq!(told(of("/", "/", false)).0, Status::Warning);
        assert_eq!(mount_line(Path::new("/x"), None, ""), None);
    }
}
