//! The code that the programs here share: agents as child processes (`running`), and two real Envoys in mutual TLS beside an
//! agent that is restarted (`pair`). `hot` has the code that the benchmarks share.

pub mod pair;
pub mod running;
