//! Node attestation of nested SPIRE: the node proves itself with the SVID that a parent agent gives it over its
//! Workload API (`x509pop` with `spiffe_endpoint_socket`).

use std::path::Path;
use std::time::Duration;

use attestors::node::Credential;
use proto::workload::X509svidRequest;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::Request;
use tonic::metadata::MetadataValue;
use zeroize::Zeroizing;

use super::channel::Channel;

/// Fetches the default X.509-SVID, which is the first one, from the Workload API at `socket`.
///
/// # Errors
/// A text that says why there is no SVID.
pub(crate) async fn credential(socket: &Path) -> Result<Credential, String> {
    let fetched = timeout(LIMIT, fetch(socket)).await;
    fetched.unwrap_or_else(|_| Err(format!("{}: no answer within {LIMIT:?}", socket.display())))
}

async fn fetch(socket: &Path) -> Result<Credential, String> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|reason| format!("{}: {reason}", socket.display()))?;
    let channel = Channel::open(stream).await?;
    let mut request = Request::new(X509svidRequest {});
    // An agent refuses calls without this header (SPIFFE Workload Endpoint §3).
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
    let mut stream =
        client.fetch_x509svid(request).await.map_err(|status| status_text(&status))?.into_inner();
    let answer = stream.message().await.map_err(|status| status_text(&status))?;
    let first =
        answer.and_then(|answer| answer.svids.into_iter().next()).ok_or("it has none for this agent")?;
    let key = Zeroizing::new(first.x509_svid_key.to_vec());
    Credential::new(certificates(&first.x509_svid)?, &key).map_err(|reason| reason.to_string())
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

/// How long the parent agent may take for its answer.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest answer in bytes: enough for hundreds of SVIDs with their bundles.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
