//! `finial`, also known as `spire-agent`: see [`agent::cli`].

use std::process::ExitCode;

/// Gives pages back when thousands of streams have closed, where glibc keeps them (figures: `benches/REPORT.md`). Its
/// settings are compiled in: `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    agent::cli::main(std::env::args_os().collect())
}
