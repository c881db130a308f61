//! What the agent tells of itself in numbers.
//!
//! - [`names`]: the table of all metrics;
//! - [`calls`]: measures a call: how often, how it ended, how long it took;
//! - `gauges`: what is read when somebody wants it;
//! - `listener`: HTTP for Prometheus, with `tls` where it is configured; `process`: what every program tells there of its
//!   process;
//! - `dump`: the last hour, on SIGUSR1.
//!
//! Receivers of OTLP are told by `crate::otlp`.
//!
//! Whoever has something to tell holds a [`Metrics`] and a row of the table. The crate `telemetry` does the rest.

pub(crate) mod calls;
mod dump;
mod gauges;
mod listener;
pub(crate) mod names;
mod process;
mod tls;

use config::{Settings, Telemetry};
use telemetry::{Address, Dialect, Filter, Options, Statsd};
use tracing::{info, warn};

pub(crate) use self::calls::Calls;
pub(crate) use self::dump::dump;
pub(crate) use self::gauges::Gauges;
use crate::otlp::Sink;
use crate::upstream::tls::KeyExchange;
pub(crate) use telemetry::{Metric, Metrics, Reading};

/// Starts the sinks of the configuration. Without any, metrics are kept all the same: they cost little, and an operator
/// can ask for them.
pub(crate) fn start(settings: &Settings) -> Metrics {
    let telemetry = &settings.telemetry;
    let statsd = telemetry.statsd.iter().map(|address| Statsd::start(Dialect::Statsd, udp(address)));
    let dog_statsd =
        telemetry.dog_statsd.iter().map(|address| Statsd::start(Dialect::DogStatsd, dog_statsd(address)));
    let metrics = Metrics::new(options(settings), statsd.chain(dog_statsd).collect());
    let (version, trust_domain) = (crate::version::compatible(), &settings.trust_domain);
    metrics.set(&names::STARTED, &[&version, trust_domain], 1.0);
    metrics
}

/// Serves what the gauges say, and keeps them up to date, as long as the agent lives.
pub(crate) fn serve(settings: &Settings, gauges: Gauges, otlp: &Sink) {
    otlp.send_metrics(gauges.clone());
    if let Some(prometheus) = &settings.telemetry.prometheus {
        if prometheus.host != "localhost" {
            warn!(
                "Agent is now configured to accept remote network connections for Prometheus stats collection. \
                 Please ensure access to this port is tightly controlled"
            );
        }
        info!(host = %prometheus.host, port = prometheus.port, "Starting prometheus exporter");
        tokio::spawn(listener::serve(prometheus.clone(), KeyExchange::of(settings), gauges.clone()));
    }
    tokio::spawn(gauges.run());
}

fn options(settings: &Settings) -> Options {
    let Telemetry { allowed_prefixes, blocked_prefixes, allowed_labels, blocked_labels, .. } =
        settings.telemetry.clone();
    let mut labels = Vec::new();
    if settings.telemetry.enable_trust_domain_label {
        let clean = telemetry::sanitize(&settings.trust_domain);
        labels.push(("trust_domain", clean));
    }
    if settings.telemetry.enable_hostname_label {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        labels.extend(Some(host).filter(|host| !host.is_empty()).map(|host| ("host", host)));
    }
    Options {
        prefix: settings.telemetry.metric_prefix.clone(),
        labels,
        filter: Filter { allowed_prefixes, blocked_prefixes, allowed_labels, blocked_labels },
        in_mem: settings.telemetry.in_mem,
    }
}

fn udp(address: &str) -> Address {
    Address::Udp(address.to_owned())
}

/// An address as datadog-go takes it.
fn dog_statsd(address: &str) -> Address {
    match address.strip_prefix("unix://") {
        Some(path) => Address::Unix(path.into()),
        None => udp(address),
    }
}
