//! `finial`, also known as `spire-agent`: see [`agent::cli`].

use std::process::ExitCode;

/// jemalloc returns memory to the system after thousands of streams have closed, where glibc keeps it (figures:
/// `benches/REPORT.md`). `.cargo/config.toml` compiles its settings in.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    agent::cli::main(std::env::args_os().collect())
}
