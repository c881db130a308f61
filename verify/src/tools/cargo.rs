//! Subcommands of cargo from crates.io.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, cached, run};

/// A subcommand of cargo, in its pinned version.
#[derive(Debug, Clone, Copy)]
pub struct CargoTool {
    name: &'static str,
    version: &'static str,
}

/// Checks licences, bans, sources and advisories of dependencies.
pub const CARGO_DENY: CargoTool = CargoTool { name: "cargo-deny", version: "0.20.2" };

/// Builds and runs fuzz targets.
pub const CARGO_FUZZ: CargoTool = CargoTool { name: "cargo-fuzz", version: "0.13.2" };

impl CargoTool {
    /// The path of the program. The first call on a machine builds it, in one to three minutes.
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
        // The tools run only for seconds, so a quick build matters more than quick code.
        cargo.envs([
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
            ("CARGO_PROFILE_RELEASE_LTO", "off"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
        ]);
        run(cargo.env_remove("CARGO_TARGET_DIR"))
    }
}
