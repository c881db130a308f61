//! The caller group of a process: callers that share one budget, because one of them could multiply itself into all.
//!
//! A caller can fork, open connections, and, as root of its container, take any user ID. It cannot leave its pod or
//! container: the cgroup of that was made by the container runtime. Outside of containers the group is the user.
//!
//! The path of a cgroup is read from the top, and the first part that tells something decides, for what is below it may
//! have been made, and named, by whoever lives there. A user's own branch (`user-1000.slice`, which systemd gives away)
//! tells the user, even where that user runs containers, whose user IDs are as many as it likes.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

#[cfg(test)]
mod tests;

/// What the cgroup of a process tells of who shares its fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A Kubernetes pod, by its UID. A pod of the node's own files has a hash for one.
    Pod(Box<str>),
    /// A container that is in no pod, by its ID.
    Container(Box<str>),
    /// The branch that systemd gives to a user's sessions, by the user's ID.
    User(u32),
    /// The host: services, and whatever is in no container.
    Host,
}

impl Place {
    /// Reads `PROC/PID/cgroup`, at most [`MOST`] bytes of it.
    ///
    /// # Errors
    /// When it cannot be read: the process is gone, or `proc` is the wrong folder.
    pub(crate) fn of_process(proc: &Path, pid: i32) -> io::Result<Self> {
        let mut text = Vec::with_capacity(USUAL);
        File::open(proc.join(pid.to_string()).join("cgroup"))?.take(MOST).read_to_end(&mut text)?;
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Reads the text of a `cgroup` file: the line of cgroup v2, else those of the controllers of v1 that container
    /// runtimes use.
    pub(crate) fn parse(text: &str) -> Self {
        let paths = ["", "pids", "memory", "name=systemd"].map(|controller| path(text, controller));
        let mut told = paths.into_iter().flatten().map(Self::of_path);
        told.find(|place| *place != Self::Host).unwrap_or(Self::Host)
    }

    /// The name of the group of a process that is here and has this user ID.
    pub(crate) fn group(&self, uid: u32) -> String {
        match self {
            Self::Pod(uid) => format!("pod:{uid}"),
            Self::Container(id) => format!("container:{id}"),
            // Root by sudo is root, and must not suffer from what its user does.
            Self::User(owner) if uid != 0 => format!("uid:{owner}"),
            Self::User(_) | Self::Host => format!("uid:{uid}"),
        }
    }

    fn of_path(path: &str) -> Self {
        // Without systemd's driver, containerd joins slice, prefix and ID with colons.
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

/// The path in the first line of a controller; `""` is cgroup v2. Lines are `ID:CONTROLLERS:PATH`.
fn path<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (_, line) = line.split_once(':')?;
        let (controllers, path) = line.split_once(':')?;
        controllers.split(',').any(|one| one == controller).then_some(path)
    })
}

/// `user-1000.slice`, `user@1000.service`.
fn user(part: &str) -> Option<u32> {
    let slice = part.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
    slice.or_else(|| part.strip_prefix("user@")?.strip_suffix(".service"))?.parse().ok()
}

/// `pod<UID>`, `kubepods-burstable-pod<UID>.slice`, where systemd's names have `_` for `-`.
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

/// `<ID>`, `docker-<ID>.scope`, `cri-containerd-<ID>.scope`, `crio-<ID>`, `libpod-<ID>.scope` …
fn container(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = name.rsplit('-').next().unwrap_or(name);
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Of a `cgroup` file, in bytes. A path can have 4 KiB, and cgroup v1 a dozen of them; what tells something is at the
/// top of each.
const MOST: u64 = 16 * 1024;
const USUAL: usize = 256;
