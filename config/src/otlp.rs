//! Where metrics and logs go by OTLP (`agent.experimental.otlp`). This is Finial's own.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::settings::join_host_port;

/// Where metrics and logs go by OTLP (`agent.experimental.otlp`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// The receiver (`endpoint`).
    pub endpoint: OtlpEndpoint,
    /// How it is spoken to (`protocol`).
    pub protocol: OtlpProtocol,
    /// Whether metrics are sent (`metrics`).
    pub metrics: bool,
    /// Whether log lines are sent (`logs`).
    pub logs: bool,
    /// The pause between two exports of metrics (`interval`).
    pub interval: Duration,
    /// Headers of each request (`headers`).
    pub headers: OtlpHeaders,
    /// A PEM file with the authorities of the receiver's certificate (`ca_file`); `None` for the system's.
    pub ca_file: Option<PathBuf>,
}

/// The receiver of OTLP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// Whether it is asked over TLS.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, which is the scheme's own if the URL has none.
    pub port: u16,
    /// What stands before `/v1/metrics`, without a slash at its end; often empty, and always with gRPC.
    pub path: String,
}

/// As it is logged: a URL.
impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl OtlpEndpoint {
    /// `host:port`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        join_host_port(&self.host, &self.port.to_string())
    }
}

/// How the receiver is spoken to (`protocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf in requests of HTTP/1.1.
    Http,
}

/// The headers of each request, names in lower case. Their values are secrets: zeroized when dropped and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OtlpHeaders(Vec<(String, Zeroizing<String>)>);

impl OtlpHeaders {
    pub(crate) fn new(headers: Vec<(String, String)>) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect())
    }

    /// The names and the values themselves, for a request.
    #[must_use]
    pub fn expose(&self) -> &[(String, Zeroizing<String>)] {
        &self.0
    }
}

impl fmt::Debug for OtlpHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}
