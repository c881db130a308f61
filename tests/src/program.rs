//! Programs that tests run.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The `finial` program of this workspace, built when it is first asked for, with the profile of the tests.
///
/// # Panics
/// When it does not build.
pub fn build_finial() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "finial", "--bin", "finial"])
            .status()
            .expect("cargo runs");
        assert!(built.success(), "finial does not build");
        // target/PROFILE/deps/THIS-TEST → target/PROFILE/finial
        let own = std::env::current_exe().expect("this program has a path");
        own.ancestors().nth(2).expect("a target folder").join("finial")
    };
    BUILT.get_or_init(build).clone()
}

/// A program by the variable that names it, or on the PATH.
///
/// # Errors
/// The reason to show for skipping.
pub fn needs(variable: &str, program: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{variable} is not set and {program} is not on the PATH"))
}

/// A Python that has these modules.
///
/// # Errors
/// The reason to show for skipping.
pub fn python(modules: &[&str]) -> Result<PathBuf, String> {
    let python = needs("FINIAL_PYTHON", "python3")?;
    let program = format!("import {}", modules.join(", "));
    let output =
        Command::new(&python).args(["-c", &program]).output().map_err(|reason| reason.to_string())?;
    if output.status.success() {
        Ok(python)
    } else {
        Err(format!("{} lacks {}", python.display(), modules.join(", ")))
    }
}
