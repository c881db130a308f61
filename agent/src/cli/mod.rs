//! The command line: spire-agent's commands, flags, streams and exit codes.
//!
//! * `command`: the tree of commands, and the help that lists them (SPIRE uses mitchellh/cli).
//! * `flags`: Go's `flag` package, as far as the commands need it.
//! * `load`: the flags of `run` and `validate`, and the settings from these flags and the file.
//! * `socket`: the path of the public socket. `client`: a client of it.
//! * `fetch`, `jwt`, `watch`, `health`: the commands that talk to a running agent. `x509`: checks their answers. `print`:
//!   makes their output.
//! * `keep`: becomes the agent's keeper.
//! * `check`: looks at a node before an agent runs there.
//! * `complete`: what a shell may complete, and how it asks. `manual`: pages for man(1).
//! * `admin`, `inspect`, `top`: the commands that talk to the admin socket.
//! * `san`: judges a peer's certificate by an Envoy policy, without a running Envoy or peer.
//!
//! All modules make text, and only `console` writes it. Help and errors go to standard error, results to standard
//! output.

mod admin;
mod check;
mod client;
mod command;
mod complete;
mod console;
mod fetch;
mod flags;
mod health;
mod inspect;
mod jwt;
mod keep;
mod load;
mod manual;
mod print;
mod san;
mod socket;
mod top;
mod watch;
mod x509;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use command::{Command, Request};
use flags::{FlagError, FlagSet, Values};

use crate::golang;

/// Runs the program. The first argument is the name by which it was called.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let program = program_name(arguments.next());
    if let Some(words) = complete::asked(|name| std::env::var(name).ok()) {
        words.iter().for_each(|word| console::out(word));
        return ExitCode::SUCCESS;
    }
    let Ok(words) = arguments.map(OsString::into_string).collect::<Result<Vec<_>, _>>() else {
        console::err("arguments must be UTF-8");
        return ExitCode::FAILURE;
    };
    match command::parse(&words) {
        Request::Version => {
            console::err(&crate::version::line());
            ExitCode::SUCCESS
        }
        Request::Help { topic, code } => {
            console::err(&command::help(topic, &program));
            ExitCode::from(code)
        }
        Request::MisplacedFlags(topic) => {
            console::err(MISPLACED_FLAGS);
            console::err(&command::help(topic, &program));
            ExitCode::FAILURE
        }
        Request::Installation(order) => complete::install::run(order, &program),
        Request::Run(command, arguments) => run(command, arguments, &program),
    }
}

fn run(command: Command, arguments: &[String], program: &str) -> ExitCode {
    let set = command.flags();
    let values = match set.parse(arguments) {
        Ok(values) => values,
        Err(error) => return refuse(command, set, &error),
    };
    let run: fn(&Values) -> ExitCode = match command {
        Command::Completion => return complete::scripts::run(arguments, program),
        Command::Man => return manual::run(arguments),
        Command::Admin(admin) => return admin::run(admin, &values),
        Command::Keep => return keep::run(arguments),
        Command::Run => load::run,
        Command::Validate => load::validate,
        Command::Check => check::run,
        Command::Healthcheck => health::run,
        Command::SanCheck => san::run,
        Command::Watch => watch::run,
        Command::Explain => inspect::explain,
        Command::Issuance => inspect::issuance,
        Command::Top => top::run,
        Command::Fetch | Command::FetchX509 => fetch::run,
        Command::FetchJwt => jwt::fetch,
        Command::ValidateJwt => jwt::validate,
    };
    apart(run, &values)
}

/// Calls a command in a stack frame of its own. Inlined here, all commands would share one frame of 100 KiB, every page of
/// which is touched whichever of them runs, the agent itself included.
#[inline(never)]
fn apart(run: fn(&Values) -> ExitCode, values: &Values) -> ExitCode {
    run(values)
}

/// Prints a flag error and the usage, as Go's flag package does. spire-agent's commands except `healthcheck`, `debug`
/// and `logger` then print the error again.
fn refuse(command: Command, set: &FlagSet, error: &FlagError) -> ExitCode {
    console::err(&error.to_string());
    console::err(&set.usage());
    match command {
        Command::Healthcheck | Command::Admin(_) => {}
        Command::Check => return ExitCode::from(check::BAD_INPUT),
        Command::SanCheck => return ExitCode::from(san::BAD_INPUT),
        Command::Explain | Command::Issuance | Command::Top => {}
        Command::Validate => console::err(&load::invalid(error)),
        _ => console::err(&error.to_string()),
    }
    ExitCode::FAILURE
}

/// Runs a client command on this thread alone, which is cheap.
fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            // Does not wait for a name server or a disk that does not answer.
            runtime.shutdown_background();
            code
        }
        Err(reason) => {
            console::err(&format!("cannot start: {}", golang::os_error(&reason)));
            ExitCode::FAILURE
        }
    }
}

fn program_name(argument: Option<OsString>) -> String {
    let name = argument.as_ref().and_then(|path| Path::new(path).file_name());
    name.map_or_else(|| "finial".to_owned(), |name| name.to_string_lossy().into_owned())
}

const MISPLACED_FLAGS: &str = "Invalid flags before the subcommand. If these flags are for\n\
                               the subcommand, please put them after the subcommand.\n";
