//! The code that the programs here share: agents as child processes. `hot` has the code that the benchmarks share.

pub mod running;
