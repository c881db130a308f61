//! The report of a run. `--json` writes it, and the table, the page and `compare` show it.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::process::Sample;

/// The report of one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The version of this format. It grows when a field changes its meaning.
    pub format: u32,
    /// The version of sds-load.
    pub version: String,
    /// The mode, which is the subcommand.
    pub mode: String,
    /// The value of `--label`, or else the name of the measured program.
    pub label: String,
    /// The command line.
    pub command: Vec<String>,
    /// The time of the start, in UTC.
    pub started: String,
    /// The machine of the run.
    pub machine: Machine,
    /// The agent under measurement.
    pub target: Target,
    /// What was asked of the agent: the API, and how many connections, streams and processes.
    pub setup: Setup,
    /// Seconds from the start of the load to its end.
    pub elapsed_s: f64,
    /// The number of streams that should have had a secret.
    pub wanted: u64,
    /// The number of streams that had one.
    pub served: u64,
    /// The seconds until the last stream had its secret; `None` if not all had one.
    pub all_served_s: Option<f64>,
    /// The streams without a secret, at most twenty.
    pub unserved: Vec<String>,
    /// The counts by name.
    pub counts: BTreeMap<String, u64>,
    /// Why streams and calls failed, with how often; empty if none did.
    pub errors: Vec<ErrorCount>,
    /// The latencies by name.
    pub latencies: BTreeMap<String, Latency>,
    /// The rotations in their order.
    pub rotations: Vec<Rotation>,
    /// The kinds of floods in their order. The first one is the time without a flood.
    #[serde(default)]
    pub floods: Vec<Flood>,
    /// The agent at the ends of phases; empty if it was not measured.
    pub phases: Vec<Phase>,
    /// The costs derived from the phases: `cpu_us_per_stream`, `rss_kib_per_stream` and the like.
    pub derived: BTreeMap<String, f64>,
    /// Samples of the run over time.
    pub timeline: Vec<Point>,
    /// Hints for the user about what went wrong.
    pub hints: Vec<String>,
}

/// The machine of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The release of the kernel.
    pub kernel: String,
    /// The number of CPUs that sds-load may use.
    pub cpus: usize,
    /// The load averages at the start, over 1, 5 and 15 minutes.
    pub load_average: String,
}

/// The agent under measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The path of the agent's socket.
    pub socket: String,
    /// The pid of the measured process; `None` if none was measured.
    pub pid: Option<u32>,
    /// The name of the measured process.
    pub program: String,
}

/// The load of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// `sds` or `workload`.
    pub api: String,
    /// The number of connections of all processes.
    pub connections: usize,
    /// The number of streams on each connection.
    pub streams: usize,
    /// The number of processes that make the load.
    pub processes: usize,
    /// The messages that carry Envoy's node.
    pub node: String,
    /// The size of the node in bytes.
    pub node_bytes: usize,
    /// The names of the secrets.
    pub names: Vec<String>,
}

/// The failures of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// The name of the gRPC code, or another short name of the error.
    pub code: String,
    /// The number of these failures.
    pub count: u64,
    /// The text of the first one.
    pub example: String,
}

/// The distribution of a latency, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The number of measurements.
    pub count: u64,
    /// The shortest, in milliseconds; 0 without measurements.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The longest, in milliseconds; 0 without measurements.
    pub max: f64,
    /// Points of the cumulative distribution: milliseconds, and the share of measurements that is not above.
    pub cdf: Vec<(f64, f64)>,
}

/// One rotation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// The name of the rotated secret.
    pub name: String,
    /// The number of streams that got the push.
    pub streams: u64,
    /// The number of streams that should have got it.
    pub expected: u64,
    /// Milliseconds from the start of the trigger to the first arrival.
    pub trigger_to_first_ms: Option<f64>,
    /// Milliseconds from the first arrival to the last one.
    pub spread_ms: f64,
    /// The number of pushes with nothing new during the rotation, on any stream.
    pub unneeded: u64,
    /// The agent's CPU time for the rotation, in milliseconds.
    pub cpu_ms: Option<f64>,
    /// The agent's CPU time for each push, needed or not, in microseconds.
    pub cpu_us_per_push: Option<f64>,
}

/// One kind of flood, and its effect on honest callers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Flood {
    /// The kind; `nothing` for the time without a flood.
    pub kind: String,
    /// Whether the agent was alive after the flood.
    pub alive: bool,
    /// The number of honest calls: health checks and first secrets, each on its own connection.
    pub calls: u64,
    /// The number of honest calls that failed.
    pub failed: u64,
    /// The median time of honest calls in milliseconds; `None` if no call was answered.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of that time.
    pub p99_ms: Option<f64>,
    /// The agent's VmRSS before the flood, in KiB.
    pub rss_before_kib: Option<u64>,
    /// The agent's highest VmRSS during and after the flood, in KiB.
    pub rss_peak_kib: Option<u64>,
    /// The agent's VmRSS at the end of `--settle` after the flood, in KiB.
    pub rss_after_kib: Option<u64>,
    /// The number of concurrent connections of the flood.
    pub connections: u64,
    /// The number of connections that the flood made.
    pub opened: u64,
    /// The number of connections that the socket refused, or that were closed before the agent sent a byte.
    pub refused: u64,
    /// The number of connections that the agent ended without GOAWAY.
    pub closed: u64,
    /// The number of frames that the flood queued for sending. A few may not have been written when it ended.
    pub frames: u64,
    /// The number of connections that the agent ended with GOAWAY, by code and text.
    pub goaways: BTreeMap<String, u64>,
    /// The number of streams that the agent reset, by code.
    pub resets: BTreeMap<String, u64>,
}

/// The agent at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// The name of the phase.
    pub name: String,
    /// Seconds since the start of the load.
    pub at_s: f64,
    /// The number of open streams.
    pub streams: u64,
    /// The agent's cost until then.
    pub sample: Sample,
}

/// One sample in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the start of the load.
    pub t: f64,
    /// The number of open streams.
    pub streams: u64,
    /// The number of streams served, or of exchanges done.
    pub served: u64,
    /// The number of pushes until then, needed or not.
    pub pushes: u64,
    /// The agent's CPU time until then, in milliseconds.
    pub cpu_ms: f64,
    /// The agent's VmRSS in KiB.
    pub rss_kib: u64,
    /// The agent's RssAnon in KiB.
    pub anon_kib: u64,
}

/// The present version of the format of [`Report`].
pub const FORMAT: u32 = 1;

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let quantile = |q| ms(histogram.value_at_quantile(q));
        let mut cdf: Vec<(f64, f64)> = Vec::new();
        let steps = histogram.iter_recorded().map(|step| (ms(step.value_iterated_to()), step.quantile()));
        for (value, share) in steps {
            if cdf.last().is_none_or(|(_, before)| share - before > CDF_STEP) || share >= 1.0 {
                cdf.push((value, share));
            }
        }
        Self {
            count: histogram.len(),
            min: ms(histogram.min()),
            mean: histogram.mean() / 1e6,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: ms(histogram.max()),
            cdf,
        }
    }
}

impl Report {
    /// The agent at the end of a phase.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// Whether everything worked.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let unharmed = self.floods.iter().all(|flood| flood.alive && flood.failed == 0);
        self.served >= self.wanted && self.errors.is_empty() && unharmed
    }
}

/// Reduces the samples to at most [`POINTS`] for the page's curve.
pub(crate) fn thin(points: Vec<Point>) -> Vec<Point> {
    let keep_every = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    let kept = points.into_iter().enumerate().filter(|(n, _)| n % keep_every == 0 || *n == last);
    kept.map(|(_, point)| point).collect()
}

const CDF_STEP: f64 = 0.004;
const POINTS: usize = 800;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report with something in every field.
    pub(crate) fn example() -> Report {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..=5000).for_each(|n| histogram.record(n * 1000).unwrap());
        let sample = |cpu_ms, rss_kib| Sample {
            cpu_ms,
            rss_kib,
            anon_kib: rss_kib / 2,
            peak_kib: 9000,
            ..Sample::default()
        };
        let phase = |name: &str, streams, sample| Phase { name: name.into(), at_s: 1.5, streams, sample };
        let point = |n: u64| Point {
            t: n as f64 / 10.0,
            streams: n,
            served: n,
            pushes: n / 2,
            cpu_ms: n as f64,
            rss_kib: 5000 + n,
            anon_kib: 2000,
        };
        Report {
            format: FORMAT,
            version: "0.1.0".into(),
            mode: "rotate".into(),
            label: "<agent> & \"co\"".into(),
            command: vec!["sds-load".into(), "rotate".into()],
            started: "2026-11-21T15:00:00Z".into(),
            wanted: 220,
            served: 219,
            all_served_s: None,
            elapsed_s: 12.5,
            unserved: vec!["connection 3: spiffe://example.org/web".into()],
            counts: BTreeMap::from([("pushes".into(), 220), ("bytes_in".into(), 1 << 20)]),
            errors: vec![ErrorCount { code: "Unavailable".into(), count: 2, example: "<busy>".into() }],
            latencies: BTreeMap::from([("first_secret".into(), Latency::of(&histogram))]),
            rotations: vec![Rotation {
                name: "web".into(),
                streams: 110,
                expected: 110,
                cpu_us_per_push: Some(50.0),
                ..Rotation::default()
            }],
            floods: vec![Flood {
                kind: "rapid-reset".into(),
                alive: true,
                calls: 70,
                p99_ms: Some(1.5),
                goaways: BTreeMap::from([("ENHANCE_YOUR_CALM (11)".into(), 3)]),
                ..Flood::default()
            }],
            phases: vec![phase("before", 0, sample(10.0, 5000)), phase("open", 220, sample(60.0, 9000))],
            derived: BTreeMap::from([("cpu_us_per_stream".into(), 227.0)]),
            timeline: (0..100).map(point).collect(),
            hints: vec!["look at the agent's log".into()],
            ..Report::default()
        }
    }

    #[test]
    fn it_survives_json() {
        let report = example();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn a_distribution_has_few_points_and_ends_at_one() {
        let latency = &example().latencies["first_secret"];
        assert!(latency.cdf.len() < 260, "{}", latency.cdf.len());
        assert!(latency.cdf.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        let (most, share) = latency.cdf.last().copied().unwrap();
        assert!((share - 1.0).abs() < 1e-9 && (most - latency.max).abs() < 0.01);
        assert!((latency.p50 - 2.5).abs() < 0.01 && (latency.p99 - 4.95).abs() < 0.01);
    }

    #[test]
    fn long_runs_are_thinned_to_their_end() {
        let points: Vec<Point> = (0..5000).map(|n| Point { t: f64::from(n), ..Point::default() }).collect();
        let thinned = thin(points);
        assert!(thinned.len() <= POINTS + 1);
        assert_eq!(thinned.last().unwrap().t, 4999.0);
    }
}
