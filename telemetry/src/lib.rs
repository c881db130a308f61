//! Metrics: counters, gauges and samples with labels, as HashiCorp's go-metrics has them, and where they go.
//!
//! spire-agent's metrics are made by go-metrics, and dashboards rely on its names, filters and text forms. So they are
//! made here by the same rules. What is emitted is kept as one value for each series ([`Metrics::text`] renders them for
//! Prometheus), and is passed to the sinks that want each event (`statsd`).
//!
//! - [`Metric`]: the definition of a metric; the agent has a table of them;
//! - `filter`: which metrics and labels the configuration lets through; `labels`: how values are cleaned;
//! - `series`: the values; `window`: the quantiles of a sample; `exposition`: Prometheus's text format;
//! - `in_mem`: the last hour, for an operator who asks;
//! - `snapshot`: all series at one moment, for a sink that takes state, such as OTLP;
//! - `statsd`: lines for statsd and DogStatsD, sent by a task over a socket.

mod exposition;
mod filter;
mod in_mem;
mod labels;
mod series;
mod snapshot;
mod statsd;
mod window;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

pub use self::filter::Filter;
use self::in_mem::InMem;
pub use self::in_mem::{InMemLine, Summary};
pub use self::labels::sanitize;
use self::series::Series;
pub use self::snapshot::{Point, PointState, Snapshot};
pub use self::statsd::{Address, Dialect, Statsd};

/// The definition of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// The name without its prefix. Dots separate the words, as in statsd; Prometheus gets underscores instead.
    pub name: &'static str,
    /// The names of the labels, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// What kind of value it has.
    pub kind: Kind,
    /// Whose metric it is, which decides about the prefix.
    pub owner: Owner,
    /// What it tells, in one sentence.
    pub help: &'static str,
}

/// The kind of a metric's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// The last value that was set.
    Gauge,
    /// Values whose distribution is of interest. Prometheus gets a summary. Times are in milliseconds.
    Sample,
    /// Values that are counted by size, with these upper bounds. Prometheus gets a histogram. Times are in seconds.
    Histogram(&'static [f64]),
}

/// Who defines a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is spire-agent's: the prefix is `spire_agent`, unless another one is configured.
    Spire,
    /// It is our own: the prefix is `finial`.
    Ours,
    /// It is what Prometheus's clients tell of their process: there is no prefix, and no sink but Prometheus gets it.
    Process,
}

/// How metrics are named and labelled, and what is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The prefix of [`Owner::Spire`].
    pub prefix: String,
    /// Labels that every series has besides its own, such as `host`.
    pub labels: Vec<(&'static str, String)>,
    /// What is let through.
    pub filter: Filter,
    /// Whether the last hour is kept in memory ([`Metrics::in_mem`]).
    pub in_mem: bool,
}

/// The handle by which metrics are emitted. Cloning it is cheap. The default one drops everything.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    series: Mutex<Series>,
    sinks: Vec<Statsd>,
    in_mem: Option<Mutex<InMem>>,
}

/// The present value of a series.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a sample: how many values there were, and their sum.
    Sample(u64, f64),
    /// Of a histogram: how many values were at most each bound, and more than the one before; then how many were greater.
    Histogram(Vec<u64>),
}

/// The value of one event.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Add(f64),
    Set(f64),
    /// A gauge becomes this much more. Sinks are told its new value.
    Change(f64),
    Observe(f64),
}

impl Metrics {
    /// Metrics that are kept, and sent to these sinks.
    #[must_use]
    pub fn new(options: Options, sinks: Vec<Statsd>) -> Self {
        let in_mem = options.in_mem.then(Mutex::default);
        Self(Some(Arc::new(Shared { series: Mutex::new(Series::new(options)), sinks, in_mem })))
    }

    /// Adds to a counter.
    pub fn add(&self, metric: &'static Metric, labels: &[&str], count: u64) {
        #[expect(clippy::cast_precision_loss, reason = "no count comes near 2^53")]
        self.emit(metric, labels, Value::Add(count as f64));
    }

    /// Sets a gauge.
    pub fn set(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.emit(metric, labels, Value::Set(value));
    }

    /// Raises or lowers a gauge.
    pub fn change(&self, metric: &'static Metric, labels: &[&str], by: i32) {
        self.emit(metric, labels, Value::Change(f64::from(by)));
    }

    /// Adds a value to a sample or a histogram.
    pub fn observe(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.emit(metric, labels, Value::Observe(value));
    }

    /// Adds a time to a sample, in milliseconds, or to a histogram, in seconds.
    pub fn elapsed(&self, metric: &'static Metric, labels: &[&str], time: Duration) {
        let seconds = time.as_secs_f64();
        let is_sample = metric.kind == Kind::Sample;
        self.observe(metric, labels, if is_sample { seconds * 1000.0 } else { seconds });
    }

    /// The values in Prometheus's text format, ordered by name.
    #[must_use]
    pub fn text(&self) -> String {
        self.series().map(|mut series| exposition::text(&mut series, Instant::now())).unwrap_or_default()
    }

    /// All series at this moment, but those of [`Owner::Process`].
    #[must_use]
    pub fn snapshot(&self) -> Vec<Snapshot> {
        self.series().map(|mut series| snapshot::take(&mut series, Instant::now())).unwrap_or_default()
    }

    /// The present values of a metric, each with the values of its labels.
    #[must_use]
    pub fn read(&self, metric: &'static Metric) -> Vec<(Vec<String>, Reading)> {
        self.series().map(|series| series.read(metric)).unwrap_or_default()
    }

    /// What was emitted in the last hour, second by second; `None` if that is not kept.
    #[must_use]
    pub fn in_mem(&self) -> Option<Vec<InMemLine>> {
        let in_mem = self.0.as_ref()?.in_mem.as_ref()?;
        Some(in_mem.lock().unwrap_or_else(PoisonError::into_inner).lines(SystemTime::now()))
    }

    fn emit(&self, metric: &'static Metric, labels: &[&str], value: Value) {
        let (Some(shared), Some(mut series)) = (&self.0, self.series()) else { return };
        let Some(found) = series.record(metric, labels, value, Instant::now()) else { return };
        let value = found.told(value);
        if metric.owner != Owner::Process {
            for sink in &shared.sinks {
                sink.send(found, value);
            }
            if let Some(in_mem) = &shared.in_mem {
                let mut in_mem = in_mem.lock().unwrap_or_else(PoisonError::into_inner);
                in_mem.record(found, value, SystemTime::now());
            }
        }
    }

    fn series(&self) -> Option<MutexGuard<'_, Series>> {
        Some(self.0.as_ref()?.series.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The type of the content of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
