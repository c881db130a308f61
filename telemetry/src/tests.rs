use std::time::Duration;

use crate::series::Series;
use crate::statsd::line;
use crate::*;

static CALLS: Metric = metric("rpc.sds.v3.stream_secrets", Kind::Counter, &["status"]);
static TIMES: Metric = metric("rpc.sds.v3.stream_secrets.elapsed_time", Kind::Sample, &["status"]);
static STARTED: Metric = metric("started", Kind::Gauge, &["version", "trust_domain_id"]);
static UPTIME: Metric = metric("uptime_in_ms", Kind::Gauge, &[]);
static ACKS: Metric = Metric {
    owner: Owner::Ours,
    ..metric("sds.ack_seconds", Kind::Histogram(&[0.001, 0.01]), &["protocol"])
};

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Metric {
    Metric { name, labels, kind, owner: Owner::Spire, help: "Text." }
}

fn options() -> Options {
    let host = ("host", "node-1.example.org".to_owned());
    Options { prefix: "spire_agent".to_owned(), labels: vec![host], filter: Filter::default(), in_mem: false }
}

fn metrics(filter: Filter) -> Metrics {
    Metrics::new(Options { filter, ..options() }, Vec::new())
}

#[tokio::test(start_paused = true)]
async fn prometheus_reads_this() {
    let metrics = metrics(Filter::default());
    metrics.set(&STARTED, &["1.15.3", "example.org"], 1.0);
    metrics.add(&CALLS, &["OK"], 2);
    metrics.add(&CALLS, &["PermissionDenied"], 1);
    for milliseconds in 1..=100 {
        metrics.elapsed(&TIMES, &["OK"], Duration::from_millis(milliseconds));
    }
    metrics.elapsed(&ACKS, &["sotw"], Duration::from_micros(500));
    metrics.elapsed(&ACKS, &["sotw"], Duration::from_millis(1));
    metrics.elapsed(&ACKS, &["sotw"], Duration::from_secs(1));
    let expected = "\
# HELP finial_sds_ack_seconds Text.
# TYPE finial_sds_ack_seconds histogram
finial_sds_ack_seconds_bucket{host=\"node-1.example.org\",protocol=\"sotw\",le=\"0.001\"} 2
finial_sds_ack_seconds_bucket{host=\"node-1.example.org\",protocol=\"sotw\",le=\"0.01\"} 2
finial_sds_ack_seconds_bucket{host=\"node-1.example.org\",protocol=\"sotw\",le=\"+Inf\"} 3
finial_sds_ack_seconds_sum{host=\"node-1.example.org\",protocol=\"sotw\"} 1.0015
finial_sds_ack_seconds_count{host=\"node-1.example.org\",protocol=\"sotw\"} 3
# HELP spire_agent_rpc_sds_v3_stream_secrets Text.
# TYPE spire_agent_rpc_sds_v3_stream_secrets counter
spire_agent_rpc_sds_v3_stream_secrets{host=\"node-1.example.org\",status=\"OK\"} 2
spire_agent_rpc_sds_v3_stream_secrets{host=\"node-1.example.org\",status=\"PermissionDenied\"} 1
# HELP spire_agent_rpc_sds_v3_stream_secrets_elapsed_time Text.
# TYPE spire_agent_rpc_sds_v3_stream_secrets_elapsed_time summary
spire_agent_rpc_sds_v3_stream_secrets_elapsed_time{host=\"node-1.example.org\",status=\"OK\",quantile=\"0.5\"} 50
spire_agent_rpc_sds_v3_stream_secrets_elapsed_time{host=\"node-1.example.org\",status=\"OK\",quantile=\"0.9\"} 90
spire_agent_rpc_sds_v3_stream_secrets_elapsed_time{host=\"node-1.example.org\",status=\"OK\",quantile=\"0.99\"} 99
spire_agent_rpc_sds_v3_stream_secrets_elapsed_time_sum{host=\"node-1.example.org\",status=\"OK\"} 5050
spire_agent_rpc_sds_v3_stream_secrets_elapsed_time_count{host=\"node-1.example.org\",status=\"OK\"} 100
# HELP spire_agent_started Text.
# TYPE spire_agent_started gauge
spire_agent_started{host=\"node-1.example.org\",trust_domain_id=\"example_org\",version=\"1_15_3\"} 1
";
    assert_eq!(metrics.text(), expected);
}

#[tokio::test(start_paused = true)]
async fn quantiles_are_those_of_the_last_ten_seconds() {
    let metrics = metrics(Filter::default());
    metrics.elapsed(&TIMES, &["OK"], Duration::from_millis(7));
    tokio::time::advance(Duration::from_secs(11)).await;
    let text = metrics.text();
    assert!(text.contains("quantile=\"0.5\"} NaN\n"), "{text}");
    assert!(text.contains("_count{host=\"node-1.example.org\",status=\"OK\"} 1\n"), "{text}");
    for milliseconds in 0..5000 {
        metrics.elapsed(&TIMES, &["OK"], Duration::from_millis(milliseconds));
    }
    let text = metrics.text();
    assert!(text.contains("quantile=\"0.99\"} 4994\n"), "of the newest 512: {text}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_has_all_series() {
    static OPEN_FILES: Metric =
        Metric { owner: Owner::Process, ..metric("process_open_fds", Kind::Gauge, &[]) };
    let metrics = metrics(Filter { blocked_labels: vec!["host".to_owned()], ..Filter::default() });
    metrics.add(&CALLS, &["OK"], 2);
    metrics.add(&CALLS, &["Canceled"], 1);
    metrics.elapsed(&TIMES, &["OK"], Duration::from_millis(7));
    metrics.elapsed(&ACKS, &["sotw"], Duration::from_millis(2));
    metrics.set(&OPEN_FILES, &[], 9.0);
    let states = |snapshots: Vec<Snapshot>| -> Vec<_> {
        let points = snapshots.into_iter().flat_map(|found| {
            let name = found.name;
            found.points.into_iter().map(move |point| (name.clone(), point.labels[0].1.clone(), point.state))
        });
        points.collect()
    };
    let calls = "spire_agent.rpc.sds.v3.stream_secrets";
    let named = |name: &str, label: &str, state| (name.to_owned(), label.to_owned(), state);
    let times = |quantiles| {
        let state = PointState::Sample { count: 1, sum: 7.0, quantiles };
        named(&format!("{calls}.elapsed_time"), "OK", state)
    };
    let histogram = PointState::Histogram { bounds: &[0.001, 0.01], counts: vec![0, 1, 0], sum: 0.002 };
    let mut expected = vec![
        named(calls, "OK", PointState::Number(2.0)),
        named(calls, "Canceled", PointState::Number(1.0)),
        times(vec![(0.5, 7.0), (0.9, 7.0), (0.99, 7.0)]),
        named("finial.sds.ack_seconds", "sotw", histogram),
    ];
    assert_eq!(states(metrics.snapshot()), expected, "nothing of the process");
    tokio::time::advance(Duration::from_secs(11)).await;
    expected[2] = times(Vec::new());
    assert_eq!(states(metrics.snapshot()), expected, "quantiles of old values are none");
}

#[tokio::test(start_paused = true)]
async fn filters_are_those_of_go_metrics() {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let names = |allowed: &[&str], blocked: &[&str]| {
        let (allowed_prefixes, blocked_prefixes) = (texts(allowed), texts(blocked));
        let metrics = metrics(Filter { allowed_prefixes, blocked_prefixes, ..Filter::default() });
        metrics.set(&UPTIME, &[], 1.0);
        metrics.add(&CALLS, &["OK"], 1);
        let text = metrics.text();
        (text.contains("uptime"), text.contains("stream_secrets"))
    };
    assert_eq!(names(&[], &[]), (true, true));
    // What no list names is let through.
    assert_eq!(names(&["spire_agent.rpc"], &[]), (true, true));
    assert_eq!(names(&[], &["spire_agent.rpc"]), (true, false));
    assert_eq!(names(&["spire_agent.rpc.sds"], &["spire_agent"]), (false, true));
    assert_eq!(names(&["spire_agent"], &["spire_agent.rpc"]), (true, false));
    assert_eq!(names(&["spire_agent.rpc"], &["spire_agent.rpc"]), (true, false));

    let labels = |allowed: &[&str], blocked: &[&str]| {
        let (allowed_labels, blocked_labels) = (texts(allowed), texts(blocked));
        let metrics = metrics(Filter { allowed_labels, blocked_labels, ..Filter::default() });
        metrics.add(&CALLS, &["OK"], 1);
        metrics.add(&CALLS, &["Canceled"], 1);
        let text = metrics.text();
        text.lines().skip(2).map(|line| line.split_once("secrets").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(labels(&[], &["host"]), ["{status=\"OK\"} 1", "{status=\"Canceled\"} 1"]);
    assert_eq!(labels(&["status"], &[]), ["{status=\"OK\"} 1", "{status=\"Canceled\"} 1"]);
    // Series that differ only in a label that is left out are one.
    assert_eq!(labels(&[], &["status", "host"]), [" 2"]);
    assert_eq!(labels(&["host"], &[]), ["{host=\"node-1.example.org\"} 2"]);
}

#[tokio::test(start_paused = true)]
async fn the_agent_reads_what_the_filter_leaves_out() {
    let blocked_prefixes = vec!["spire_agent.rpc".to_owned()];
    let metrics_without = |filter| {
        let metrics = metrics(filter);
        metrics.add(&CALLS, &["OK"], 2);
        metrics.add(&CALLS, &["Canceled"], 1);
        let values = metrics.read(&CALLS).into_iter().map(|(labels, reading)| (labels.concat(), reading));
        (values.collect::<Vec<_>>(), metrics.text())
    };
    let (ok, canceled) =
        (("OK".to_owned(), Reading::Number(2.0)), ("Canceled".to_owned(), Reading::Number(1.0)));
    let without_name = metrics_without(Filter { blocked_prefixes, ..Filter::default() });
    assert_eq!(without_name, (vec![ok, canceled], String::new()));
    // What is one series is read once.
    let blocked_labels = vec!["status".to_owned()];
    let (values, _) = metrics_without(Filter { blocked_labels, ..Filter::default() });
    assert_eq!(values, [("OK".to_owned(), Reading::Number(3.0))]);
}

#[tokio::test(start_paused = true)]
async fn lines_of_statsd_and_dogstatsd() {
    let mut series = Series::new(options());
    let mut lines = |metric, labels: &[&str], value| {
        let found = series.record(metric, labels, value, Instant::now()).unwrap();
        [Dialect::Statsd, Dialect::DogStatsd].map(|dialect| line(dialect, found, value))
    };
    assert_eq!(
        lines(&CALLS, &["OK"], Value::Add(1.0)),
        [
            "spire_agent.rpc.sds.v3.stream_secrets.OK.node-1.example.org:1.000000|c\n",
            "spire_agent.rpc.sds.v3.stream_secrets:1|c|#status:OK,host:node-1.example.org\n",
        ]
    );
    assert_eq!(
        lines(&TIMES, &["OK"], Value::Observe(1.25)),
        [
            "spire_agent.rpc.sds.v3.stream_secrets.elapsed_time.OK.node-1.example.org:1.250000|ms\n",
            "spire_agent.rpc.sds.v3.stream_secrets.elapsed_time:1.250000|ms|#status:OK,host:node-1.example.org\n",
        ]
    );
    assert_eq!(
        lines(&UPTIME, &[], Value::Set(10_000.5)),
        [
            "spire_agent.uptime_in_ms.node-1.example.org:10000.500000|g\n",
            "spire_agent.uptime_in_ms:10000.5|g|#host:node-1.example.org\n",
        ]
    );
}

#[tokio::test]
async fn lines_arrive_in_few_packets() {
    let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = receiver.local_addr().unwrap().to_string();
    let sink = Statsd::start(Dialect::Statsd, Address::Udp(address));
    let metrics = Metrics::new(options(), vec![sink]);
    for _ in 0..100 {
        metrics.add(&CALLS, &["OK"], 1);
    }
    let (mut lines, mut packet) = (0, [0; 2048]);
    while lines < 100 {
        let len = receiver.recv(&mut packet).await.unwrap();
        assert!(len <= 1400);
        lines += packet[..len].iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(lines, 100);
}

#[test]
fn labels_are_cleaned_as_spire_cleans_them() {
    let cases = [
        ("example.org", "example_org"),
        ("1.15.3-dev", "1_15_3_dev"),
        ("a._b", "a_b"),
        ("a..__b", "a__b"),
        ("/m/x", "_m_x"),
        ("", ""),
        ("ä", "_"),
    ];
    for (text, clean) in cases {
        assert_eq!(sanitize(text), clean);
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_without_end_does_not_grow_for_ever() {
    let metrics = metrics(Filter::default());
    for number in 0..1000 {
        metrics.add(&CALLS, &[&number.to_string()], 1);
    }
    assert_eq!(metrics.text().lines().count(), 2 + 256);
}

#[tokio::test(start_paused = true)]
async fn the_last_hour_is_in_memory_by_second() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let mut series = Series::new(options());
    let mut in_mem = InMem::default();
    let mut record = |in_mem: &mut InMem, metric, labels: &[&str], value, at| {
        let found = series.record(metric, labels, value, Instant::now()).unwrap();
        in_mem.record(found, value, at);
    };
    record(&mut in_mem, &UPTIME, &[], Value::Set(10.0), start);
    record(&mut in_mem, &UPTIME, &[], Value::Set(20.0), start + Duration::from_millis(900));
    for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
        record(&mut in_mem, &TIMES, &["OK"], Value::Observe(value), start);
    }
    record(&mut in_mem, &CALLS, &["OK"], Value::Add(1.0), start + Duration::from_secs(1));
    assert_eq!(in_mem.lines(start).len(), 0, "the second is not over");
    let lines = in_mem.lines(start + Duration::from_secs(2));
    let told: Vec<_> = lines.iter().map(|line| (line.kind, &*line.name, line.gauge)).collect();
    let expected = [
        ('G', "spire_agent.uptime_in_ms.node-1.example.org", Some(20.0)),
        ('S', "spire_agent.rpc.sds.v3.stream_secrets.elapsed_time.OK.node-1.example.org", None),
        ('C', "spire_agent.rpc.sds.v3.stream_secrets.OK.node-1.example.org", None),
    ];
    assert_eq!(told, expected);
    let values = lines[1].values;
    assert_eq!((values.count, values.min, values.mean, values.max, values.sum), (8, 2.0, 5.0, 9.0, 40.0));
    assert!((values.stddev - 2.138).abs() < 0.001);
    let later = start + Duration::from_secs(3700);
    record(&mut in_mem, &CALLS, &["OK"], Value::Add(1.0), later);
    assert_eq!(in_mem.lines(later + Duration::from_secs(1)).len(), 1, "older than an hour");
}

#[tokio::test(start_paused = true)]
async fn memory_has_a_limit() {
    let start = SystemTime::UNIX_EPOCH;
    let (mut series, mut in_mem) = (Series::new(options()), InMem::default());
    for second in 0..100 {
        for label in 0..256 {
            let now = Instant::now();
            let found = series.record(&CALLS, &[&label.to_string()], Value::Add(1.0), now).unwrap();
            in_mem.record(found, Value::Add(1.0), start + Duration::from_secs(second));
        }
    }
    assert!(in_mem.lines(start + Duration::from_secs(100)).len() <= 16_384);
}
