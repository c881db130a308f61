//! Measures the cost of a command. A new process runs it, so that the usage of that process's children is only the
//! command's.

use std::process::{Command, Stdio};

use benches::running::Outcome;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The usage of one command: means of several runs, and the highest peak of memory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) wall_ms: f64,
    pub(crate) cpu_ms: f64,
    pub(crate) peak_mib: f64,
}

/// Runs a command `times` times in a new process.
pub(crate) fn of(times: usize, command: &[String]) -> Outcome<Usage> {
    let own = std::env::current_exe()?;
    let output = Command::new(own).arg(FLAG).arg(times.to_string()).args(command).output()?;
    let usage = serde_json::from_slice(&output.stdout);
    usage.map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned().into())
}

/// The code of the new process.
pub(crate) fn child() -> Outcome<()> {
    let mut arguments = std::env::args().skip(2);
    let times: u32 = arguments.next().ok_or("no count")?.parse()?;
    let program = arguments.next().ok_or("no command")?;
    let arguments: Vec<String> = arguments.collect();
    let start = Instant::now();
    for _ in 0..times {
        let output = Command::new(&program).args(&arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
        }
    }
    let wall_ms = start.elapsed().as_secs_f64() * 1e3 / f64::from(times);
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time() + usage.system_time();
    let usage = Usage {
        wall_ms,
        cpu_ms: cpu.num_microseconds() as f64 / 1e3 / f64::from(times),
        peak_mib: usage.max_rss() as f64 / 1024.0,
    };
    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}

/// The first argument of the new process.
pub(crate) const FLAG: &str = "--usage-of";
