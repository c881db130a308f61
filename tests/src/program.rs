//! The programs that tests run.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The path of this workspace's `finial` program. The first call builds it in the profile of the tests.
///
/// # Panics
/// If it does not build.
pub fn build_finial() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", "finial", "--bins"])
            .status()
            .expect("cargo runs");
        assert!(built.success(), "finial does not build");
        // target/PROFILE/deps/THIS-TEST → target/PROFILE/finial
        let own = std::env::current_exe().expect("this program has a path");
        own.ancestors().nth(2).expect("a target folder").join("finial")
    };
    BUILT.get_or_init(build).clone()
}

/// The path of a program that an environment variable names, or that is on the PATH.
///
/// # Errors
/// The reason for skipping the test.
pub fn needs(variable: &str, program: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{variable} is not set and {program} is not on the PATH"))
}

/// The path of a Python that has these modules.
///
/// # Errors
/// The reason for skipping the test.
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
