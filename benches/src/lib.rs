//! What the programs here share: agents as programs. What the benchmarks share is in `hot`.

pub mod running;
