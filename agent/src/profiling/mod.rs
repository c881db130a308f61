//! Profiles of the agent itself, in the form of Go's pprof (SPIRE, `agent.go` `setupProfiling`, `pkg/common/profiling`).
//!
//! * `cpu`: where the time goes. A signal comes a hundred times for each second of CPU, and its handler follows the stack.
//! * `heap`: what allocated the memory in use, as jemalloc has sampled it. `restart` switches that on.
//! * `stacks`: what both are written with.
//! * `listener`: `/debug/pprof/` on this machine. `dumps`: files at an interval.
//!
//! Making a profile takes up to a tenth of a second, so none is made on the thread that serves workloads.

mod cpu;
mod dumps;
mod heap;
mod listener;
mod restart;
mod stacks;

use config::Profiling;

pub(crate) use restart::with_heap_profiles;

/// Starts what the configuration asks for. Nothing of it keeps the agent from serving.
pub(crate) fn start(profiling: Option<&Profiling>) {
    let Some(profiling) = profiling else { return };
    if let Some(port) = profiling.port {
        tokio::spawn(listener::serve(port));
    }
    if let Some(dumps) = &profiling.dumps {
        dumps::start(dumps.clone());
    }
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cpu profiling already in use")]
    Busy,
    #[error("cannot sample the CPU: {0}; a folder for temporary files is needed (TMPDIR, else /tmp)")]
    Cpu(pprof::Error),
    #[error("heap profiles are off; the log of the start says why")]
    HeapOff,
    #[error("cannot profile the heap: {0}; a folder for temporary files is needed (TMPDIR, else /tmp)")]
    Heap(Box<dyn std::error::Error + Send + Sync>),
}
