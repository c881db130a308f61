//! Parses the text of `/proc/PID/status` and `/proc/PID/stat`. The kernel writes it, but parts of it (the command
//! name) come from the process itself, so nothing is trusted. The parsers are fuzzed.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use budget::Group;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The credentials of a process, from `/proc/PID/status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Credentials {
    /// The effective user ID.
    pub uid: u32,
    /// The effective group ID.
    pub gid: u32,
    /// The supplementary groups, in the kernel's order.
    pub groups: Vec<u32>,
}

/// Why the text of a file in `/proc` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProcError {
    /// A line that the kernel always writes is missing.
    #[error("/proc/PID/status has no line {0:?}")]
    Missing(&'static str),
    /// A line is not as the kernel writes it.
    #[error("/proc/PID/status has a malformed line {0:?}")]
    Malformed(&'static str),
}

/// Parses the text of `/proc/PID/status`. The first line of each kind counts. The kernel escapes newlines in the
/// command name, so a process cannot add lines of its own.
///
/// # Errors
/// [`ProcError`].
pub fn credentials(status: &str) -> Result<Credentials, ProcError> {
    Ok(Credentials {
        uid: effective(status, "Uid:")?,
        gid: effective(status, "Gid:")?,
        groups: groups(status)?,
    })
}

/// Reads `/proc/PID/status`. It takes about ten microseconds, and no process can make it wait.
///
/// # Errors
/// There is no such process, or the text cannot be parsed; then the error holds a [`ProcError`].
pub fn read_credentials(proc: &Path, pid: i32) -> io::Result<Credentials> {
    let mut text = Vec::with_capacity(STATUS);
    File::open(proc.join(pid.to_string()).join("status"))?.read_to_end(&mut text)?;
    // A command name may be any bytes, cut after fifteen.
    credentials(&String::from_utf8_lossy(&text)).map_err(io::Error::other)
}

/// As [`read_credentials`], for a caller of this group, and with at most [`GROUPS_MOST`] supplementary groups. A
/// process with more makes its group slow ([`Group::mark_slow`]): later reads for that group run on another thread,
/// in turn.
///
/// # Errors
/// There is no such process, or the text cannot be parsed; then the error holds a [`ProcError`].
pub async fn read_credentials_of(proc: &Path, pid: i32, group: &Group) -> io::Result<Credentials> {
    let mut credentials = if group.is_slow() {
        read_in_turn(proc.to_owned(), pid).await?
    } else {
        read_credentials(proc, pid)?
    };
    if credentials.groups.len() > GROUPS_MOST {
        group.mark_slow();
        credentials.groups.truncate(GROUPS_MOST);
        credentials.groups.shrink_to_fit();
    }
    Ok(credentials)
}

/// Whether a process has these effective user and group IDs.
pub async fn has_credentials(proc: &Path, pid: i32, (uid, gid): (u32, u32), group: &Group) -> bool {
    // The folder of a process belongs to its effective user and group, or to root where it may not be looked into. That
    // costs microseconds, where reading the status of a slow group's process takes milliseconds.
    if group.is_slow()
        && uid != 0
        && let Ok(folder) = fs::metadata(proc.join(pid.to_string()))
        && (folder.uid(), folder.gid()) == (uid, gid)
    {
        return true;
    }
    let now = read_credentials_of(proc, pid, group).await;
    now.is_ok_and(|now| (now.uid, now.gid) == (uid, gid))
}

/// Reads the credentials of a slow group's process on another thread, one process at a time, and no more often than
/// [`Pace`] allows.
async fn read_in_turn(proc: PathBuf, pid: i32) -> io::Result<Credentials> {
    let mut pace = PACE.lock().await;
    if let Some(at) = pace.next() {
        tokio::time::sleep_until(at).await;
    }
    // The turn goes along: it is counted also where the caller goes away meanwhile.
    let read = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        let read = read_credentials(&proc, pid);
        pace.count(begun, begun.elapsed());
        read
    });
    read.await.map_err(io::Error::other)?
}

/// How often slow reads are made. The kernel takes 17 ms to write a status of 65,536 groups, and on many nodes (kernels
/// without preemption) nothing else runs on that CPU meanwhile. So such reads get a hundredth of one CPU, after a few at
/// once: the callers of other groups wait at most for one of them, and seldom.
#[derive(Debug)]
struct Pace {
    /// The time at which the reads so far have used up no more than their share; `None` before the first.
    paid: Option<Instant>,
}

impl Pace {
    /// The time from which the next read may begin; `None` for now.
    fn next(&self) -> Option<Instant> {
        self.paid.and_then(|paid| paid.checked_sub(AT_ONCE))
    }

    fn count(&mut self, begun: Instant, took: Duration) {
        self.paid = Some(self.paid.map_or(begun, |paid| paid.max(begun)) + took * SHARE);
    }
}

static PACE: Mutex<Pace> = Mutex::const_new(Pace { paid: None });
/// Slow reads take one part in so many of a CPU's time.
const SHARE: u32 = 100;
/// What may be used in advance: some four reads of the slowest kind.
const AT_ONCE: Duration = Duration::from_secs(7);

/// Waits for a turn to do slow work.
pub(crate) async fn slow_turn() -> SemaphorePermit<'static> {
    SLOW.acquire().await.expect("it is never closed")
}

/// Two turns, so that one that is stuck, in NSS or at a slow disk, does not stop all others.
static SLOW: Semaphore = Semaphore::const_new(2);

/// Supplementary groups that a process may have before its caller group counts as slow. Groups beyond this number
/// become no selectors.
pub const GROUPS_MOST: usize = 1024;

/// The start time (field 22, in clock ticks since boot) in the text of `/proc/PID/stat`. The command name (field 2)
/// may hold anything, also brackets and spaces, so fields are counted after the last closing bracket.
#[must_use]
pub fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The second of the four IDs of a line: `real effective saved filesystem`.
fn effective(status: &str, label: &'static str) -> Result<u32, ProcError> {
    let mut fields = line(status, label)?.split_ascii_whitespace();
    fields.nth(1).and_then(|id| id.parse().ok()).ok_or(ProcError::Malformed(label))
}

fn groups(status: &str) -> Result<Vec<u32>, ProcError> {
    let parse = |id: &str| id.parse().map_err(|_| ProcError::Malformed("Groups:"));
    line(status, "Groups:")?.split_ascii_whitespace().map(parse).collect()
}

fn line<'a>(status: &'a str, label: &'static str) -> Result<&'a str, ProcError> {
    status.lines().find_map(|line| line.strip_prefix(label)).ok_or(ProcError::Missing(label))
}

/// Bytes that the file usually has; only processes with hundreds of groups have more.
const STATUS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATUS: &str = "Name:\tenvoy\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t0\t1337\t0\t0\nGid:\t5\t6\t7\t8\n\
                          FDSize:\t64\nGroups:\t4 24 4294967294 \nNStgid:\t1\n";

    #[tokio::test(start_paused = true)]
    async fn slow_reads_get_a_hundredth_of_the_time_after_a_few_at_once() {
        let (mut pace, start, took) = (Pace { paid: None }, Instant::now(), Duration::from_millis(20));
        let mut reads = 0;
        while start.elapsed() < Duration::from_secs(100) {
            if let Some(at) = pace.next() {
                tokio::time::sleep_until(at).await;
            }
            pace.count(Instant::now(), took);
            tokio::time::advance(took).await;
            reads += 1;
        }
        assert!((50..=55).contains(&reads), "{reads} reads of 20 ms in 100 s");
    }

    #[test]
    fn effective_ids_and_groups() {
        let expected = Credentials { uid: 1337, gid: 6, groups: vec![4, 24, 4_294_967_294] };
        assert_eq!(credentials(STATUS), Ok(expected));
    }

    #[test]
    fn no_groups_is_no_error() {
        let status = "Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\nGroups:\t \n";
        assert_eq!(credentials(status).unwrap().groups, Vec::<u32>::new());
    }

    #[test]
    fn start_time_behind_a_hostile_name() {
        let stat = "42 (a) 1 2 (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(start_time(stat), Some(98765));
        assert_eq!(start_time("42 (a"), None);
    }

    #[test]
    fn refusals() {
        assert_eq!(credentials(""), Err(ProcError::Missing("Uid:")));
        assert_eq!(credentials("Uid:\t1\nGid:\t1\t1\n"), Err(ProcError::Malformed("Uid:")));
        assert_eq!(credentials("Uid:\t1\t-1\n"), Err(ProcError::Malformed("Uid:")));
        assert_eq!(credentials("Uid:\t1\t1\nGid:\t1\t1\n"), Err(ProcError::Missing("Groups:")));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            let _ = credentials(&text);
        }

        #[test]
        fn what_the_kernel_writes_is_read(uid: u32, gid: u32, groups: Vec<u32>) {
            let list: String = groups.iter().map(|g| format!("{g} ")).collect();
            let text = format!("Name:\tx\nUid:\t0\t{uid}\t0\t0\nGid:\t0\t{gid}\t0\t0\nGroups:\t{list}\n");
            prop_assert_eq!(credentials(&text), Ok(Credentials { uid, gid, groups }));
        }
    }
}
