//! Reads where the agent's sockets are, and checks what only the system would find out: whether a socket can have such a
//! path at all.

use std::path::{Component, Path, PathBuf};

use super::Agent;
use crate::decode::Setting;
use crate::{Problem, overrides};

impl Agent<'_> {
    pub(super) fn socket_path(&self) -> PathBuf {
        let path = self.path("socket_path", self.overrides.socket_path.as_ref());
        path.unwrap_or_else(|| DEFAULT_SOCKET_PATH.into())
    }

    /// The admin socket. It must not be in the folder of the public socket, which pods can reach (SPIRE,
    /// `run_posix.go`).
    pub(super) fn admin_socket_path(&self) -> Option<PathBuf> {
        let Setting { value, line } = self.section.text("admin_socket_path")?;
        let (admin, public) = (absolute(Path::new(&value)), absolute(&self.socket_path()));
        // As spire-agent compares: a path that merely begins like the folder is elsewhere, and nothing is in `/`.
        let folder = public.parent().map(|folder| format!("{}/", folder.display()));
        let inside = folder.is_some_and(|folder| admin.display().to_string().starts_with(&folder));
        if inside && self.serves_public() {
            self.problem(
                line,
                "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API socket",
            );
        }
        Some(admin)
    }

    /// What keeps `run` from working with these paths. spire-agent's `validate` does not look at them either.
    pub(super) fn impossible_paths(&self) -> Vec<Problem> {
        let flags = self.overrides;
        let public = self.text("socket_path", flags.socket_path.as_ref()).filter(|_| self.serves_public());
        let sockets =
            [("socket_path", public), ("admin_socket_path", self.section.text("admin_socket_path"))];
        let folder = ("data_dir", self.text("data_dir", flags.data_dir.as_ref()));
        let mut problems = Vec::new();
        for (key, path) in sockets.iter().chain([&folder]) {
            let Some(Setting { value, line }) = path else { continue };
            if value.contains('\0') {
                problems.push(Problem {
                    line: *line,
                    message: format!("{key} has a NUL, which no path may have"),
                });
            }
        }
        for (key, path) in sockets {
            let Some(Setting { value, line }) = path else { continue };
            let long = absolute_as_written(Path::new(&value)).as_os_str().len();
            if long > LONGEST_SOCKET_PATH {
                let message = format!(
                    "{key} is {long} bytes long, a socket path may have {LONGEST_SOCKET_PATH}: choose a shorter one"
                );
                problems.push(Problem { line, message });
            }
        }
        problems
    }

    /// Whether one of the two public APIs is on.
    fn serves_public(&self) -> bool {
        let flags = self.overrides;
        let is_off = |key, flag| overrides::switch(&self.section, key, flag).value;
        !(is_off("disable_workload_api", flags.disable_workload_api)
            && is_off("disable_sds_api", flags.disable_sds_api))
    }
}

fn absolute_as_written(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The absolute path without `.` and `..`, as Go's `filepath.Abs` makes it: links are not followed.
fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in absolute_as_written(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop()),
            other => clean.push(other),
        }
    }
    clean
}

const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";
/// Linux has 108 bytes for a path with the NUL at its end (`sun_path`).
const LONGEST_SOCKET_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_resolved_as_by_go() {
        for (path, clean) in
            [("/a/../b/./c", "/b/c"), ("/../..", "/"), ("/a//b/", "/a/b"), ("/a/b/../../c", "/c")]
        {
            assert_eq!(absolute(Path::new(path)), Path::new(clean), "{path}");
        }
    }
}
