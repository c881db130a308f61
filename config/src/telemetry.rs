//! Reads the block `telemetry { }`.

use crate::Problem;
use crate::decode::{Section, Strictness, no_hint};
use crate::report::not_supported;
use crate::settings::join_host_port;

/// Where metrics go, and how they are named (SPIRE: `telemetry`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// The HTTP listener for Prometheus (SPIRE: `Prometheus`).
    pub prometheus: Option<Prometheus>,
    /// Addresses of DogStatsD servers (SPIRE: `DogStatsd`).
    pub dog_statsd: Vec<String>,
    /// Addresses of statsd servers (SPIRE: `Statsd`).
    pub statsd: Vec<String>,
    /// Whether metrics are kept in memory, to be logged on SIGUSR1 (SPIRE: `InMem`).
    pub in_mem: bool,
    /// The first word of all names (SPIRE: `MetricPrefix`).
    pub metric_prefix: String,
    /// Whether metrics have the label `trust_domain` (SPIRE: `EnableTrustDomainLabel`).
    pub enable_trust_domain_label: bool,
    /// Whether metrics have the label `host` (SPIRE: `EnableHostnameLabel`).
    pub enable_hostname_label: bool,
    /// Beginnings of names that are emitted (SPIRE: `AllowedPrefixes`).
    pub allowed_prefixes: Vec<String>,
    /// Beginnings of names that are not emitted (SPIRE: `BlockedPrefixes`).
    pub blocked_prefixes: Vec<String>,
    /// The labels that are emitted; empty for all (SPIRE: `AllowedLabels`).
    pub allowed_labels: Vec<String>,
    /// Labels that are not emitted (SPIRE: `BlockedLabels`).
    pub blocked_labels: Vec<String>,
    /// What `run` refuses. As in spire-agent, the file is valid.
    pub(crate) problems: Vec<Problem>,
}

/// The listener that Prometheus scrapes (SPIRE: `telemetry.Prometheus`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    /// SPIRE: `host`.
    pub host: String,
    /// SPIRE: `port`; 0 for any free one.
    pub port: u16,
    /// SPIRE: `tls`; `None` for plain HTTP.
    pub tls: Option<PrometheusTls>,
}

/// How the listener proves who it is, and whom it lets in (SPIRE: `telemetry.Prometheus.tls`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusTls {
    /// The certificate that the listener shows.
    pub certificate: ListenerCertificate,
    /// The clients that may scrape.
    pub clients: Scrapers,
}

/// The certificate that the listener of metrics shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerCertificate {
    /// From files (SPIRE: `cert_file`, `key_file`).
    Files {
        /// SPIRE: `cert_file`.
        certificate: String,
        /// SPIRE: `key_file`.
        key: String,
    },
    /// The agent's own SVID (SPIRE: `use_spire_svid`).
    AgentSvid,
}

/// The clients that may scrape metrics over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scrapers {
    /// Everybody who can connect.
    Anyone,
    /// Those with a certificate of an authority in this file (SPIRE: `client_ca_file`).
    SignedBy(String),
    /// Those with an X.509-SVID of one of these IDs (SPIRE: `authorized_spiffe_ids`).
    SpiffeIds(Vec<String>),
}

impl Telemetry {
    pub(crate) fn read(section: Section<'_>) -> Self {
        let mut problems = Vec::new();
        if let Some(block) = section.blocks("M3").first() {
            let message = not_supported("telemetry.M3");
            problems.push(Problem { line: block.line, message });
        }
        for block in section.blocks("M3") {
            block.text("address");
            block.text("env");
            block.finish(Strictness::Refuse, "M3", no_hint);
        }
        let in_mem = section.block("InMem");
        let texts = |key| section.texts(key).into_iter().map(|text| text.value).collect();
        let telemetry = Self {
            prometheus: prometheus(section.block("Prometheus"), &mut problems),
            dog_statsd: addresses(&section, "DogStatsd"),
            statsd: addresses(&section, "Statsd"),
            in_mem: in_mem.is_present(),
            metric_prefix: section
                .text("MetricPrefix")
                .map_or_else(|| "spire_agent".to_owned(), |text| text.value),
            enable_trust_domain_label: section.is_set("EnableTrustDomainLabel"),
            enable_hostname_label: section.flag("EnableHostnameLabel").is_none_or(|flag| flag.value),
            allowed_prefixes: texts("AllowedPrefixes"),
            blocked_prefixes: texts("BlockedPrefixes"),
            allowed_labels: texts("AllowedLabels"),
            blocked_labels: texts("BlockedLabels"),
            problems,
        };
        in_mem.finish(Strictness::Refuse, "InMem", no_hint);
        section.finish(Strictness::Ignore, "telemetry", no_hint);
        telemetry
    }
}

impl Prometheus {
    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn address(&self) -> String {
        join_host_port(self.host.trim_matches(['[', ']']), &self.port.to_string())
    }
}

fn addresses(section: &Section<'_>, sink: &'static str) -> Vec<String> {
    let mut addresses = Vec::new();
    for block in section.blocks(sink) {
        addresses.extend(block.text("address").map(|address| address.value));
        block.finish(Strictness::Refuse, sink, no_hint);
    }
    addresses
}

fn prometheus(section: Section<'_>, problems: &mut Vec<Problem>) -> Option<Prometheus> {
    let is_present = section.is_present();
    let host = section.text("host").map_or_else(|| "localhost".to_owned(), |host| host.value);
    let port = section.int("port");
    let tls = tls(section.block("tls"), problems);
    let number = port.as_ref().map_or(0, |port| port.value);
    let number = u16::try_from(number).unwrap_or_else(|_| {
        let message = format!("telemetry.Prometheus.port: {number} is no port: write a number up to 65535");
        problems.push(Problem { line: port.and_then(|port| port.line), message });
        0
    });
    section.finish(Strictness::Refuse, "Prometheus", no_hint);
    is_present.then_some(Prometheus { host, port: number, tls })
}

/// Reads the block `tls`. spire-agent finds what contradicts itself there when it runs.
fn tls(section: Section<'_>, problems: &mut Vec<Problem>) -> Option<PrometheusTls> {
    let is_present = section.is_present();
    let line = section.line;
    let text = |key| section.text(key).map(|text| text.value);
    let (certificate, key, authorities) = (text("cert_file"), text("key_file"), text("client_ca_file"));
    let svid = section.is_set("use_spire_svid");
    let ids: Vec<String> =
        section.texts("authorized_spiffe_ids").into_iter().map(|text| text.value).collect();
    section.finish(Strictness::Ignore, "tls", no_hint);
    if !is_present {
        return None;
    }
    let mut refuse = |message: &str| {
        let message = format!("failed to create TLS config for Prometheus: {message}");
        problems.push(Problem { line, message });
    };
    let certificate = match (svid, certificate, key) {
        (false, Some(certificate), Some(key)) => Some(ListenerCertificate::Files { certificate, key }),
        (true, None, None) => Some(ListenerCertificate::AgentSvid),
        (true, _, _) => {
            refuse("cert_file and key_file cannot be configured when use_spire_svid is enabled");
            None
        }
        (false, _, _) => {
            refuse("cert_file and key_file must both be configured unless use_spire_svid is enabled");
            None
        }
    };
    for id in &ids {
        if !id.starts_with("spiffe://") {
            refuse(&format!("invalid authorized SPIFFE ID {id:?}: scheme is missing or invalid"));
        }
    }
    let clients = match (ids.is_empty(), authorities) {
        (true, None) => Scrapers::Anyone,
        (true, Some(file)) => Scrapers::SignedBy(file),
        (false, None) => Scrapers::SpiffeIds(ids),
        (false, Some(_)) => {
            refuse("client_ca_file cannot be configured with authorized_spiffe_ids");
            Scrapers::SpiffeIds(ids)
        }
    };
    Some(PrometheusTls { certificate: certificate?, clients })
}
