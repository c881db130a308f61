//! The messages of all series. Counters, samples and histograms are sums since the start of the process; one that is
//! lost on its way is made good by the next.

use bytes::Bytes;
use prost::Message as _;
use proto::otlp::collector_metrics::ExportMetricsServiceRequest;
use proto::otlp::common::KeyValue;
use proto::otlp::metrics::metric::Data;
use proto::otlp::metrics::summary_data_point::ValueAtQuantile;
use proto::otlp::metrics::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, Summary, SummaryDataPoint, number_data_point,
};
use proto::otlp::resource::Resource;
use telemetry::{Kind, Point, PointState, Snapshot};

use super::{attribute, scope};

/// The requests for these series, which are usually one. `start` and `now` are nanoseconds since 1970.
pub(super) fn requests(snapshots: &[Snapshot], resource: &Resource, start: u64, now: u64) -> Vec<Bytes> {
    let mut requests = Vec::new();
    let (mut metrics, mut bytes) = (Vec::new(), 0);
    let mut finish = |metrics: Vec<Metric>| {
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics }];
        let resource_metrics = vec![ResourceMetrics { resource: Some(resource.clone()), scope_metrics }];
        requests.push(ExportMetricsServiceRequest { resource_metrics }.encode_to_vec().into());
    };
    for snapshot in snapshots {
        let metric = message(snapshot, start, now);
        let len = metric.encoded_len();
        if bytes + len > REQUEST && !metrics.is_empty() {
            finish(std::mem::take(&mut metrics));
            bytes = 0;
        }
        bytes += len;
        metrics.push(metric);
    }
    if !metrics.is_empty() {
        finish(metrics);
    }
    requests
}

/// The message of one metric.
pub(super) fn message(snapshot: &Snapshot, start: u64, now: u64) -> Metric {
    let Snapshot { metric, name, points } = snapshot;
    let times = Times { start, now };
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match metric.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: points.iter().filter_map(|point| times.number(point)).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Gauge => {
            // A gauge has no start: it is what it is now.
            let times = Times { start: 0, now };
            Data::Gauge(Gauge {
                data_points: points.iter().filter_map(|point| times.number(point)).collect(),
            })
        }
        Kind::Sample => Data::Summary(Summary {
            data_points: points.iter().filter_map(|point| times.summary(point)).collect(),
        }),
        Kind::Histogram(_) => Data::Histogram(Histogram {
            data_points: points.iter().filter_map(|point| times.histogram(point)).collect(),
            aggregation_temporality: cumulative,
        }),
    };
    Metric {
        name: name.clone(),
        description: metric.help.to_owned(),
        unit: unit(metric.name).to_owned(),
        data: Some(data),
    }
}

/// When a point counts from, and when it was read.
#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

impl Times {
    fn number(self, point: &Point) -> Option<NumberDataPoint> {
        let PointState::Number(number) = point.state else { return None };
        Some(NumberDataPoint {
            attributes: attributes(point),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            value: Some(number_data_point::Value::AsDouble(number)),
        })
    }

    fn summary(self, point: &Point) -> Option<SummaryDataPoint> {
        let PointState::Sample { count, sum, quantiles } = &point.state else { return None };
        let quantiles = quantiles.iter().map(|(quantile, value)| (*quantile, *value));
        Some(SummaryDataPoint {
            attributes: attributes(point),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count: *count,
            sum: *sum,
            quantile_values: quantiles.map(|(quantile, value)| ValueAtQuantile { quantile, value }).collect(),
        })
    }

    fn histogram(self, point: &Point) -> Option<HistogramDataPoint> {
        let PointState::Histogram { bounds, counts, sum } = &point.state else { return None };
        Some(HistogramDataPoint {
            attributes: attributes(point),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count: counts.iter().sum(),
            sum: Some(*sum),
            bucket_counts: counts.clone(),
            explicit_bounds: bounds.to_vec(),
        })
    }
}

fn attributes(point: &Point) -> Vec<KeyValue> {
    point.labels.iter().map(|(name, value)| attribute(name, value.clone())).collect()
}

/// The unit, in UCUM's words, which the end of a name tells; empty for what is only counted.
pub(super) fn unit(name: &str) -> &'static str {
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    if ends(&[".elapsed_time", "_in_ms"]) {
        "ms"
    } else if ends(&["_seconds"]) {
        "s"
    } else if ends(&["_bytes"]) {
        "By"
    } else {
        ""
    }
}

/// The most bytes of the metrics of one request. Receivers take 4 MiB at least.
const REQUEST: usize = 1024 * 1024;
