//! Cargo's subcommands.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, cached, run};

/// A subcommand of cargo in the one version that we use.
#[derive(Debug, Clone, Copy)]
pub struct CargoTool {
    name: &'static str,
    version: &'static str,
}

/// Licences, bans, sources, advisories.
pub const CARGO_DENY: CargoTool = CargoTool { name: "cargo-deny", version: "0.20.2" };

/// Builds and runs fuzz targets.
pub const CARGO_FUZZ: CargoTool = CargoTool { name: "cargo-fuzz", version: "0.13.2" };

impl CargoTool {
    /// Its program; built when this machine does not have it yet (one to three minutes).
    ///
    /// # Errors
    /// [`Error`], most likely because crates.io is out of reach.
    pub fn program(self) -> Result<PathBuf, Error> {
        let place = cached(&format!("{}-{}", self.name, self.version), |place| self.install(place))?;
        Ok(place.join("bin").join(self.name))
    }

    fn install(self, place: &Path) -> Result<(), Error> {
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--locked", "--version", self.version, "--root"]).arg(place).arg(self.name);
        // They run for seconds, so quick to build is better than quick.
        cargo.envs([
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
            ("CARGO_PROFILE_RELEASE_LTO", "off"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
        ]);
        run(cargo.env_remove("CARGO_TARGET_DIR"))
    }
}
