//! The messages between the parent and a worker: one JSON value per line on a pipe.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flood::Flood;
use crate::tally::{Arrivals, Content, Counts, Pairs};
use crate::wire::NodeIn;

/// A message to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    Plan(Box<Plan>),
    /// Start at this time, as all other workers do.
    Go {
        at: u64,
    },
    /// Make this many more exchanges (see [`Work::Churn`]).
    More(usize),
    /// The storm is over: start no more newcomers.
    Calm,
    /// Close everything and report.
    Stop,
}

/// A message from a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum News {
    /// The worker has read its plan.
    Ready,
    /// The present counts.
    Tick(Tick),
    /// Everything is closed.
    Done(Last),
}

/// The present counts of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) counts: Counts,
    pub(crate) rotations: Vec<(Content, Arrivals)>,
    pub(crate) finished: bool,
}

/// The final measurements of a worker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) tick: Tick,
    pub(crate) latencies: Pairs,
    /// The streams without a secret: connection and name of each.
    pub(crate) unserved: Vec<(usize, String)>,
    /// CPU time of the worker itself, in nanoseconds.
    pub(crate) cpu: u64,
}

/// The work of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) socket: PathBuf,
    pub(crate) api: Api,
    pub(crate) names: Vec<String>,
    pub(crate) node_in: NodeIn,
    pub(crate) node_bytes: usize,
    pub(crate) answers: Answers,
    pub(crate) work: Work,
}

/// Whose streams are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Api {
    /// SDS v3 StreamSecrets, as Envoy.
    Sds,
    /// SDS v3 DeltaSecrets, as Envoy with `DELTA_GRPC`.
    Delta,
    /// The Workload API's FetchX509SVID.
    Workload,
    /// The Workload API's FetchX509Bundles.
    X509Bundles,
    /// The Workload API's FetchJWTBundles.
    JwtBundles,
}

impl Api {
    /// Whether it is SDS: streams are of names, and responses are answered.
    pub(crate) fn is_sds(self) -> bool {
        matches!(self, Self::Sds | Self::Delta)
    }
}

/// The answers to pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answers {
    Ack,
    /// Every n-th response of a stream is rejected.
    NackEvery(u64),
    Never,
}

/// The kinds of work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Streams that stay open.
    Hold(Hold),
    /// Exchanges: new connection, first secret, ACK, close. Each lane takes one exchange at a time of the `granted`
    /// ones.
    Churn { lanes: usize, granted: usize },
    /// First secrets one after another: on new streams of one connection, then on new connections.
    Warm { count: usize },
    /// New connections at intervals during a storm, and health probes; at least one of each.
    Newcomers { count: usize, health_every: Option<Duration> },
    /// A flood.
    Flood(Flood),
}

/// Streams that stay open.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// The numbers of this process's connections, among those of all processes.
    pub(crate) connections: Vec<usize>,
    /// The number of streams on each connection.
    pub(crate) streams: usize,
    /// The time over which the connections of all processes open, one after another.
    pub(crate) ramp: Duration,
    /// The number of connections of all processes.
    pub(crate) of: usize,
    /// Whether failed streams are opened again, as Envoy does.
    pub(crate) reconnect: bool,
    pub(crate) reading: Reading,
}

/// How much a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reading {
    All,
    /// Nothing from the socket once its streams have their first secrets.
    UntilServed,
    /// Nothing from the socket.
    Nothing,
    /// This many bytes on each stream.
    Window(u32),
}

impl Hold {
    /// The time from the start to the opening of a connection.
    pub(crate) fn delay(&self, connection: usize) -> Duration {
        self.ramp.mul_f64(connection as f64 / self.of.max(1) as f64)
    }
}
