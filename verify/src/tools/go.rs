//! The Go programs of `tests/peers/programs`, built by one `go build`: they share most of their modules.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::{Error, cached, run};

/// The folder with [`PROGRAMS`].
///
/// # Errors
/// [`Error`] if there is no Go that is new enough, or the Go module proxy is out of reach.
pub fn go_programs() -> Result<PathBuf, Error> {
    let mut hasher = DefaultHasher::new();
    (MODULES, SUMS).hash(&mut hasher);
    cached(&format!("go-{:016x}", hasher.finish()), make)
}

fn make(place: &Path) -> Result<(), Error> {
    // The modules are those of this build, and not of the folder that cargo may have been started in.
    let modules = place.join("modules");
    let written = fs::create_dir_all(&modules)
        .and_then(|()| fs::write(modules.join("go.mod"), MODULES))
        .and_then(|()| fs::write(modules.join("go.sum"), SUMS));
    written.map_err(|reason| Error::Cache(modules.clone(), reason))?;
    let go = env::var_os("GO").filter(|path| !path.is_empty()).unwrap_or_else(|| "go".into());
    let mut build = Command::new(go);
    build.args(["build", "-buildvcs=false", "-ldflags=-s -w", "-o"]).arg(place).arg("tool");
    // Without the variable, Go would fetch another Go if it is too old itself.
    run(build.current_dir(&modules).env("GOTOOLCHAIN", "local"))?;
    for name in PROGRAMS {
        let program = place.join(name);
        if !program.is_file() {
            return Err(Error::Missing(program));
        }
    }
    Ok(())
}

/// The programs: what `tool` is in their go.mod. A test finds each by the variable that is its name in capitals, with
/// `_` for `-`.
pub const PROGRAMS: [&str; 3] = ["ghostunnel", "oidc-discovery-provider", "spiffe-helper"];
const MODULES: &str = include_str!("../../../tests/peers/programs/go.mod");
const SUMS: &str = include_str!("../../../tests/peers/programs/go.sum");
