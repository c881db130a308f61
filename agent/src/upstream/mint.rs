//! BatchNewX509SVID: the server signs one batch and answers for each entry on its own.

use std::sync::Arc;

use bytes::Bytes;
use config::KeyType;
use identity::{Entry, X509Svid};
use proto::svid::batch_new_x509svid_response::Result as SignedResult;
use proto::svid::svid_client::SvidClient;
use proto::svid::{BatchNewX509svidRequest, NewX509svidParams};

use super::link::Link;
use super::{CALL_LIMIT, ServerError, convert};
use crate::keys::{self, Request};

#[cfg(test)]
mod tests;

/// An entry with its new SVID, or with the reason why the server did not sign one.
pub type Outcome = (Arc<Entry>, Result<Arc<X509Svid>, String>);

/// Makes a key for each entry and has the server sign all of them in one call.
///
/// # Errors
/// [`ServerError`] if the call as a whole failed.
pub async fn mint(
    link: &Link,
    entries: Vec<Arc<Entry>>,
    key_type: KeyType,
) -> Result<Vec<Outcome>, ServerError> {
    let (keys, params) = if is_quick(key_type, entries.len()) {
        requests(entries, key_type)
    } else {
        let made = tokio::task::spawn_blocking(move || requests(entries, key_type)).await;
        made.map_err(|_| ServerError::Protocol("key generation was interrupted"))?
    };
    let answer = link
        .act(CALL_LIMIT, |channel| {
            let client = SvidClient::new(channel).max_decoding_message_size(ANSWER_LIMIT);
            let request = BatchNewX509svidRequest { params: params.clone() };
            async { { client }.batch_new_x509svid(request).await }
        })
        .await?;
    Ok(outcomes(keys, answer.into_inner().results))
}

/// Joins the server's results with the entries. The results come in the order of the entries, and entries without a key
/// have none.
fn outcomes(keys: Keys, results: Vec<SignedResult>) -> Vec<Outcome> {
    let mut results = results.into_iter();
    let outcome = |(entry, request): (Arc<Entry>, Result<Request, String>)| {
        let svid = request.and_then(|request| {
            let result = results.next().ok_or("the server's answer is too short")?;
            match result.status {
                Some(status) if status.code != 0 => return Err(status.message),
                _ => {}
            }
            let svid = convert::svid(result.svid, request).map_err(|reason| reason.to_string())?;
            if svid.id != entry.spiffe_id {
                return Err(format!("the server signed for {} instead of {}", svid.id, entry.spiffe_id));
            }
            Ok(svid)
        });
        (entry, svid)
    };
    keys.into_iter().map(outcome).collect()
}

/// Whether making the keys takes less time than handing the work to a thread. An RSA key takes a tenth of a second and
/// an EC key a tenth of a millisecond, and a batch must not stop the runtime.
fn is_quick(key_type: KeyType, keys: usize) -> bool {
    !matches!(key_type, KeyType::Rsa2048) && keys <= QUICK
}

/// Each entry with its new key, or with the reason why there is no key.
type Keys = Vec<(Arc<Entry>, Result<Request, String>)>;

fn requests(entries: Vec<Arc<Entry>>, key_type: KeyType) -> (Keys, Vec<NewX509svidParams>) {
    let mut params = Vec::with_capacity(entries.len());
    let keys = entries
        .into_iter()
        .map(|entry| {
            let request = keys::request(key_type, Some(&entry.spiffe_id));
            let request = request.map_err(|reason| reason.to_string()).inspect(|request| {
                params.push(NewX509svidParams {
                    entry_id: entry.id.to_string(),
                    csr: Bytes::copy_from_slice(&request.csr),
                });
            });
            (entry, request)
        })
        .collect();
    (keys, params)
}

/// The most EC keys that are made on the serving thread.
const QUICK: usize = 4;
/// The largest answer in bytes: enough for 500 SVIDs with long chains.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
