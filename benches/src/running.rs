//! Agents as programs: their configuration, their CPU, how long they take to start, and that they end with the benchmark.

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

/// What a benchmark returns.
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
    /// That it still runs.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&mut self) -> Outcome<()> {
        match self.0.try_wait()? {
            Some(status) => Err(format!("the agent ended: {status}").into()),
            None => Ok(()),
        }
    }
}

/// Milliseconds from `start` to a socket that takes connections, and to the first X.509-SVID over the Workload API.
///
/// # Errors
/// The agent ended before, or took more than a minute.
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

/// An agent.conf for `example.org`, attested by join token, with all its files in one folder.
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

/// Keeps this thread, and what it starts, on one CPU.
///
/// # Errors
/// There is no such CPU.
pub fn pin(cpu: usize) -> Outcome<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
        .map_err(|reason| format!("CPU {cpu}: {reason}; two CPUs are needed").into())
}

/// The folder of sds-load, which is built with the profile of this program.
///
/// # Errors
/// It does not build, or is not there.
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

/// The median; `None` of nothing.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Where an agent runs.
pub const AGENT_CPU: usize = 0;
/// Where all that is not the agent runs.
pub const LOAD_CPU: usize = 1;
const PATIENCE: Duration = Duration::from_secs(60);
