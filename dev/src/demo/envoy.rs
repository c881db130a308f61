//! An Envoy's admin port: its certificates, statistics and connections.

use std::collections::BTreeMap;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::failure::Failure;
use super::http;
use super::process::Process;
use super::sidecar::{SDS_CLUSTER, STATS};

/// A running Envoy.
#[derive(Debug)]
pub(crate) struct Envoy {
    pub(crate) process: Process,
    pub(crate) admin_port: u16,
    /// The port of its listener.
    pub(crate) port: u16,
}

/// A certificate in `/certs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) uri: String,
    pub(crate) serial: String,
    pub(crate) expires: Option<OffsetDateTime>,
}

/// The certificates in `/certs`; empty before Envoy has its secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    pub(crate) own: Vec<Certificate>,
    pub(crate) authorities: Vec<Certificate>,
}

impl Envoy {
    /// Whether Envoy is ready, by `/ready`.
    pub(crate) async fn live(&self) -> bool {
        http::get(self.admin_port, "/ready").await.is_ok_and(|answer| answer.status == 200)
    }

    /// Reads `/certs`.
    ///
    /// # Errors
    /// If Envoy does not answer.
    pub(crate) async fn certificates(&self) -> Result<Certificates, Failure> {
        let body = self.admin("/certs").await?;
        let all: Value = serde_json::from_str(&body).unwrap_or_default();
        let mut certificates = Certificates::default();
        for context in all["certificates"].as_array().into_iter().flatten() {
            certificates.own.extend(read(&context["cert_chain"]));
            certificates.authorities.extend(read(&context["ca_cert"]));
        }
        Ok(certificates)
    }

    /// Reads the counters that were used at least once.
    ///
    /// # Errors
    /// If Envoy does not answer.
    pub(crate) async fn stats(&self) -> Result<Stats, Failure> {
        let body = self.admin("/stats?usedonly").await?;
        let pairs = body.lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(Stats(pairs.collect()))
    }

    /// Whether Envoy has exactly one connection to the agent, and it is healthy.
    ///
    /// # Errors
    /// If Envoy does not answer.
    pub(crate) async fn agent_connection(&self) -> Result<bool, Failure> {
        let body = self.admin("/clusters").await?;
        let lines: Vec<&str> = body.lines().filter(|line| line.starts_with(SDS_CLUSTER)).collect();
        let has = |end: &str| lines.iter().any(|line| line.ends_with(end));
        Ok(has("::cx_active::1") && has("::health_flags::healthy"))
    }

    async fn admin(&self, path: &str) -> Result<String, Failure> {
        let answer = http::get(self.admin_port, path).await;
        let answer =
            answer.map_err(|reason| self.process.failure(&format!("does not answer {path}: {reason}")))?;
        Ok(answer.body)
    }
}

fn read(certificates: &Value) -> Vec<Certificate> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let read = |certificate: &Value| {
        let names = certificate["subject_alt_names"].as_array();
        let uri = names.into_iter().flatten().find_map(|name| name["uri"].as_str());
        Certificate {
            uri: uri.unwrap_or_default().to_owned(),
            serial: text(&certificate["serial_number"]),
            expires: OffsetDateTime::parse(&text(&certificate["expiration_time"]), &Rfc3339).ok(),
        }
    };
    certificates.as_array().into_iter().flatten().map(read).collect()
}

/// The counters of an Envoy by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats(BTreeMap<String, u64>);

impl Stats {
    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The number of handshakes with callers.
    pub(crate) fn handshakes_in(&self) -> u64 {
        self.get(&format!("listener.{STATS}.ssl.handshake"))
    }

    /// The number of handshakes with a callee.
    pub(crate) fn handshakes_with(&self, callee: &str) -> u64 {
        self.get(&format!("cluster.{callee}.ssl.handshake"))
    }

    /// The number of callers refused because of their SPIFFE ID.
    pub(crate) fn refused_names(&self) -> u64 {
        self.get(&format!("listener.{STATS}.ssl.fail_verify_san"))
    }

    /// The number of requests answered with 2xx, and with 5xx.
    pub(crate) fn requests(&self) -> (u64, u64) {
        (
            self.get(&format!("http.{STATS}.downstream_rq_2xx")),
            self.get(&format!("http.{STATS}.downstream_rq_5xx")),
        )
    }
}
