//! The caller group of a process. The callers of a group share one budget, because one of them could multiply itself
//! into all of them.
//!
//! A caller can fork, open connections, and, as root of its container, take any user ID. It cannot leave its pod or
//! container, because the container runtime made its cgroup. Outside of containers the group is the user.
//!
//! The path of a cgroup is read from the top, and the first part that names a pod, container or user decides: the
//! parts below may have been made, and named, by a process in it. A user's own branch (`user-1000.slice`, which
//! systemd delegates to the user) means the user, even if the user runs containers there, because such containers can
//! have many user IDs.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

#[cfg(test)]
mod tests;

/// Where the cgroup of a process places it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A Kubernetes pod, by its UID. The UID of a static pod, which the kubelet makes from a file, is a hash.
    Pod(Box<str>),
    /// A container outside of any pod, by its ID.
    Container(Box<str>),
    /// The branch that systemd delegates to a user's sessions, by the user's ID.
    User(u32),
    /// The host itself: services, and all processes that are in no container.
    Host,
}

impl Place {
    /// Reads `PROC/PID/cgroup`, at most [`READ_LIMIT`] bytes of it.
    ///
    /// # Errors
    /// The file cannot be read: the process is gone, or `proc` is the wrong folder.
    pub(crate) fn of_process(proc: &Path, pid: i32) -> io::Result<Self> {
        let mut text = Vec::with_capacity(USUAL_LEN);
        File::open(proc.join(pid.to_string()).join("cgroup"))?.take(READ_LIMIT).read_to_end(&mut text)?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Reads the text of a `cgroup` file: the line of cgroup v2, or those of the v1 controllers that container
    /// runtimes use.
    pub(crate) fn parse(text: &str) -> Self {
        let paths = ["", "pids", "memory", "name=systemd"].map(|controller| path(text, controller));
        let mut places = paths.into_iter().flatten().map(Self::of_path);
        places.find(|place| *place != Self::Host).unwrap_or(Self::Host)
    }

    /// The name of the caller group of a process at this place with the user ID `uid`.
    pub(crate) fn group(&self, uid: u32) -> String {
        match self {
            Self::Pod(uid) => format!("pod:{uid}"),
            Self::Container(id) => format!("container:{id}"),
            // A root process that a user started by sudo counts as root: what the user does must not slow it down.
            Self::User(owner) if uid != 0 => format!("uid:{owner}"),
            Self::User(_) | Self::Host => format!("uid:{uid}"),
        }
    }

    fn of_path(path: &str) -> Self {
        // With the cgroupfs driver, containerd may join slice, prefix and ID with colons.
        path.split(['/', ':']).find_map(Self::of_part).unwrap_or(Self::Host)
    }

    fn of_part(part: &str) -> Option<Self> {
        let part = part.strip_suffix(" (deleted)").unwrap_or(part);
        user(part)
            .map(Self::User)
            .or_else(|| pod(part).map(Self::Pod))
            .or_else(|| container(part).map(|id| Self::Container(id.into())))
    }
}

/// The path in the first line that names `controller`; `""` means cgroup v2. Lines are `ID:CONTROLLERS:PATH`.
fn path<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        controllers.split(',').any(|one| one == controller).then_some(path)
    })
}

/// The user ID in `user-1000.slice` or `user@1000.service`.
fn user(part: &str) -> Option<u32> {
    let slice = part.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
    slice.or_else(|| part.strip_prefix("user@")?.strip_suffix(".service"))?.parse().ok()
}

/// The pod UID in `pod<UID>` or `kubepods-burstable-pod<UID>.slice`. Systemd's names have `_` for `-`.
fn pod(part: &str) -> Option<Box<str>> {
    let (prefix, uid) = part.strip_suffix(".slice").unwrap_or(part).rsplit_once("pod")?;
    let ours = prefix.is_empty() || (prefix.contains("kubepods") && prefix.ends_with('-'));
    let is_dash = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
        _ => byte.is_ascii_hexdigit(),
    };
    let is_uid = match uid.len() {
        36 => uid.bytes().enumerate().all(is_dash),
        32 => uid.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => false,
    };
    (ours && is_uid).then(|| uid.replace('_', "-").into())
}

/// The container ID in `<ID>`, `docker-<ID>.scope`, `cri-containerd-<ID>.scope`, `crio-<ID>`, `libpod-<ID>.scope` …
fn container(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = name.rsplit('-').next().unwrap_or(name);
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Bytes that are read of a `cgroup` file. One path can have 4 KiB, and cgroup v1 has a dozen of them, but the
/// deciding part is at the top of each.
const READ_LIMIT: u64 = 16 * 1024;
const USUAL_LEN: usize = 256;
