//! The command `keep`.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use super::console;
use super::flags::FlagSet;
use super::load::FLAGS;
use crate::golang;

/// Becomes the program `finial-keep` if it lies beside this one: it takes a fifth of the memory. Otherwise does the same
/// itself. The flags are passed on as they are.
pub(super) fn run(arguments: &[String]) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(reason) => {
            console::err(&format!("cannot find this program: {}", golang::os_error(&reason)));
            return ExitCode::FAILURE;
        }
    };
    // It returns only if there is no such program.
    let _ = Command::new(program.with_file_name("finial-keep")).arg(&program).args(arguments).exec();
    keep::run(program, arguments.iter().map(Into::into))
}

/// The flags of `keep`: those of `run`.
pub(super) const KEEP_FLAGS: FlagSet = FlagSet { name: "keep", flags: FLAGS };
/// What `keep` is for.
pub(super) const MORE: &str = "\
Starts `run` with the same flags, and starts it again when it has ended: at once after a crash, later and\n\
later when it refuses to run. Between the two, callers wait in the backlog of the socket, which stays open,\n\
and the next agent serves what the last one had before it reaches the server. SIGTERM, SIGINT and SIGHUP end\n\
both; SIGUSR1 and SIGUSR2 are passed on.\n\
\n\
A second `keep` with the same configuration takes over from the first: it gets the sockets and identities,\n\
and when it has synced with the server, the first sends its callers to it and waits to be ended.";
