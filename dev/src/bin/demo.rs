//! `cargo demo`: see [`dev::demo`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // The alias ends in `--` already; people write `cargo demo -- --check` all the same.
    dev::demo::main(std::env::args().skip(1).skip_while(|word| word == "--"))
}
