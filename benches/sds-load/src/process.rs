//! The cost of a process so far, by the kernel's counters.

use std::fs;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::clock::nanoseconds;

/// A process under observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(u32);

/// One sample of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The CPU time of all its threads, including those that have ended, in milliseconds of the process's CPU clock. It
    /// is exact, unlike utime and stime of /proc/PID/stat, which count in steps of 10 ms.
    pub cpu_ms: f64,
    /// The part in user space, by /proc/PID/stat.
    pub user_ms: f64,
    /// The part in the kernel, by /proc/PID/stat.
    pub system_ms: f64,
    /// Resident memory (VmRSS) in KiB.
    pub rss_kib: u64,
    /// Anonymous resident memory (RssAnon) in KiB.
    pub anon_kib: u64,
    /// The peak of VmRSS since its start (VmHWM) in KiB.
    pub peak_kib: u64,
    /// The number of its threads.
    pub threads: u64,
}

impl Process {
    /// The process with this pid; `None` if there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let process = Self(pid);
        process.sample().map(|_| process)
    }

    /// The process that called `listen` on the other end of a socket. This is not the agent if the agent inherited its
    /// socket.
    #[must_use]
    pub fn behind(socket: &UnixStream) -> Option<Self> {
        let credentials = getsockopt(socket, PeerCredentials).ok()?;
        let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 1)?;
        Self::of(pid)
    }

    /// Its pid in the pid namespace of this program.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0
    }

    /// The name of the process; empty if it has ended.
    #[must_use]
    pub fn name(self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.0)).unwrap_or_default();
        name.trim().to_owned()
    }

    /// The cost of the process so far; `None` if it has ended.
    #[must_use]
    pub fn sample(self) -> Option<Sample> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let [user_ms, system_ms] = user_and_system(&stat)?;
        let exact =
            clock_getcpuclockid(Pid::from_raw(i32::try_from(self.0).ok()?)).and_then(|clock| clock.now());
        let cpu_ms = exact.map_or(user_ms + system_ms, |time| nanoseconds(time) as f64 / 1e6);
        let line = |label| value(&status, label);
        Some(Sample {
            cpu_ms,
            user_ms,
            system_ms,
            rss_kib: line("VmRSS:")?,
            anon_kib: line("RssAnon:").unwrap_or(0),
            peak_kib: line("VmHWM:").unwrap_or(0),
            threads: line("Threads:").unwrap_or(0),
        })
    }
}

/// Reads utime and stime, in milliseconds.
fn user_and_system(stat: &str) -> Option<[f64; 2]> {
    // The name is in parentheses and may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    let mut next = || fields.next().flatten().map(|ticks| ticks * MS_PER_TICK);
    Some([next()?, next()?])
}

fn value(status: &str, label: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(label))?.split_whitespace().next()?.parse().ok()
}

/// USER_HZ is 100 on every Linux.
const MS_PER_TICK: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 12 34 0 0 20 0 3 0";
        assert_eq!(user_and_system(stat), Some([120.0, 340.0]));
    }

    #[test]
    fn this_process_is_seen() {
        let own = Process::of(std::process::id()).unwrap();
        let (before, mut sum) = (own.sample().unwrap(), 0_u64);
        while own.sample().unwrap().cpu_ms <= before.cpu_ms {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        assert!(before.rss_kib > 0 && before.threads > 0, "{sum}");
    }

    #[test]
    fn a_process_that_is_gone_has_no_sample() {
        assert_eq!(Process::of(u32::MAX / 2), None);
    }
}
