//! `sds-load`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sds_load::main()
}
