//! `cargo demo`: see [`dev::demo`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // The alias ends in `--` already, but people still write `cargo demo -- --check`.
    dev::demo::main(std::env::args().skip(1).skip_while(|word| word == "--"))
}
