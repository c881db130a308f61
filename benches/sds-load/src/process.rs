//! What a process has cost so far, as the kernel counts it.

use std::fs;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::clock::nanoseconds;

/// A process that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(u32);

/// One look at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// CPU time of all its threads, also of those that have ended: milliseconds of the process's CPU clock, which is
    /// exact where utime and stime of /proc/PID/stat count in steps of 10 ms.
    pub cpu_ms: f64,
    /// Of which in user space, by /proc/PID/stat.
    pub user_ms: f64,
    /// Of which in the kernel, by /proc/PID/stat.
    pub system_ms: f64,
    /// VmRSS, KiB.
    pub rss_kib: u64,
    /// RssAnon, KiB.
    pub anon_kib: u64,
    /// VmHWM, KiB: the most that VmRSS has been in its life.
    pub peak_kib: u64,
    /// How many threads it has.
    pub threads: u64,
}

impl Process {
    /// The process with this ID, if there is one.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let process = Self(pid);
        process.sample().map(|_| process)
    }

    /// The process that listens at the other end: who called `listen`, so not an agent with an inherited socket.
    #[must_use]
    pub fn behind(socket: &UnixStream) -> Option<Self> {
        let credentials = getsockopt(socket, PeerCredentials).ok()?;
        let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 1)?;
        Self::of(pid)
    }

    /// Its ID.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.0)).unwrap_or_default();
        name.trim().to_owned()
    }

    /// What it has cost so far; `None` when it is gone.
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

/// utime and stime, in milliseconds.
fn user_and_system(stat: &str) -> Option<[f64; 2]> {
    // The name stands in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    let mut next = || fields.next().flatten().map(|ticks| ticks * MS_PER_TICK);
    Some([next()?, next()?])
}

fn value(status: &str, label: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(label))?.split_whitespace().next()?.parse().ok()
}

/// USER_HZ is 100 wherever Linux runs.
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
