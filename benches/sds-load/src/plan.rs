//! What the parent tells a worker, and what a worker tells the parent: one JSON value per line on a pipe.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flood::Flood;
use crate::tally::{Arrivals, Content, Counts, Pairs};
use crate::wire::NodeIn;

/// To a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    Plan(Box<Plan>),
    /// Start at this time, together with all others.
    Go {
        at: u64,
    },
    /// So many more exchanges (see [`Work::Churn`]).
    More(usize),
    /// The storm is over: no more newcomers.
    Calm,
    /// Close everything and report.
    Stop,
}

/// From a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum News {
    /// The plan is understood.
    Ready,
    /// Where it stands.
    Tick(Tick),
    /// All is closed.
    Done(Last),
}

/// Where a worker stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tick {
    pub(crate) counts: Counts,
    pub(crate) rotations: Vec<(Content, Arrivals)>,
    pub(crate) finished: bool,
}

/// What a worker has measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) tick: Tick,
    pub(crate) latencies: Pairs,
    /// Streams without a secret: connection and name.
    pub(crate) unserved: Vec<(usize, String)>,
    /// CPU time of the worker itself, in nanoseconds.
    pub(crate) cpu: u64,
}

/// What a worker shall do.
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
#[serde(rename_all = "lowercase")]
pub(crate) enum Api {
    /// SDS v3 StreamSecrets, as Envoy.
    Sds,
    /// The Workload API's FetchX509SVID.
    Workload,
}

/// How pushes are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answers {
    Ack,
    /// Every so many-th response of a stream is rejected.
    NackEvery(u64),
    Never,
}

/// The kinds of work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Streams that stay.
    Hold(Hold),
    /// New connection, first secret, ACK, close, again; each lane takes one of the exchanges that were granted.
    Churn { lanes: usize, granted: usize },
    /// First secrets one after another: on fresh streams of one connection, then on fresh connections.
    Warm { count: usize },
    /// New connections, now and then, while others storm, and health probes beside them; at least one of each.
    Newcomers { count: usize, health_every: Option<Duration> },
    /// What no client needs.
    Flood(Flood),
}

/// Streams that stay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// Numbers of the connections, over all processes.
    pub(crate) connections: Vec<usize>,
    /// Streams on each.
    pub(crate) streams: usize,
    /// The connections of all processes open one after another over so long.
    pub(crate) ramp: Duration,
    pub(crate) of: usize,
    /// Streams that fail are opened again, as Envoy does.
    pub(crate) reconnect: bool,
    pub(crate) reading: Reading,
}

/// How much a slow reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reading {
    All,
    /// Nothing of the socket once its streams have their first secrets.
    UntilServed,
    /// Nothing of the socket, ever.
    Nothing,
    /// Each stream so many bytes.
    Window(u32),
}

impl Hold {
    /// When this connection opens.
    pub(crate) fn delay(&self, connection: usize) -> Duration {
        self.ramp.mul_f64(connection as f64 / self.of.max(1) as f64)
    }
}
