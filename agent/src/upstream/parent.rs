//! The Workload API of another agent, which the node attests by, or takes its first trust bundle from: `x509pop` with
//! `spiffe_endpoint_socket` (nested SPIRE), and `trust_bundle_spiffe_workload_api`.

use std::io;
use std::time::Duration;

use attestors::node::Credential;
use config::WorkloadApi;
use identity::TrustDomain;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{X509BundlesRequest, X509svidRequest};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::MetadataValue;
use zeroize::Zeroizing;

use super::channel::Channel;

#[cfg(test)]
mod tests;

/// Fetches the default X.509-SVID, which is the first one, from the Workload API at `address`.
///
/// # Errors
/// A text that says why there is no SVID.
pub(crate) async fn credential(address: &WorkloadApi) -> Result<Credential, String> {
    let fetched = timeout(SVID_LIMIT, fetch_credential(address)).await;
    let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {SVID_LIMIT:?}")));
    fetched.map_err(|reason| format!("{address}: {reason}"))
}

async fn fetch_credential(address: &WorkloadApi) -> Result<Credential, String> {
    let mut client = connect(address).await?;
    let stream = client.fetch_x509svid(request(X509svidRequest {})).await;
    let answer = stream.map_err(|status| status_text(&status))?.into_inner().message().await;
    let answer = answer.map_err(|status| status_text(&status))?;
    let first =
        answer.and_then(|answer| answer.svids.into_iter().next()).ok_or("it has none for this agent")?;
    let key = Zeroizing::new(first.x509_svid_key.to_vec());
    Credential::new(certificates(&first.x509_svid)?, &key).map_err(|reason| reason.to_string())
}

/// Fetches the certificates (DER) of a trust domain's bundle from the Workload API at `address`.
///
/// # Errors
/// A text that says why there is no bundle.
pub(super) async fn authorities(
    address: &WorkloadApi,
    trust_domain: &TrustDomain,
) -> Result<Vec<Vec<u8>>, String> {
    let fetched = timeout(BUNDLE_LIMIT, fetch_authorities(address, trust_domain)).await;
    fetched.unwrap_or_else(|_| Err(format!("no answer within {BUNDLE_LIMIT:?}")))
}

async fn fetch_authorities(
    address: &WorkloadApi,
    trust_domain: &TrustDomain,
) -> Result<Vec<Vec<u8>>, String> {
    let mut client = connect(address).await?;
    let stream = client.fetch_x509_bundles(request(X509BundlesRequest {})).await;
    let answer = stream.map_err(|status| status_text(&status))?.into_inner().message().await;
    let bundles = answer.map_err(|status| status_text(&status))?.unwrap_or_default().bundles;
    let own = bundles.iter().find(|(name, _)| TrustDomain::parse(name).as_ref() == Ok(trust_domain));
    let (_, der) =
        own.ok_or_else(|| format!("did not provide a trust bundle for trust domain {trust_domain:?}"))?;
    let found = certificates(der)?;
    if found.is_empty() { Err("no certificates found in trust bundle".into()) } else { Ok(found) }
}

async fn connect(address: &WorkloadApi) -> Result<SpiffeWorkloadApiClient<Channel>, String> {
    let lost = |reason: io::Error| reason.to_string();
    let channel = match address {
        WorkloadApi::Unix(path) => Channel::open(UnixStream::connect(path).await.map_err(lost)?).await?,
        WorkloadApi::Tcp(address) => Channel::open(TcpStream::connect(address).await.map_err(lost)?).await?,
    };
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(ANSWER_LIMIT))
}

/// A call with the header without which an agent refuses it (SPIFFE Workload Endpoint §3).
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

fn status_text(status: &tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// Splits concatenated DER certificates.
fn certificates(mut der: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|_| "its certificate is malformed")?;
        found.push(der[..der.len() - rest.len()].to_vec());
        der = rest;
    }
    Ok(found)
}

/// How long the parent agent may take for an SVID.
const SVID_LIMIT: Duration = Duration::from_secs(10);
/// How long another agent may take for a bundle (SPIRE, `spiffeWorkloadAPIFetchTimeout`).
const BUNDLE_LIMIT: Duration = Duration::from_mins(1);
/// The largest answer in bytes: enough for hundreds of SVIDs with their bundles.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
