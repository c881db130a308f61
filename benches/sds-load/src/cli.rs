//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::flood::Kind;
use crate::plan::{Answers, Api};
use crate::wire::{NodeIn, RECORDED_NODE};

/// Load tester for the socket of a SPIFFE agent: simulated Envoys on SDS v3, or clients of the Workload API.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What does it cost to keep N Envoys? Opens all streams and keeps them, answering pushes
    Hold {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        fleet: FleetArgs,
        /// How long to keep them once all are served
        #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
        duration: Duration,
    },
    /// How fast are all served that come at once? Opens all streams together and ends when each has its secret
    Herd {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        fleet: FleetArgs,
    },
    /// Does anybody starve meanwhile? A herd with Envoy's reconnecting, newcomers and health probes during it
    Storm {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        fleet: FleetArgs,
        /// Up to so many more Envoys connect, one every 20 ms, while the storm lasts
        #[arg(long, default_value_t = 100)]
        newcomers: usize,
        /// Probe gRPC health every 50 ms while the storm lasts
        #[arg(long)]
        health: bool,
    },
    /// What does a short-lived caller cost? New connection, first secret, ACK, close, again and again
    Churn {
        #[command(flatten)]
        common: Common,
        /// How many at once
        #[arg(long, default_value_t = 16)]
        concurrency: usize,
        /// How many altogether
        #[arg(long, conflicts_with = "duration")]
        count: Option<usize>,
        /// For how long, instead of a count
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        duration: Option<Duration>,
    },
    /// What does a rotation cost, and how far apart do its pushes arrive? Holds streams through N rotations
    Rotate {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        fleet: FleetArgs,
        /// Rotations to wait for
        #[arg(long, default_value_t = 5)]
        pushes: usize,
        #[command(flatten)]
        trigger: TriggerArgs,
    },
    /// What do clients cost that do not read? Opens streams, stops reading, watches the agent's memory
    Slow {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        fleet: FleetArgs,
        /// What is not read
        #[arg(long, value_enum, default_value_t = Unread::Socket)]
        unread: Unread,
        /// With `--unread window`: the HTTP/2 window of each stream, in bytes
        #[arg(long, default_value_t = 0)]
        window: u32,
        /// Rotations to cause with --trigger meanwhile
        #[arg(long, default_value_t = 20)]
        pushes: usize,
        /// How long to watch where there is no --trigger
        #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
        duration: Duration,
        #[command(flatten)]
        trigger: TriggerArgs,
    },
    /// How quick is a single answer? First secrets one after another, on fresh streams and on fresh connections
    Warm {
        #[command(flatten)]
        common: Common,
        /// How many of each
        #[arg(long, default_value_t = 1000)]
        count: usize,
    },
    /// What can one hostile pod do to the others? Floods of ten kinds, with honest callers beside them
    Flood {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        floods: FloodArgs,
    },
    /// Ratios of two reports
    Compare {
        /// A report, the base
        a: PathBuf,
        /// The report to hold against it
        b: PathBuf,
    },
    /// One process of a run; started by sds-load itself.
    #[command(hide = true)]
    Worker,
}

/// Which socket, as whom, and where the report goes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The agent's socket
    #[arg(long, short, env = "SPIFFE_ENDPOINT_SOCKET", default_value = "/tmp/spire-agent/public/api.sock", value_name = "PATH", value_parser = socket)]
    pub(crate) socket: PathBuf,
    /// Whose streams
    #[arg(long, value_enum, default_value_t = Api::Sds)]
    pub(crate) api: Api,
    /// Secrets to ask for, one per stream, in turn
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "spiffe://example.org/web,spiffe://example.org",
        value_name = "NAME,…"
    )]
    pub(crate) names: Vec<String>,
    /// Which messages carry Envoy's node
    #[arg(long, value_enum, default_value_t = NodeIn::Always)]
    pub(crate) node: NodeIn,
    /// How large it is; as recorded from an Envoy 1.40, or cut or grown to about so much
    #[arg(long, default_value_t = RECORDED_NODE, value_name = "BYTES")]
    pub(crate) node_bytes: usize,
    /// Spread the load over so many processes (an agent caps what one process may open)
    #[arg(long, default_value_t = 1)]
    pub(crate) processes: usize,
    /// How long a stream may wait for its first secret
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Measure this process [default: the one that listens on the socket]
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Keep measuring for so long after all is closed [default: 0s; 5s after each kind of `flood`]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) settle: Option<Duration>,
    /// How often to measure
    #[arg(long, default_value = "100ms", value_name = "DURATION", value_parser = duration)]
    pub(crate) sample: Duration,
    /// A name for this run in its report
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Write the report as JSON, `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report as one HTML page
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// No progress, no table
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// How many streams, and how they behave.
#[derive(Debug, Clone, Args)]
pub(crate) struct FleetArgs {
    /// Connections: one per Envoy
    #[arg(long, short, default_value_t = 110)]
    pub(crate) connections: usize,
    /// Streams on each: an Envoy has one for each secret
    #[arg(long, default_value_t = 2)]
    pub(crate) streams: usize,
    /// Open the connections one after another over so long
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub(crate) ramp: Duration,
    /// Reject every so many-th response of a stream
    #[arg(long, value_name = "N", conflicts_with = "never_ack")]
    pub(crate) nack_every: Option<u64>,
    /// Answer nothing
    #[arg(long)]
    pub(crate) never_ack: bool,
    /// Open failed streams again, with Envoy's backoff (`storm` always does)
    #[arg(long)]
    pub(crate) reconnect: bool,
}

/// What a flood is.
#[derive(Debug, Clone, Args)]
pub(crate) struct FloodArgs {
    /// What the flood does; several kinds come one after another
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all", value_name = "KIND,…")]
    pub(crate) kind: Vec<Kind>,
    /// Connections of the flood at once [default: 32; 1000 for silent-connections]
    #[arg(long, short)]
    pub(crate) connections: Option<usize>,
    /// How long each kind lasts
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Instead of a duration: each connection says so many frames, and is not opened again when the agent ends it
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    pub(crate) frames: Option<u64>,
    /// The flood runs as this user, which takes root [default: 65534 as root, else one's own]
    #[arg(long)]
    pub(crate) uid: Option<u32>,
}

/// How rotations come about.
#[derive(Debug, Clone, Args)]
pub(crate) struct TriggerArgs {
    /// A shell command that causes a rotation, run for each
    #[arg(long, value_name = "COMMAND")]
    pub(crate) trigger: Option<String>,
    /// Pause after each rotation, in which the agent reads the answers
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
    pub(crate) between: Duration,
}

/// What a slow reader does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Unread {
    /// The socket, after the first secrets.
    Socket,
    /// The socket, from the start.
    Everything,
    /// HTTP/2 windows are never opened again.
    Window,
}

impl Command {
    /// The common arguments of a mode that runs; `None` for the other commands.
    pub(crate) fn common(&self) -> Option<&Common> {
        match self {
            Self::Hold { common, .. }
            | Self::Herd { common, .. }
            | Self::Storm { common, .. }
            | Self::Churn { common, .. }
            | Self::Rotate { common, .. }
            | Self::Slow { common, .. }
            | Self::Warm { common, .. }
            | Self::Flood { common, .. } => Some(common),
            Self::Compare { .. } | Self::Worker => None,
        }
    }
}

impl FleetArgs {
    pub(crate) fn answers(&self) -> Answers {
        match self.nack_every {
            _ if self.never_ack => Answers::Never,
            Some(every) => Answers::NackEvery(every),
            None => Answers::Ack,
        }
    }
}

/// Parses a path, or a URI as in SPIFFE_ENDPOINT_SOCKET.
fn socket(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
    if path.contains("://") {
        return Err("only Unix sockets: a path, or unix:///path".to_owned());
    }
    Ok(path.into())
}

/// Parses a duration like `250ms`, `90s`, `5m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let seconds = match &text[number.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a duration is like 250ms, 90s, 5m or 1h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "a duration is like 250ms, 90s, 5m or 1h")?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert!(duration("3 days").is_err() && duration("-1s").is_err() && duration("s").is_err());
    }

    #[test]
    fn sockets_are_paths_or_spiffe_addresses() {
        assert_eq!(socket("unix:///run/api.sock"), Ok("/run/api.sock".into()));
        assert_eq!(socket("/run/api.sock"), Ok("/run/api.sock".into()));
        assert!(socket("tcp://127.0.0.1:80").is_err());
    }
}
