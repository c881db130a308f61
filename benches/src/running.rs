//! Agents as child processes: their configuration, their CPU, the time that they take to start, and their end.

pub mod server;

use std::error::Error;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::time::Instant;

/// The result of a benchmark.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// A process that does not outlive this value.
pub struct Ended(pub Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ended {
    /// Checks that the process still runs.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Outcome<()> {
        match self.0.try_wait()? {
            Some(status) => Err(format!("the agent ended: {status}").into()),
            None => Ok(()),
        }
    }
}

/// Waits for the agent. Returns the milliseconds from `start` to a socket that accepts connections, and to the first
/// X.509-SVID over the Workload API.
///
/// # Errors
/// If the agent ends before, or takes more than a minute.
pub fn until_first_svid(agent: &mut Ended, socket: &Path, start: Instant) -> Outcome<(f64, f64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    while UnixStream::connect(socket).is_err() {
        agent.check()?;
        patience(start)?;
        sleep(Duration::from_micros(100));
    }
    let connectable = start.elapsed();
    while !runtime.block_on(svid(socket)) {
        agent.check()?;
        patience(start)?;
        sleep(Duration::from_micros(500));
    }
    Ok((connectable.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3))
}

/// Whether FetchX509SVID answers with an SVID.
pub async fn svid(socket: &Path) -> bool {
    let Ok(mut stream) = harness::x509_svid(socket).await else { return false };
    matches!(stream.message().await, Ok(Some(_)))
}

fn patience(start: Instant) -> Outcome<()> {
    if start.elapsed() < PATIENCE { Ok(()) } else { Err(format!("no SVID within {PATIENCE:?}").into()) }
}

/// The text of an agent.conf for `example.org` and a join token, with all files in one folder.
#[must_use]
pub fn conf(folder: &Path, server: (&str, u16), agent: &str, workload_attestor: &str) -> String {
    let (folder, (host, port)) = (folder.display(), server);
    format!(
        "agent {{ data_dir = \"{folder}\" server_address = \"{host}\" server_port = \"{port}\" {agent} \
         socket_path = \"{folder}/api.sock\" trust_bundle_path = \"{folder}/bundle.pem\" trust_domain = \"example.org\" }}\n\
         plugins {{ NodeAttestor \"join_token\" {{ plugin_data {{}} }} KeyManager \"memory\" {{ plugin_data {{}} }} \
         {workload_attestor} }}\n"
    )
}

/// Pins this thread, and the processes that it starts, to one CPU.
///
/// # Errors
/// If there is no such CPU.
pub fn pin(cpu: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|reason| format!("CPU {cpu}: {reason}; two CPUs are needed").into())
}

/// The folder of sds-load. Cargo builds it with the profile of this program.
///
/// # Errors
/// If it does not build or is missing.
pub fn tools() -> Outcome<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("this program has no folder")?.to_owned();
    if let Some(cargo) = std::env::var_os("CARGO") {
        let profile: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
        let built =
            Command::new(cargo).args(["build", "--quiet", "--package", "sds-load"]).args(profile).status()?;
        if !built.success() {
            return Err("sds-load does not build".into());
        }
    }
    if folder.join("sds-load").is_file() { Ok(folder) } else { Err("build sds-load first".into()) }
}

/// The median; `None` for an empty list.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The CPU of an agent.
pub const AGENT_CPU: usize = 0;
/// The CPU of everything except the agent.
pub const LOAD_CPU: usize = 1;
const PATIENCE: Duration = Duration::from_secs(60);
