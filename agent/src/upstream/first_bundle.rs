//! The bundle that authenticates the server at first contact, read from its configured source: a file, a web server, a
//! server on a Unix socket, or the Workload API of another agent (SPIRE, `trustbundlesources/bundle.go`).

mod get;

use std::path::Path;
use std::sync::Arc;

use attestors::file;
use bytes::Bytes;
use config::{BundleFormat, TrustBundleSource};
use identity::{Bundle, TrustDomain, Url};

use super::parent;
use super::tls::Roots;

/// What a server on a Unix socket is told about the attempt that needs a bundle.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// Whether a bundle was trusted before.
    pub is_rebootstrap: bool,
    /// Counts the attempts since `start`, from 1.
    pub number: i64,
    /// When the agent began to look for a bundle, in RFC 3339 and whole seconds.
    pub start: &'a str,
    /// `server_address`.
    pub server_address: &'a str,
    /// `server_port`.
    pub server_port: u16,
    /// The trust domain of the agent.
    pub trust_domain: &'a TrustDomain,
}

/// Reads the source.
///
/// # Errors
/// A text that names the source and the reason.
pub async fn fetch(source: &TrustBundleSource, attempt: &Attempt<'_>) -> Result<Roots, String> {
    let read = |text: Bytes, format| parse(&text, format, attempt.trust_domain);
    let bundle = match source {
        TrustBundleSource::Insecure => return Ok(Roots::Insecure),
        TrustBundleSource::File { path, format } => from_file(path, *format, attempt.trust_domain).await?,
        TrustBundleSource::Web { url, format } => {
            let text = get::get(&get::Web, url.expose().clone()).await;
            let bundle = text.and_then(|text| read(text, *format));
            bundle.map_err(|reason| format!("trust_bundle_url {url}: {reason}"))?
        }
        TrustBundleSource::UnixSocket { socket, url, format } => {
            let text = get::get(&get::Socket(socket), attempt.told_to(url.expose())).await;
            let bundle = text.and_then(|text| read(text, *format));
            let named = |reason| {
                format!("trust_bundle_url {url} at trust_bundle_unix_socket {}: {reason}", socket.display())
            };
            bundle.map_err(named)?
        }
        TrustBundleSource::WorkloadApi(address) => {
            let ders = parent::authorities(address, attempt.trust_domain).await;
            let ders =
                ders.map_err(|reason| format!("trust_bundle_spiffe_workload_api {address}: {reason}"))?;
            Bundle::of_x509(attempt.trust_domain.clone(), ders.into_iter().map(Bytes::from))
        }
    };
    Ok(Roots::Bundle(Arc::new(bundle)))
}

/// Reads the bundle in a file.
///
/// # Errors
/// A text that names the file and the reason.
pub async fn from_file(
    path: &Path,
    format: BundleFormat,
    trust_domain: &TrustDomain,
) -> Result<Bundle, String> {
    let text = file::load_bytes(path, BUNDLE_BYTES as u64).await;
    let bundle =
        text.map_err(|reason| reason.to_string()).and_then(|text| parse(&text, format, trust_domain));
    bundle.map_err(|reason| format!("trust_bundle_path {}: {reason}", path.display()))
}

fn parse(text: &[u8], format: BundleFormat, trust_domain: &TrustDomain) -> Result<Bundle, String> {
    let bundle = match format {
        BundleFormat::Pem => Bundle::from_pem(trust_domain.clone(), text),
        BundleFormat::Spiffe => Bundle::from_spiffe_json(trust_domain.clone(), text),
    };
    bundle.map_err(|reason| reason.to_string())
}

impl Attempt<'_> {
    /// The URL with what the server on a Unix socket is told.
    fn told_to(&self, url: &Url) -> Url {
        let mut url = url.clone();
        let mut parameters = url.parameters();
        let mode = if self.is_rebootstrap { "rebootstrap" } else { "bootstrap" };
        let (number, port) = (self.number.to_string(), self.server_port.to_string());
        for (key, value) in [
            ("spire-attest-mode", mode),
            ("spire-connection-attempts", &number),
            ("spire-attest-start-time", self.start),
            ("spire-server-address", self.server_address),
            ("spire-server-port", &port),
            ("spiffe-trust-domain", self.trust_domain.name()),
        ] {
            parameters.push((key.into(), value.into()));
        }
        url.set_parameters(parameters);
        url
    }
}

/// The longest trust bundle in bytes: enough for thousands of authorities.
const BUNDLE_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests;
