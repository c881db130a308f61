//! The report of a run: what `--json` writes, and what the table, the page and `compare` are made of.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::process::Sample;

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Of this format; grows when a field changes its meaning.
    pub format: u32,
    /// Of sds-load.
    pub version: String,
    /// The subcommand.
    pub mode: String,
    /// `--label`, or else the program that was measured.
    pub label: String,
    /// The command line.
    pub command: Vec<String>,
    /// When it began, UTC.
    pub started: String,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured.
    pub target: Target,
    /// What the load was.
    pub setup: Setup,
    /// Seconds from the start of the load to its end.
    pub elapsed_s: f64,
    /// Streams that should have had a secret.
    pub wanted: u64,
    /// Streams that had one.
    pub served: u64,
    /// Seconds until the last of them had it; `None` where not all had one.
    pub all_served_s: Option<f64>,
    /// Streams that had none, up to twenty of them.
    pub unserved: Vec<String>,
    /// What was counted.
    pub counts: BTreeMap<String, u64>,
    /// What failed.
    pub errors: Vec<ErrorCount>,
    /// What was timed.
    pub latencies: BTreeMap<String, Latency>,
    /// Rotations, in their order.
    pub rotations: Vec<Rotation>,
    /// Kinds of floods, in their order; the first is none.
    #[serde(default)]
    pub floods: Vec<Flood>,
    /// The agent at the ends of phases; empty where it was not measured.
    pub phases: Vec<Phase>,
    /// Costs, from the phases: `cpu_us_per_stream`, `rss_kib_per_stream` and the like.
    pub derived: BTreeMap<String, f64>,
    /// The run over time.
    pub timeline: Vec<Point>,
    /// What to do about what went wrong.
    pub hints: Vec<String>,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// CPUs that sds-load may use.
    pub cpus: usize,
    /// Load averages at the start, over 1, 5 and 15 minutes.
    pub load_average: String,
}

/// The agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its socket.
    pub socket: String,
    /// The process that was measured.
    pub pid: Option<u32>,
    /// Its name.
    pub program: String,
}

/// The load.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// `sds` or `workload`.
    pub api: String,
    /// Connections altogether.
    pub connections: usize,
    /// Streams on each.
    pub streams: usize,
    /// Processes.
    pub processes: usize,
    /// Which messages carry the node.
    pub node: String,
    /// How large it is.
    pub node_bytes: usize,
    /// The secrets.
    pub names: Vec<String>,
}

/// Failures of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// The gRPC code by its name, or what else it was.
    pub code: String,
    /// How often.
    pub count: u64,
    /// The first one's words.
    pub example: String,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// Ninety of a hundred are below.
    pub p90: f64,
    /// Ninety-nine of a hundred are below.
    pub p99: f64,
    /// The most.
    pub max: f64,
    /// Points of the distribution: milliseconds, and the share that is not above.
    pub cdf: Vec<(f64, f64)>,
}

/// One rotation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rotation {
    /// What rotated.
    pub name: String,
    /// Streams that had the push.
    pub streams: u64,
    /// Streams that should have had it.
    pub expected: u64,
    /// From the start of the trigger to the first arrival.
    pub trigger_to_first_ms: Option<f64>,
    /// From the first arrival to the last.
    pub spread_ms: f64,
    /// Pushes meanwhile with nothing new in them, on any stream.
    pub unneeded: u64,
    /// The agent's CPU time for all of it.
    pub cpu_ms: Option<f64>,
    /// The same for each push, needed or not.
    pub cpu_us_per_push: Option<f64>,
}

/// One kind of flood, and what others felt beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Flood {
    /// Which kind; `nothing` for the time without one.
    pub kind: String,
    /// Whether the agent was there after it.
    pub alive: bool,
    /// Calls of others: health checks, and first secrets, each on a connection of its own.
    pub calls: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Their median, in milliseconds; `None` where no call was answered.
    pub p50_ms: Option<f64>,
    /// Ninety-nine of a hundred of them were below.
    pub p99_ms: Option<f64>,
    /// The agent's VmRSS before the flood.
    pub rss_before_kib: Option<u64>,
    /// The most that was seen during the flood and after.
    pub rss_peak_kib: Option<u64>,
    /// `--settle` after the flood.
    pub rss_after_kib: Option<u64>,
    /// Connections of the flood at once.
    pub connections: u64,
    /// Connections that were made altogether.
    pub opened: u64,
    /// Connections that the socket did not take, or that were closed before the agent had said a byte.
    pub refused: u64,
    /// Connections that the agent ended without GOAWAY.
    pub closed: u64,
    /// Frames that the flood has had to say: a few of them may not have been written when it was ended.
    pub frames: u64,
    /// Connections that the agent ended with GOAWAY, by code and text.
    pub goaways: BTreeMap<String, u64>,
    /// Streams that the agent has reset, by code.
    pub resets: BTreeMap<String, u64>,
}

/// The agent at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Which moment.
    pub name: String,
    /// Seconds after the start.
    pub at_s: f64,
    /// Streams open then.
    pub streams: u64,
    /// What it had cost.
    pub sample: Sample,
}

/// One point in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds after the start of the load.
    pub t: f64,
    /// Streams open.
    pub streams: u64,
    /// Streams served, or exchanges done.
    pub served: u64,
    /// Pushes until then, needed or not.
    pub pushes: u64,
    /// The agent's CPU time until then.
    pub cpu_ms: f64,
    /// Its VmRSS.
    pub rss_kib: u64,
    /// Its RssAnon.
    pub anon_kib: u64,
}

/// Of [`Report`].
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

/// At most so many points of a page's curve, however many samples there are.
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
