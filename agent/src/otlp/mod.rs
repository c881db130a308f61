//! Metrics and log lines for a receiver of OTLP, OpenTelemetry's protocol (`experimental { otlp { } }`).
//!
//! Metrics and logs have a task and a connection each, so that a receiver that does not take one of them gets the other.
//! Nobody waits for a receiver: metrics are state that is read when it is sent, and log records lie in a bounded queue.
//! What is sent is not followed by a line about it that is sent, too: lines of this module, and of the libraries below
//! it, go to the log alone.
//!
//! - `metrics`: the messages of all series; `records`: the queue of log records, and their messages;
//! - `exporter`: one of the two tasks: when it sends, and when it tries again;
//! - `target`: a connection to the receiver, and one exchange on it; `answer`: what the receiver says.
//!
//! The messages and the two ways to send them are written here, on the HTTP and TLS that the agent has. OpenTelemetry's
//! own libraries would bring a second set of metrics and their own thread or runtime.

mod answer;
mod exporter;
mod metrics;
mod records;
mod target;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::{Otlp, Settings};
use proto::otlp::common::any_value::Value;
use proto::otlp::common::{AnyValue, InstrumentationScope, KeyValue};
use proto::otlp::resource::Resource;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::exporter::{Exporter, Stop};
pub(crate) use self::records::{Records, records_dropped};
use self::target::{Signal, Target};
use crate::telemetry::Gauges;

/// What is sent to a receiver of OTLP. Without one in the configuration it does nothing.
#[derive(Debug, Default)]
pub(crate) struct Sink(Option<Parts>);

#[derive(Debug)]
struct Parts {
    settings: Otlp,
    resource: Resource,
    /// When this process began to count, in nanoseconds since 1970.
    start: u64,
    /// The log records that wait; `None` if none are sent.
    records: Option<Arc<Records>>,
    /// Becomes true when the agent ends.
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Sink {
    /// The sink of this configuration. Nothing runs yet.
    pub(crate) fn of(settings: &Settings) -> Self {
        let parts = settings.experimental.otlp.clone().map(|otlp| Parts {
            resource: resource(&settings.trust_domain),
            start: nanoseconds(SystemTime::now()),
            records: otlp.logs.then(Arc::default),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
            settings: otlp,
        });
        Self(parts)
    }

    /// Where the log puts its records, if they are wanted.
    pub(crate) fn records(&self) -> Option<Arc<Records>> {
        self.0.as_ref()?.records.clone()
    }

    /// Sends log records from now on, as long as the agent lives.
    pub(crate) fn send_logs(&self) {
        let Some(parts) = &self.0 else { return };
        if let Some(records) = &parts.records {
            let (records, resource) = (Arc::clone(records), parts.resource.clone());
            parts.spawn(exporter::send_logs(parts.exporter(Signal::Logs), records, resource, parts.stop()));
        }
    }

    /// Sends metrics from now on, as long as the agent lives.
    pub(crate) fn send_metrics(&self, gauges: Gauges) {
        let Some(parts) = self.0.as_ref().filter(|parts| parts.settings.metrics) else { return };
        let (resource, start) = (parts.resource.clone(), parts.start);
        let requests =
            move || metrics::requests(&gauges.snapshot(), &resource, start, nanoseconds(SystemTime::now()));
        let exporter = parts.exporter(Signal::Metrics);
        parts.spawn(exporter::send_metrics(exporter, requests, parts.settings.interval, parts.stop()));
    }

    /// Sends what is left, but no longer than [`LAST`]. Called when the agent ends.
    pub(crate) async fn finish(&self) {
        let Some(parts) = &self.0 else { return };
        parts.stop.send_replace(true);
        let tasks = std::mem::take(&mut *parts.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = timeout(LAST, futures_util::future::join_all(tasks)).await;
    }
}

impl Parts {
    fn exporter(&self, signal: Signal) -> Exporter {
        Exporter::new(Target::new(self.settings.clone(), signal))
    }

    fn stop(&self) -> Stop {
        Stop::new(self.stop.subscribe())
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(tokio::spawn(task));
    }
}

/// Who sends (OpenTelemetry's semantic conventions for resources).
fn resource(trust_domain: &str) -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attributes = [
        ("service.name", "finial".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", host),
        ("spiffe.trust_domain", trust_domain.to_owned()),
    ];
    Resource { attributes: attributes.into_iter().map(|(key, value)| attribute(key, value)).collect() }
}

/// The part of the program that measures and logs: all of it.
fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "finial".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

fn attribute(key: &str, value: String) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(text(value)) }
}

fn text(text: String) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text)) }
}

/// Since 1970.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// How long the end of the agent may be held up.
const LAST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
