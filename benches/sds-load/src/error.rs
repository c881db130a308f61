//! The errors that prevent a measurement. Each text tells the user what to do.

use std::io;
use std::path::PathBuf;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "{0} does not exist: is the agent running, and is this its socket_path? (--socket names another)"
    )]
    NoSocket(PathBuf),
    #[error("{0} is not a socket: give the agent's socket_path with --socket")]
    NotASocket(PathBuf),
    #[error("may not connect to {0}: run as a user who may write to the socket and enter its folder")]
    Forbidden(PathBuf),
    #[error("nobody listens on {0}: the file was left by an agent that has ended; start one")]
    Refused(PathBuf),
    #[error("cannot connect to {path}: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("no process {0}: --pid takes the process ID of the agent in this PID namespace")]
    NoProcess(u32),
    #[error(
        "{streams} streams need {needed} open files in each process, {allowed} are allowed: more --processes, or `ulimit -Hn {needed}`"
    )]
    Descriptors { streams: usize, needed: u64, allowed: u64 },
    #[error("{0}")]
    Usage(String),
    #[error("a worker process failed: {0}")]
    Worker(#[source] io::Error),
    #[error("a worker process ended on its own; its last words are above")]
    WorkerEnded,
    #[error("--trigger failed ({status}): {stderr}")]
    Trigger { status: String, stderr: String },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a report of sds-load: {source}")]
    NotAReport { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}
