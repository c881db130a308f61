use bytes::BufMut as _;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message as _;
use proto::otlp::collector_logs::ExportLogsServiceRequest;
use proto::otlp::collector_metrics::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use proto::otlp::logs::LogRecord;
use proto::otlp::metrics::metric::Data;
use proto::otlp::metrics::{AggregationTemporality, number_data_point};
use telemetry::{Kind, Metric, Owner, Point, PointState, Snapshot};

use super::answer::{Answer, Failed, LONGEST, of_grpc, of_http};
use super::metrics::{message, requests, unit};
use super::records::{BATCH, Batch, MOST};
use super::*;

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

fn snapshot(kind: Kind, name: &'static str, state: PointState) -> Snapshot {
    let metric = Metric { name, labels: &["status"], kind, owner: Owner::Spire, help: "Text." };
    let point = Point { labels: vec![("status", "OK".to_owned()), ("host", "node-1".to_owned())], state };
    Snapshot { metric: Box::leak(Box::new(metric)), name: format!("spire_agent.{name}"), points: vec![point] }
}

/// The message of one metric, started at 1 and read at 2.
fn data(kind: Kind, state: PointState) -> Data {
    message(&snapshot(kind, "calls", state), 1, 2).data.unwrap()
}

fn labels() -> Vec<KeyValue> {
    vec![attribute("status", "OK".to_owned()), attribute("host", "node-1".to_owned())]
}

#[test]
fn a_counter_is_a_sum_since_the_start() {
    let named = message(&snapshot(Kind::Counter, "calls", PointState::Number(3.0)), 1, 2);
    assert_eq!((&*named.name, &*named.description, &*named.unit), ("spire_agent.calls", "Text.", ""));
    let Some(Data::Sum(sum)) = named.data else { panic!("{named:?}") };
    assert_eq!((sum.is_monotonic, sum.aggregation_temporality), (true, CUMULATIVE));
    let [point] = &sum.data_points[..] else { panic!("{sum:?}") };
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
    assert_eq!(point.value, Some(number_data_point::Value::AsDouble(3.0)));
    assert_eq!(point.attributes, labels());
}

#[test]
fn a_gauge_is_what_it_is_now() {
    let Data::Gauge(gauge) = data(Kind::Gauge, PointState::Number(-1.5)) else { panic!("no gauge") };
    let [point] = &gauge.data_points[..] else { panic!("{gauge:?}") };
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (0, 2));
    assert_eq!(point.value, Some(number_data_point::Value::AsDouble(-1.5)));
}

#[test]
fn a_sample_is_a_summary() {
    let state = PointState::Sample { count: 4, sum: 10.0, quantiles: vec![(0.5, 2.0), (0.9, 4.0)] };
    let Data::Summary(summary) = data(Kind::Sample, state) else { panic!("no summary") };
    let [point] = &summary.data_points[..] else { panic!("{summary:?}") };
    assert_eq!((point.count, point.sum, point.start_time_unix_nano), (4, 10.0, 1));
    let quantiles: Vec<_> = point.quantile_values.iter().map(|value| (value.quantile, value.value)).collect();
    assert_eq!(quantiles, [(0.5, 2.0), (0.9, 4.0)]);
}

#[test]
fn a_histogram_keeps_its_bounds() {
    static BOUNDS: &[f64] = &[0.1, 1.0];
    let state = PointState::Histogram { bounds: BOUNDS, counts: vec![1, 2, 3], sum: 7.5 };
    let Data::Histogram(histogram) = data(Kind::Histogram(BOUNDS), state) else { panic!("no histogram") };
    assert_eq!(histogram.aggregation_temporality, CUMULATIVE);
    let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
    assert_eq!((point.count, point.sum), (6, Some(7.5)));
    assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 2, 3][..], BOUNDS));
}

#[test]
fn names_tell_the_unit() {
    for (name, expected) in [
        ("rpc.sds.v3.stream_secrets.elapsed_time", "ms"),
        ("uptime_in_ms", "ms"),
        ("sds.ack_seconds", "s"),
        ("budget_limit_bytes", "By"),
        ("sds.pushes_total", ""),
    ] {
        assert_eq!(unit(name), expected, "{name}");
    }
}

#[test]
fn a_request_has_a_limit_and_nothing_is_lost() {
    let mut long = snapshot(Kind::Counter, "calls", PointState::Number(1.0));
    let points = std::iter::repeat_n(long.points[0].clone(), 256);
    long.points = points.collect();
    let snapshots = vec![long; 200];
    assert!(requests(&[], &resource("example.org"), 1, 2).is_empty());
    let requests = requests(&snapshots, &resource("example.org"), 1, 2);
    assert!(requests.len() > 1 && requests.iter().all(|request| request.len() < 1_100_000));
    let count = |request: &bytes::Bytes| {
        let request = ExportMetricsServiceRequest::decode(request.clone()).unwrap();
        let resource = request.resource_metrics[0].resource.as_ref().unwrap();
        assert_eq!(resource.attributes[0], attribute("service.name", "finial".to_owned()));
        request.resource_metrics[0].scope_metrics[0].metrics.len()
    };
    assert_eq!(requests.iter().map(count).sum::<usize>(), 200);
}

fn record(body: &str) -> LogRecord {
    LogRecord { body: Some(text(body.to_owned())), ..LogRecord::default() }
}

/// The bodies of a batch.
fn bodies(batch: &Batch) -> Vec<String> {
    let request = ExportLogsServiceRequest::decode(batch.request.clone()).unwrap();
    let records = request.resource_logs[0].scope_logs[0].log_records.clone();
    let bodies = records.into_iter().map(|record| match record.body.unwrap().value {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    });
    bodies.collect()
}

#[test]
fn records_go_in_order_and_the_last_ones_are_dropped() {
    let (records, resource) = (Records::default(), resource("example.org"));
    assert!(records.take(&resource).is_none());
    for number in 0..MOST + 10 {
        records.push(record(&number.to_string()));
    }
    let mut seen = Vec::new();
    while let Some(batch) = records.take(&resource) {
        assert!(batch.count <= BATCH as u64 + 1);
        seen.extend(bodies(&batch));
    }
    let told = seen.iter().position(|body| body.starts_with("Log records were not sent by OTLP"));
    seen.remove(told.expect("the receiver is told"));
    assert_eq!(seen, (0..MOST).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(records_dropped() >= 10);
}

#[test]
fn records_have_a_limit_in_bytes() {
    let (records, resource) = (Records::default(), resource("example.org"));
    records.push(record(&"x".repeat(70_000)));
    for _ in 0..100 {
        records.push(record(&"x".repeat(50_000)));
    }
    let (mut count, mut bytes) = (0, 0);
    while let Some(batch) = records.take(&resource) {
        assert!(batch.request.len() <= 600_000);
        bytes += batch.request.len();
        count += bodies(&batch).iter().filter(|body| body.len() == 50_000).count();
    }
    assert!(count == 20 && bytes < 1_050_000, "{count} records, {bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_record_waits_for_others_but_a_full_batch_does_not() {
    let records = Arc::new(Records::default());
    let begun = tokio::time::Instant::now();
    records.push(record("one"));
    records.filled().await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    for _ in 0..BATCH {
        records.push(record("more"));
    }
    records.filled().await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
}

fn http(status: u16, headers: &[(&'static str, &'static str)], body: &[u8]) -> Result<(), Failed> {
    of_http(&answer(status, headers, &[], body))
}

fn grpc(trailers: &[(&'static str, &'static str)], body: &[u8]) -> Result<(), Failed> {
    of_grpc(&answer(200, &[], trailers, body))
}

fn answer(
    status: u16,
    headers: &[(&'static str, &'static str)],
    trailers: &[(&'static str, &'static str)],
    body: &[u8],
) -> Answer {
    let map = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
        let pairs = pairs.iter();
        pairs.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    };
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers: map(headers), trailers: map(trailers), body: body.to_vec().into() }
}

#[test]
fn http_says_whether_to_try_again() {
    assert_eq!(http(200, &[], b""), Ok(()));
    assert_eq!(http(202, &[], b"\xff what is no message"), Ok(()));
    for status in [429, 502, 503, 504] {
        assert_eq!(http(status, &[], b""), Err(Failed::Again(format!("HTTP {status}"), None)));
    }
    let again = |wait| Err(Failed::Again("HTTP 503".to_owned(), wait));
    assert_eq!(http(503, &[("retry-after", "7")], b""), again(Some(Duration::from_secs(7))));
    assert_eq!(http(503, &[("retry-after", "99999999999")], b""), again(Some(LONGEST)));
    assert_eq!(http(503, &[("retry-after", "-1")], b""), again(None));
    assert_eq!(http(503, &[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], b""), again(None));
    for status in [301, 400, 401, 404, 413, 500, 501] {
        assert_eq!(http(status, &[], b""), Err(Failed::Refused(format!("HTTP {status}"))));
    }
}

#[test]
fn grpc_says_whether_to_try_again() {
    assert_eq!(grpc(&[("grpc-status", "0")], b""), Ok(()));
    for code in ["1", "4", "10", "11", "14", "15"] {
        assert!(matches!(grpc(&[("grpc-status", code)], b""), Err(Failed::Again(_, None))), "{code}");
    }
    for code in ["2", "3", "5", "6", "7", "8", "9", "12", "13", "16"] {
        assert!(matches!(grpc(&[("grpc-status", code)], b""), Err(Failed::Refused(_))), "{code}");
    }
    let busy = grpc(&[("grpc-status", "8"), ("grpc-retry-pushback-ms", "1500")], b"");
    assert!(
        matches!(busy, Err(Failed::Again(_, Some(wait))) if wait == Duration::from_millis(1500)),
        "{busy:?}"
    );
    let alone = of_grpc(&answer(200, &[("grpc-status", "14"), ("grpc-message", "a%20b")], &[], b""));
    assert_eq!(alone, Err(Failed::Again("Unavailable: a b".to_owned(), None)));
    assert_eq!(of_grpc(&answer(503, &[], &[], b"")), Err(Failed::Again("HTTP 503".to_owned(), None)));
    assert!(matches!(of_grpc(&answer(200, &[], &[], b"")), Err(Failed::Broken(_))), "no status at all");
}

#[test]
fn what_is_rejected_in_part_is_told_in_a_few_words() {
    let partly = ExportMetricsPartialSuccess { rejected_data_points: 3, error_message: "x".repeat(1000) };
    let message = ExportMetricsServiceResponse { partial_success: Some(partly) }.encode_to_vec();
    let mut frame = vec![0];
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend_from_slice(&message);
    let expected = Err(Failed::Partly(3, "x".repeat(200)));
    assert_eq!(http(200, &[], &message), expected);
    assert_eq!(grpc(&[("grpc-status", "0")], &frame), expected);
    frame[4] += 1;
    assert_eq!(grpc(&[("grpc-status", "0")], &frame), Ok(()), "a length that is wrong");
    let warning = ExportMetricsPartialSuccess { rejected_data_points: 0, error_message: "hint".to_owned() };
    let message = ExportMetricsServiceResponse { partial_success: Some(warning) }.encode_to_vec();
    assert_eq!(http(200, &[], &message), Ok(()));
}
