//! The SVID that another agent gives this one over its Workload API: in nested SPIRE a node is attested by it (`x509pop` with
//! `spiffe_endpoint_socket`).

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

/// Its default SVID: the first.
///
/// # Errors
/// Why there is none, as text.
pub(crate) async fn credential(socket: &Path) -> Result<Credential, String> {
    let fetched = timeout(LIMIT, fetch(socket)).await;
    fetched.unwrap_or_else(|_| Err(format!("{}: no answer within {LIMIT:?}", socket.display())))
}

async fn fetch(socket: &Path) -> Result<Credential, String> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|reason| format!("{}: {reason}", socket.display()))?;
    let channel = Channel::open(stream).await?;
    let mut request = Request::new(X509svidRequest {});
    // Without it an agent refuses (Workload Endpoint §4.1).
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
    let mut stream = client.fetch_x509svid(request).await.map_err(|status| words(&status))?.into_inner();
    let answer = stream.message().await.map_err(|status| words(&status))?;
    let first =
        answer.and_then(|answer| answer.svids.into_iter().next()).ok_or("it has none for this agent")?;
    let key = Zeroizing::new(first.x509_svid_key.to_vec());
    Credential::new(certificates(&first.x509_svid)?, &key).map_err(|reason| reason.to_string())
}

fn words(status: &tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// Concatenated DER certificates, each cut out.
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

const LIMIT: Duration = Duration::from_secs(10);
/// Hundreds of SVIDs with their bundles.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
