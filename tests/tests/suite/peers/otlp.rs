//! The OTLP sink at OpenTelemetry's own Collector, which `tests/peers/otel` is.

use std::path::{Path, PathBuf};

use harness::{Agent, Conf, Sds, sds_request, x509_svid};
use libtest_mimic::Trial;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::super::{register, server};
use super::programs::Program;
use super::{clients, free_port, trial_with};

pub(super) fn trials() -> Vec<Trial> {
    let go = clients::go("otel");
    vec![
        trial_with("otel_collector_takes_metrics_and_logs_by_grpc", go.clone(), |go| {
            taken(go, Way::Grpc, false)
        }),
        trial_with("otel_collector_takes_metrics_and_logs_by_http", go.clone(), |go| {
            taken(go, Way::Http, false)
        }),
        trial_with("otel_collector_of_a_private_ca_by_grpc", go.clone(), |go| taken(go, Way::Grpc, true)),
        trial_with("otel_collector_of_a_private_ca_by_http", go.clone(), |go| taken(go, Way::Http, true)),
        trial_with("otel_collector_of_another_ca_gets_nothing", go.clone(), stranger),
        trial_with("otel_collector_that_comes_late_gets_all_lines", go, late),
    ]
}

#[derive(Clone, Copy)]
enum Way {
    Grpc,
    Http,
}

/// Each kind of metric arrives, and each line from the first to the last.
async fn taken(go: PathBuf, way: Way, tls: bool) {
    let collector = Collector::new(go, way, tls).await;
    let mut running = collector.start();
    running.prints("Everything is ready").await;
    let server = server().await;
    let conf = Conf { agent: collector.sink("ca.pem"), ..Conf::join_token(&server) };
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let mut agent = Agent::start(&conf);
    agent.logged("SVID updated").await;
    let socket = agent.socket();
    x509_svid(&socket).await.expect("an identity");
    let mut stream = Sds::open(&socket, sds_request(&["ROOTCA"])).await.expect("a stream");
    stream.secrets(&["ROOTCA"]).await.expect("a secret");
    running
        .prints_all(&[
            "-> service.name: Str(finial)",
            "-> spiffe.trust_domain: Str(example.org)",
            "-> Name: spire_agent.workload_api.connection",
            "-> DataType: Sum",
            "-> IsMonotonic: true",
            "-> AggregationTemporality: Cumulative",
            "-> Name: finial.soonest_svid_expiry_seconds",
            "-> Unit: s",
            "-> DataType: Gauge",
            "-> Name: spire_agent.rpc.workload_api.fetch_x509svid.elapsed_time",
            "-> Unit: ms",
            "-> DataType: Summary",
            "-> status: Str(OK)",
            "Body: Str(Starting agent APIs)",
            "SeverityText: info",
            "SeverityNumber: Info(9)",
            "-> subsystem_name: Str(endpoints)",
        ])
        .await;
    running
        .prints_all(&[
            "-> Name: finial.sds.ack_seconds",
            "-> DataType: Histogram",
            "ExplicitBounds #0: 0.000250",
        ])
        .await;
    drop(stream);
    let exit = agent.stop().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(!exit.log.contains("Cannot export"), "{}", exit.log);
    running.prints("Body: Str(Agent stopped gracefully)").await;
    assert!(!exit.log.contains("s3cr3t"), "the value of a header is a secret");
}

/// The certificate of the receiver is of another authority than `ca_file` has.
async fn stranger(go: PathBuf) {
    let collector = Collector::new(go, Way::Grpc, true).await;
    let mut running = collector.start();
    running.prints("Everything is ready").await;
    let server = server().await;
    let mut agent = Agent::start(&Conf { agent: collector.sink("other.pem"), ..Conf::join_token(&server) });
    let line = agent.logged("Cannot export to the OTLP endpoint").await;
    assert!(line.contains("UnknownIssuer"), "{line}");
}

/// Nothing is lost while the receiver is away, and the log says it once.
async fn late(go: PathBuf) {
    let collector = Collector::new(go, Way::Grpc, false).await;
    let server = server().await;
    let mut agent = Agent::start(&Conf { agent: collector.sink("ca.pem"), ..Conf::join_token(&server) });
    agent.logged_times("Cannot export to the OTLP endpoint", 2).await;
    let mut running = collector.start();
    running.prints_all(&["Body: Str(Starting agent)", "-> Name: finial.serving"]).await;
    agent.logged_times("OTLP endpoint takes exports again", 2).await;
    let log = agent.log();
    assert_eq!(log.matches("Cannot export").count(), 2, "once for metrics and once for logs:\n{log}");
}

/// Linking it takes seconds, so that it is built once for all trials.
static BUILT: OnceCell<()> = OnceCell::const_new();

/// The Collector's program and its configuration.
struct Collector {
    program: PathBuf,
    folder: TempDir,
    way: Way,
    tls: bool,
    port: u16,
}

impl Collector {
    async fn new(go: PathBuf, way: Way, tls: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("otel");
        BUILT.get_or_init(|| clients::build(go, "otel", ".", &program)).await;
        let collector = Self { program, folder, way, tls, port: free_port() };
        certificates(collector.folder.path());
        std::fs::write(collector.path("otel.yaml"), collector.configuration()).expect("written");
        collector
    }

    fn start(&self) -> Program {
        let argument = format!("--config={}", self.path("otel.yaml").display());
        Program::start("the Collector", Command::new(&self.program).arg(argument))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configuration(&self) -> String {
        let (port, folder) = (self.port, self.folder.path().display());
        let protocol = match self.way {
            Way::Grpc => "grpc",
            Way::Http => "http",
        };
        let tls = if self.tls {
            format!(", tls: {{ cert_file: {folder}/cert.pem, key_file: {folder}/key.pem }}")
        } else {
            String::new()
        };
        format!(
            "receivers: {{ otlp: {{ protocols: {{ {protocol}: {{ endpoint: '127.0.0.1:{port}'{tls} }} }} }} }}\n\
             exporters: {{ debug: {{ verbosity: detailed }} }}\n\
             service:\n  telemetry: {{ metrics: {{ level: none }} }}\n  pipelines:\n    \
             metrics: {{ receivers: [otlp], exporters: [debug] }}\n    logs: {{ receivers: [otlp], exporters: [debug] }}\n"
        )
    }

    /// The agent's block that sends to this Collector.
    fn sink(&self, authorities: &str) -> String {
        let (scheme, authorities) = match self.tls {
            true => ("https", format!("ca_file = \"{}\"", self.path(authorities).display())),
            false => ("http", String::new()),
        };
        let protocol = match self.way {
            Way::Grpc => "grpc",
            Way::Http => "http/protobuf",
        };
        format!(
            "experimental {{ otlp {{ endpoint = \"{scheme}://127.0.0.1:{}\" protocol = \"{protocol}\" logs = true \
             interval = \"1s\" headers {{ x-api-key = \"s3cr3t\" }} {authorities} }} }}",
            self.port
        )
    }
}

/// Writes two authorities, and a certificate of the first for 127.0.0.1 with its key.
fn certificates(folder: &Path) {
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("written");
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        write(name, params.self_signed(&key).expect("signed").pem());
        Issuer::new(params, key)
    };
    let (issuer, _) = (authority("ca.pem"), authority("other.pem"));
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    write("cert.pem", leaf.signed_by(&key, &issuer).expect("signed").pem());
    write("key.pem", key.serialize_pem());
}
