//! Child processes that cannot outlive the demo, however it ends.
//!
//! All are in the process group of one shell. The demo kills that group when it is done. If it cannot (SIGKILL, an
//! abort), the pipe that the shell reads from closes, and the shell kills its own group. So no process is killed by its
//! name, or by a pid that may be another's by now. A Ctrl-C at the terminal reaches only the demo.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};

use super::failure::Failure;

/// The process group. Dropping it kills all its processes.
#[derive(Debug)]
pub(crate) struct Group {
    shell: Child,
    /// The pipe to the shell. It is held open and never written to.
    _pipe: ChildStdin,
}

impl Group {
    /// Starts the shell.
    ///
    /// # Errors
    /// If `sh` does not start.
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r _; kill -KILL 0"]).process_group(0).stdin(Stdio::piped());
        let failed = |reason| Failure::new(format!("cannot run sh: {reason}"));
        let mut shell = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(failed)?;
        let pipe = shell.stdin.take().ok_or_else(|| Failure::new("sh has no input"))?;
        Ok(Self { shell, _pipe: pipe })
    }

    /// Starts a program whose output goes to `log`.
    ///
    /// # Errors
    /// If the program does not start.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Process, Failure> {
        let group = self.id().ok_or_else(|| Failure::new("the shell that guards all processes is gone"))?;
        let failed = |reason| Failure::new(format!("cannot start {name} ({}): {reason}", program.display()));
        let file = File::create(log).map_err(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(group.as_raw()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(failed)?).stderr(file);
        let child = command.spawn().map_err(failed)?;
        Ok(Process { name, child: Mutex::new(child), log: log.to_owned() })
    }

    /// The id of the group. It stays ours until the shell is reaped, which is never before the drop of `Group`.
    fn id(&self) -> Option<Pid> {
        self.shell.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.id() {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: &'static str,
    pub(crate) log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Checks that the program still runs.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn alive(&self) -> Result<(), Failure> {
        match self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("has ended: {status}"))),
            Err(reason) => Err(self.failure(&format!("is lost: {reason}"))),
        }
    }

    /// A failure of this program, with its log.
    pub(crate) fn failure(&self, what: &str) -> Failure {
        Failure::new(format!("{} {what}", self.name)).with_log(&self.log)
    }
}
