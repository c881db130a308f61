//! End-to-end tests of the program, with a server and clients.

mod suite;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    if !arguments.list {
        harness::build_finial();
    }
    libtest_mimic::run(&arguments, suite::trials()).exit_code()
}
