//! `finial keep` in a program of its own, which is a tenth as large: `finial-keep PROGRAM FLAGS` runs `PROGRAM run FLAGS`.
//! `finial keep` becomes this program when it lies beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!(
            "usage: finial-keep PROGRAM FLAGS, which runs \"PROGRAM run FLAGS\"; see \"finial keep -help\""
        );
        return ExitCode::FAILURE;
    };
    keep::run(program.into(), arguments)
}
