//! All series at one moment, for a sink that takes state and not events.

use tokio::time::Instant;

use crate::exposition::QUANTILES;
use crate::series::{Series, State};
use crate::{Kind, Metric, Owner};

/// The series of one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What is measured.
    pub metric: &'static Metric,
    /// The name with its prefix and dots.
    pub name: String,
    /// One point for each series.
    pub points: Vec<Point>,
}

/// One series at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Names and values of the labels, in the order in which Prometheus gets them.
    pub labels: Vec<(&'static str, String)>,
    /// What has been measured, in the metric's unit.
    pub state: PointState,
}

/// The value of a series.
#[derive(Debug, Clone, PartialEq)]
pub enum PointState {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a sample.
    Sample {
        /// How many values there were since the start.
        count: u64,
        /// Their sum.
        sum: f64,
        /// Quantiles and their values, of the last ten seconds; empty if there were no values.
        quantiles: Vec<(f64, f64)>,
    },
    /// Of a histogram.
    Histogram {
        /// The upper bounds.
        bounds: &'static [f64],
        /// How many values were at most each bound, and more than the one before; then how many were greater.
        counts: Vec<u64>,
        /// The sum of all values.
        sum: f64,
    },
}

/// Takes all series but those that only Prometheus gets.
pub(crate) fn take(series: &mut Series, now: Instant) -> Vec<Snapshot> {
    let families = series.families().filter(|family| family.metric.owner != Owner::Process);
    let snapshots = families.map(|family| {
        let (metric, name) = (family.metric, family.members[0].name.to_string());
        let points = family.members.iter_mut().map(|member| Point {
            labels: member.labels.clone(),
            state: match &mut member.state {
                State::Number(number) => PointState::Number(*number),
                State::Sample { count, sum, window } => {
                    let values = QUANTILES.into_iter().zip(window.quantiles(now, QUANTILES));
                    let quantiles = values.filter(|(_, value)| !value.is_nan()).collect();
                    PointState::Sample { count: *count, sum: *sum, quantiles }
                }
                State::Histogram { counts, sum } => {
                    let bounds = match metric.kind {
                        Kind::Histogram(bounds) => bounds,
                        Kind::Counter | Kind::Gauge | Kind::Sample => &[],
                    };
                    PointState::Histogram { bounds, counts: counts.to_vec(), sum: *sum }
                }
            },
        });
        Snapshot { metric, name, points: points.collect() }
    });
    snapshots.collect()
}
