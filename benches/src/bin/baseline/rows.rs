//! The rows in their order, and the measurement of each.

use benches::running::Outcome;

use crate::measure;
use crate::{Agent, Bench};

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// The row's name, `GROUP.NAME`.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) aim: Option<f64>,
}

/// The rows of one measurement.
pub(crate) struct Group {
    pub(crate) id: &'static str,
    pub(crate) measure: fn(&Bench, &Agent) -> Outcome<Values>,
    /// Whether the result is always the same, so that one run is enough.
    once: bool,
}

/// The result of a measurement: a value for each row.
pub(crate) type Values = Vec<(&'static str, f64)>;

impl Row {
    pub(crate) fn group(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(group, _)| group)
    }
}

impl Group {
    pub(crate) fn runs(&self, wanted: usize) -> usize {
        if self.once { 1 } else { wanted }
    }
}

const fn group(id: &'static str, measure: fn(&Bench, &Agent) -> Outcome<Values>) -> Group {
    Group { id, measure, once: false }
}

pub(crate) const GROUPS: &[Group] = &[
    Group { id: "size", measure: measure::start::size, once: true },
    group("start", measure::start::start),
    group("idle", measure::start::idle),
    group("memory-1000", measure::streams::memory_1000),
    group("memory-5000", measure::streams::memory_5000),
    group("memory-10000", measure::streams::memory_10000),
    group("memory-small", measure::streams::memory_small),
    group("memory-delta", measure::streams::memory_delta),
    group("memory-bundles", measure::streams::memory_bundles),
    group("herd", measure::streams::herd),
    group("storm-440", measure::streams::storm_440),
    group("storm-880", measure::streams::storm_880),
    group("storm-1600", measure::streams::storm_1600),
    group("storm-3200", measure::streams::storm_3200),
    group("storm-10000", measure::streams::storm_10000),
    group("warm", measure::streams::warm),
    group("rotation", measure::rotations::rotation),
    group("unneeded", measure::rotations::unneeded),
    group("churn", measure::streams::churn),
    group("jwt", measure::jwt::cached),
    group("entries", measure::entries::ten_thousand),
    group("stuck-socket", measure::rotations::stuck_socket),
    group("stuck-window", measure::rotations::stuck_window),
    group("cli", measure::start::cli),
    group("created-1s", measure::entries::created_1s),
    group("created-5s", measure::entries::created_5s),
];

const fn row(id: &'static str, title: &'static str, unit: &'static str, aim: f64) -> Row {
    Row { id, title, unit, aim: Some(aim) }
}

const fn without_aim(id: &'static str, title: &'static str, unit: &'static str) -> Row {
    Row { id, title, unit, aim: None }
}

pub(crate) const ROWS: &[Row] = &[
    row("size.stripped", "binary, stripped", "MiB", 12.0),
    row("start.socket", "exec → socket connectable", "ms", 10.0),
    row("start.svid", "exec → first SVID", "ms", 25.0),
    row("idle.rss", "idle RSS", "MiB", 10.0),
    row("idle.anon", "idle anonymous memory", "MiB", 3.0),
    row("idle.cpu", "idle CPU per minute", "ms", 10.0),
    row("memory-1000.stream", "memory per stream, 1,000 streams, 61 KB node", "KiB", 20.0),
    row("memory-1000.open", "CPU to open a stream and take its ACK", "µs", 250.0),
    row("memory-5000.stream", "memory per stream, 5,000 streams, 61 KB node", "KiB", 20.0),
    row("memory-10000.stream", "memory per stream, 10,000 streams, 61 KB node", "KiB", 20.0),
    row("memory-10000.after", "RSS above idle, 60 s after 10,000 streams closed", "MiB", 10.0),
    row("memory-small.stream", "memory per stream, 10,000 streams, 1 KB node", "KiB", 15.0),
    row("memory-delta.stream", "memory per delta stream, 10,000 streams, 61 KB node", "KiB", 20.0),
    without_aim("memory-delta.open", "CPU to open a delta stream and take its ACK", "µs"),
    row("memory-bundles.x509", "memory per stream of FetchX509Bundles, 5,000 streams", "KiB", 3.0),
    row("memory-bundles.jwt", "memory per stream of FetchJWTBundles, 5,000 streams", "KiB", 3.0),
    row("herd.all", "herd of 220 streams, 110 processes: all served", "ms", 40.0),
    row("herd.cpu", "… CPU", "ms", 60.0),
    without_aim("storm-440.all", "storm of 440 streams: all served", "s"),
    row("storm-880.all", "storm of 880 streams: all served", "s", 0.15),
    row("storm-1600.all", "storm of 1,600 streams: all served", "s", 0.3),
    row("storm-3200.all", "storm of 3,200 streams: all served", "s", 0.6),
    without_aim("storm-10000.all", "storm of 5,000 × 2 streams: all served", "s"),
    without_aim("storm-10000.newcomers", "… newcomers meanwhile, p99", "ms"),
    without_aim("storm-10000.newcomersmax", "… newcomers meanwhile, most", "ms"),
    without_aim("storm-10000.health50", "… health meanwhile, p50", "ms"),
    without_aim("storm-10000.health", "… health meanwhile, p99", "ms"),
    without_aim("storm-10000.healthmax", "… health meanwhile, most", "ms"),
    row("warm.sds50", "warm first secret, fresh stream, p50", "ms", 0.4),
    row("warm.sds99", "… p99", "ms", 1.0),
    without_aim("warm.connection50", "warm first secret, fresh connection, p50", "ms"),
    row("warm.workload50", "warm FetchX509SVID, fresh stream, p50", "ms", 0.3),
    row("warm.workload99", "… p99", "ms", 1.0),
    row("rotation.big", "rotation, 1,000 streams: CPU per push, 61 KB ACK", "µs", 60.0),
    without_aim("rotation.bigtimes", "… times the bare socket's", "×"),
    row("rotation.small", "rotation, 1,000 streams: CPU per push, small ACK", "µs", 15.0),
    without_aim("rotation.smalltimes", "… times the bare socket's", "×"),
    row("rotation.spread", "rotation: first → last stream", "ms", 20.0),
    row("unneeded.pushes", "unneeded pushes on 500 bundle streams per rotation", "", 0.0),
    row("churn.sds", "churn, 16 at once: CPU per SDS stream", "µs", 250.0),
    row("churn.workload", "churn, 16 at once: CPU per FetchX509SVID", "µs", 130.0),
    without_aim("jwt.token50", "cached JWT-SVID, p50", "ms"),
    row("jwt.token99", "… p99", "ms", 1.0),
    row("jwt.away99", "… while the server is away, p99", "ms", 5.0),
    row("entries.svid", "10,000 entries, 1 workload: exec → first SVID", "ms", 150.0),
    row("entries.signed", "… X.509-SVIDs signed for workloads", "", 3.0),
    row("entries.rss", "… RSS", "MiB", 25.0),
    row("entries.cpu", "… CPU per idle minute", "ms", 100.0),
    row("stuck-socket.growth", "500 readers that never read the socket, 20 rotations: growth", "MiB", 2.0),
    row("stuck-window.growth", "500 readers with a window of 0, 20 rotations: growth", "MiB", 2.0),
    row("cli.wall", "`api fetch x509`: wall", "ms", 5.0),
    row("cli.cpu", "… CPU", "ms", 4.0),
    row("cli.peak", "… peak RSS", "MiB", 8.0),
    row("created-1s.secret", "entry created → SVID, server's cache at 1 s", "s", 1.5),
    row("created-5s.secret", "entry created → SVID, server's cache at 5 s", "s", 6.0),
];
