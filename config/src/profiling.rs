//! Which profiles of the agent itself are made, and how they are had (SPIRE: `agent.profiling_*`).

use std::time::Duration;

/// What `profiling_enabled = true` switches on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profiling {
    /// The port of this machine at which profiles can be fetched (SPIRE: `agent.profiling_port`).
    pub port: Option<u16>,
    /// The profiles that are written to files (SPIRE: `agent.profiling_freq`).
    pub dumps: Option<Dumps>,
}

/// Profiles that are written to files at an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dumps {
    /// The time between two files of a kind, in whole seconds (SPIRE: `agent.profiling_freq`).
    pub every: Duration,
    /// Each kind once (SPIRE: `agent.profiling_names`). There may be none.
    pub kinds: Vec<ProfileKind>,
}

/// A profile that Finial can make of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileKind {
    /// Where the agent spends its time on the CPU (`cpu`).
    Cpu,
    /// What allocated the memory that is in use (`heap`).
    Heap,
}

impl ProfileKind {
    /// The name in the configuration and in the names of files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Heap => "heap",
        }
    }
}

impl Profiling {
    /// Whether somebody can ask for a profile of the heap, or has it written.
    #[must_use]
    pub fn wants_heap(&self) -> bool {
        let dumped = self.dumps.as_ref().is_some_and(|dumps| dumps.kinds.contains(&ProfileKind::Heap));
        self.port.is_some() || dumped
    }
}
