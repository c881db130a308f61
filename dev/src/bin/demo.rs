//! `cargo demo`: see [`dev::demo`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dev::demo::main(std::env::args().skip(1))
}
