//! Counts the allocations of one operation of each hot path, and its bytes at the peak.
//!
//! `cargo run --profile bench -p finial-hot --bin heap`. It exits with 1 if a scenario makes more allocations than it
//! may.

use std::process::ExitCode;

use dhat::{Alloc, HeapStats, Profiler};
use hot::scenarios::ALL;

#[global_allocator]
static ALLOCATOR: Alloc = Alloc;

fn main() -> ExitCode {
    let mut exceeded = false;
    println!("{:28} {:>11} {:>8} {:>12}", "one operation", "allocations", "promised", "bytes");
    for scenario in ALL {
        let mut operation = (scenario.prepare)();
        // The first run is not counted. It makes what is made once, such as the scratch space of a regular expression.
        operation();
        let profiler = Profiler::builder().testing().build();
        operation();
        let stats = HeapStats::get();
        drop(profiler);
        let mark = if stats.total_blocks > scenario.allocations { " MORE THAN PROMISED" } else { "" };
        exceeded |= !mark.is_empty();
        let (count, promised, bytes) = (stats.total_blocks, scenario.allocations, stats.max_bytes);
        println!("{:28} {count:>11} {promised:>8} {bytes:>12}{mark}", scenario.name);
    }
    if exceeded { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
