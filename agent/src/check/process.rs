//! What this process may see and use: the pid namespace, memory, open files.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use super::Line;
use crate::wiring::{proc_folder, slots};

/// What tells whether callers of other containers have a pid here.
#[derive(Debug)]
struct Pids {
    /// The inode of our pid namespace.
    namespace: Option<u64>,
    /// This process is the first of its namespace, or a pause container is.
    is_container: bool,
    /// A process with this name is in sight.
    kubelet: bool,
    /// Where procfs is, and whether it is one.
    proc: (PathBuf, bool),
}

/// The line of the pid namespace.
pub(super) fn pids(is_kubernetes: bool) -> Line {
    let link = fs::read_link("/proc/self/ns/pid").ok();
    let namespace = link.and_then(|link| {
        let text = link.to_string_lossy().into_owned();
        text.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
    });
    let first = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let proc = proc_folder();
    let is_proc = proc.join("self").exists();
    let facts = Pids {
        namespace,
        is_container: std::process::id() == 1 || first.trim() == "pause",
        kubelet: sees("kubelet"),
        proc: (proc, is_proc),
    };
    pids_line(&facts, is_kubernetes)
}

fn pids_line(facts: &Pids, is_kubernetes: bool) -> Line {
    let name = "host-pid";
    let (proc, is_proc) = &facts.proc;
    if !is_proc {
        return Line::failure(
            name,
            format!("{} is no procfs", proc.display()),
            "Mount the host's /proc there, or unset HOST_PROC.",
        );
    }
    if facts.namespace == Some(INITIAL) {
        return Line::ok(name, "the processes of the host are in sight");
    }
    if facts.kubelet {
        return Line::ok(name, "the processes of the node are in sight: the kubelet is one of them");
    }
    let summary =
        "this process is in a pid namespace of its own: callers of other containers have no pid here";
    let action = "Set `hostPID: true` in the agent's pod (docker: `--pid=host`).";
    match (is_kubernetes, facts.is_container) {
        (true, true) => Line::failure(name, summary, action),
        _ => Line::warning(
            name,
            summary,
            format!(
                "{action} Where the machine itself is a container and callers run in the same one, leave it so."
            ),
        ),
    }
}

fn sees(name: &str) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let comm = |folder: &Path| fs::read_to_string(folder.join("comm")).unwrap_or_default();
    processes.flatten().any(|process| comm(&process.path()).trim_end() == name)
}

/// The limits of this process.
#[derive(Debug)]
pub(super) struct Limits {
    /// In bytes.
    memory: Option<u64>,
    /// The hard limit of open files.
    files: Option<u64>,
}

impl Limits {
    pub(super) fn read() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map(|(_, hard)| hard).ok();
        Self { memory: memory_limit(), files }
    }

    /// The lines of the limits, for a node with so many pods (`None`: it is not known).
    pub(super) fn lines(&self, pods: Option<usize>) -> Vec<Line> {
        let mut lines = vec![memory_line(self.memory, pods)];
        lines.extend(self.files.map(|files| files_line(files, pods)));
        lines
    }
}

/// The lowest `memory.max` of our cgroup and those above it; `None` without one.
fn memory_limit() -> Option<u64> {
    let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let folder = root.join(own);
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(root));
    let files = folders.map(|folder| folder.join("memory.max"));
    // Version 1, where the number of a cgroup without a limit is enormous.
    let files = files.chain([root.join("memory/memory.limit_in_bytes")]);
    let limit = |file: PathBuf| fs::read_to_string(file).ok()?.trim().parse().ok();
    files.filter_map(limit).filter(|limit| *limit < 1 << 60).min()
}

fn memory_line(limit: Option<u64>, pods: Option<usize>) -> Line {
    let name = "memory";
    let Some(limit) = limit else {
        return Line::warning(
            name,
            "there is no limit of memory",
            "Set one of 64 MiB (`resources.limits.memory`), so that nobody else pays for what callers do.",
        );
    };
    let count = pods.unwrap_or(USUAL_PODS) as u64;
    let needed = (ALONE + count * PER_POD) * 5 / 4;
    let (limit, needed) = (limit / MIB, needed.div_ceil(MIB));
    let told = match pods {
        Some(pods) => format!("{pods} pods, which the node has,"),
        None => format!("{USUAL_PODS} pods, a usual node,"),
    };
    let summary =
        format!("the limit is {limit} MiB; {told} need about {needed} MiB when all of them call at once");
    let action = |at_least: u64| format!("Raise the limit of memory to {at_least} MiB or more.");
    if limit < needed {
        Line::failure(name, summary, action(needed.max(ADVISED)))
    } else if limit < ADVISED {
        let summary = format!("{summary}; what callers may use by malice is not within the limit");
        Line::warning(name, summary, action(ADVISED))
    } else {
        Line::ok(name, summary)
    }
}

fn files_line(hard: u64, pods: Option<usize>) -> Line {
    let name = "open-files";
    let places = slots(hard).whole + slots(hard).spare;
    let pods = pods.unwrap_or(USUAL_PODS);
    let summary = format!("{hard} files may be open (hard limit), which is enough for {places} connections");
    // An Envoy and its application.
    let action = "Raise RLIMIT_NOFILE (`ulimit -Hn`, LimitNOFILE=) to 65536.";
    if places < pods {
        Line::failure(name, format!("{summary}, and {pods} pods are to be expected"), action)
    } else if places < 2 * pods {
        Line::warning(name, format!("{summary}: fewer than two for each of {pods} pods"), action)
    } else {
        Line::ok(name, summary)
    }
}

/// `PROC_PID_INIT_INO` of the kernel: the inode of the first pid namespace.
const INITIAL: u64 = 0xEFFF_FFFC;
const MIB: u64 = 1 << 20;
/// What the agent takes for itself (`benches/REPORT.md`), in bytes.
const ALONE: u64 = 12 * MIB;
/// What a pod costs when all call at once: measured, 31 MiB with 500 pods and a list of 5 MiB.
const PER_POD: u64 = 44 << 10;
/// The kubelet's default of `maxPods`.
const USUAL_PODS: usize = 110;
/// The limit of memory that hostile callers are kept within (`SHARES`), in MiB.
const ADVISED: u64 = 64;

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn the_pid_namespace_of_the_host_is_asked_for() {
        let facts = |namespace, is_container, kubelet| Pids {
            namespace: Some(namespace),
            is_container,
            kubelet,
            proc: ("/proc".into(), true),
        };
        assert_eq!(pids_line(&facts(INITIAL, false, false), true).status, Status::Ok);
        assert_eq!(pids_line(&facts(7, false, true), true).status, Status::Ok);
        let alone = pids_line(&facts(7, true, false), true);
        assert_eq!((alone.status, alone.action.contains("hostPID: true")), (Status::Failure, true));
        assert_eq!(pids_line(&facts(7, true, false), false).status, Status::Warning);
        assert_eq!(pids_line(&facts(7, false, false), true).status, Status::Warning);
        let none = Pids { proc: ("/nope".into(), false), ..facts(INITIAL, false, false) };
        assert!(pids_line(&none, true).action.contains("HOST_PROC"));
    }

    #[test]
    fn memory_is_compared_with_the_pods() {
        let status = |mib: u64, pods| memory_line(Some(mib * MIB), pods).status;
        assert_eq!(status(64, Some(500)), Status::Ok);
        assert_eq!(status(32, Some(110)), Status::Warning);
        assert_eq!(status(16, Some(110)), Status::Failure);
        assert_eq!(status(64, Some(2000)), Status::Failure);
        assert_eq!(status(64, None), Status::Ok);
        assert_eq!(memory_line(None, None).status, Status::Warning);
        let raise = memory_line(Some(64 * MIB), Some(2000)).action;
        assert!(raise.contains("to 123 MiB"), "{raise}");
    }

    #[test]
    fn open_files_are_compared_with_the_pods() {
        let status = |files, pods| files_line(files, pods).status;
        assert_eq!(status(65_536, None), Status::Ok);
        assert_eq!(status(1024, Some(110)), Status::Ok);
        assert_eq!(status(600, Some(110)), Status::Warning);
        assert_eq!(status(64, None), Status::Failure);
    }
}
