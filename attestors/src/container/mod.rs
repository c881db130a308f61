//! Finds the container that a process runs in, from what the kernel writes: `/proc/PID/cgroup`, and if that names
//! none (for a process in the reader's own cgroup namespace), the cgroup mounts in `/proc/PID/mountinfo`.
//!
//! The cgroup file comes first because only the kernel determines it. A process that may mount can put another
//! container's cgroup into its mount namespace, so mountinfo never overrules the cgroup file. Ambiguous texts are
//! refused.
//!
//! `cgroup`, `mountinfo` and `legacy` parse texts, `path` parses one path of a hierarchy, and [`locate`] opens files.

mod cgroup;
mod legacy;
mod mountinfo;
mod path;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

pub use cgroup::{container_id, from_cgroup, paths};
pub use legacy::from_cgroup_legacy;
pub use mountinfo::{MountRule, from_mountinfo};
pub(crate) use path::is_container_id;

/// The container that a process runs in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Container {
    /// The container ID: 64 hexadecimal digits, as the path spells them.
    pub id: String,
    /// The pod's UID with dashes. `None` if the path has none, as with plain Docker, some paths of cri-o, and static
    /// pods.
    pub pod_uid: Option<String>,
}

/// How paths are read (`use_new_container_locator`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locator {
    /// Path segments are read from the end; mountinfo is read if the cgroup file names no container.
    #[default]
    Segments,
    /// As `Segments`, without pods, for runtimes that have none: paths that name different containers are refused, also
    /// if one of them names a pod.
    Ids,
    /// The patterns of spire-agent's former locator are used, on the cgroup file alone.
    Legacy,
}

/// Why the container of a process cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// A line of `/proc/PID/cgroup` is not `id:controllers:path`.
    #[error(
        "unable to obtain cgroups: invalid cgroup entry, contains {fields} colon separated fields but expected at least 3: {line:?}"
    )]
    Cgroup {
        /// How many fields the line has.
        fields: usize,
        /// The beginning of the line.
        line: String,
    },
    /// A line of `/proc/PID/mountinfo` is not as proc(5) says.
    #[error("failed to parse mount info at \"/proc/PID/mountinfo\": {rule} in mountinfo line: {line:?}")]
    Mountinfo {
        /// The rule that the line breaks.
        rule: MountRule,
        /// The beginning of the line.
        line: String,
    },
    /// Two entries name different pods.
    #[error("multiple pod UIDs found ({0:?}, {1:?})")]
    PodUids(String, String),
    /// Two entries name different containers.
    #[error("multiple container IDs found ({0:?}, {1:?})")]
    ContainerIds(String, String),
    /// The file cannot be read. The process may have exited.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file under `/proc`.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is larger than that of any real process.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file under `/proc`.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
}

/// Finds the container of a process; `None` if it runs in none, or if the process does not exist. `proc` is where
/// proc is mounted.
///
/// # Errors
/// [`ContainerError`].
pub fn locate(proc: &Path, pid: i32, locator: Locator) -> Result<Option<Container>, ContainerError> {
    match locate_by_cgroup(proc, pid, locator)? {
        Some(container) => Ok(Some(container)),
        None if locator == Locator::Legacy => Ok(None),
        None => locate_by_mounts(proc, pid, locator),
    }
}

/// The first half of [`locate`], which is enough for nearly every process. It reads a file of some hundred bytes.
///
/// # Errors
/// [`ContainerError`].
pub fn locate_by_cgroup(
    proc: &Path,
    pid: i32,
    locator: Locator,
) -> Result<Option<Container>, ContainerError> {
    let cgroup = read_cgroup(proc, pid)?;
    match locator {
        Locator::Segments => from_cgroup(&cgroup),
        Locator::Ids => Ok(container_id(&cgroup)?.map(|id| Container { id, pod_uid: None })),
        Locator::Legacy => from_cgroup_legacy(&cgroup),
    }
}

/// The text of `/proc/PID/cgroup`; empty if there is no such process.
///
/// # Errors
/// [`ContainerError::Read`] or [`ContainerError::TooLarge`].
pub fn read_cgroup(proc: &Path, pid: i32) -> Result<String, ContainerError> {
    let mut cgroup = String::new();
    each_line(&proc.join(pid.to_string()).join("cgroup"), CGROUP_LIMIT, |line| {
        cgroup.extend([line, "\n"]);
        Ok(())
    })?;
    Ok(cgroup)
}

/// The other half of [`locate`], for processes whose cgroups name no container. It reads their mounts, which may be
/// thousands, and waits for processes that mount: call it on a thread that may block.
///
/// # Errors
/// [`ContainerError`].
pub fn locate_by_mounts(
    proc: &Path,
    pid: i32,
    locator: Locator,
) -> Result<Option<Container>, ContainerError> {
    let mut found = path::Findings::new(locator);
    let mounts = proc.join(pid.to_string()).join("mountinfo");
    each_line(&mounts, MOUNTINFO_LIMIT, |line| mountinfo::add(&mut found, line))?;
    Ok(found.container())
}

/// Reads a file line by line: a node's table of mounts can be larger than an attestation should hold in memory. A
/// missing file has no lines.
fn each_line(
    path: &Path,
    limit: u64,
    mut visit: impl FnMut(&str) -> Result<(), ContainerError>,
) -> Result<(), ContainerError> {
    let failed = |source| ContainerError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut left = BufReader::new(file.take(limit + 1));
    let mut line = Vec::new();
    while left.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        if left.get_ref().limit() == 0 {
            return Err(ContainerError::TooLarge { path: path.to_owned(), limit });
        }
        visit(String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).as_ref())?;
        line.clear();
    }
    Ok(())
}

/// The beginning of a line, for an error message.
fn excerpt(line: &str) -> String {
    line.chars().take(EXCERPT).collect()
}

const EXCERPT: usize = 256;
/// A path has at most 4 KiB, and there are about ten hierarchies.
const CGROUP_LIMIT: u64 = 1 << 20;
/// The kernel allows 100,000 mounts; a line of a node's table has about 150 bytes.
const MOUNTINFO_LIMIT: u64 = 16 << 20;
