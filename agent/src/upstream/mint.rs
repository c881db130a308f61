//! BatchNewX509SVID: one batch, a verdict for each entry.

use std::sync::Arc;

use bytes::Bytes;
use config::KeyType;
use identity::{Entry, PrivateKey, X509Svid};
use proto::svid::svid_client::SvidClient;
use proto::svid::{BatchNewX509svidRequest, NewX509svidParams};

use super::link::Link;
use super::{CALL_LIMIT, ServerError, convert};
use crate::keys;

/// What became of one entry.
pub type Outcome = (Arc<Entry>, Result<Arc<X509Svid>, String>);

/// Has the server sign a fresh key for each entry.
///
/// # Errors
/// [`ServerError`] when the call as a whole failed.
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
    let mut results = answer.into_inner().results.into_iter();
    let outcome = |(entry, key): (Arc<Entry>, Result<PrivateKey, String>)| {
        let svid = key.and_then(|key| {
            let result = results.next().ok_or("the server's answer is too short")?;
            match result.status {
                Some(status) if status.code != 0 => return Err(status.message),
                _ => {}
            }
            let svid = convert::svid(result.svid, key).map_err(|reason| reason.to_string())?;
            if svid.id != entry.spiffe_id {
                return Err(format!("the server signed for {} instead of {}", svid.id, entry.spiffe_id));
            }
            Ok(svid)
        });
        (entry, svid)
    };
    Ok(keys.into_iter().map(outcome).collect())
}

/// Whether keys are made sooner than a thread is: an RSA key takes a tenth of a second and an EC key a tenth of a
/// millisecond, and a batch must not stop the runtime.
fn is_quick(key_type: KeyType, keys: usize) -> bool {
    !matches!(key_type, KeyType::Rsa2048) && keys <= QUICK
}

type Keys = Vec<(Arc<Entry>, Result<PrivateKey, String>)>;

fn requests(entries: Vec<Arc<Entry>>, key_type: KeyType) -> (Keys, Vec<NewX509svidParams>) {
    let mut params = Vec::with_capacity(entries.len());
    let keys = entries
        .into_iter()
        .map(|entry| {
            let request = keys::request(key_type, Some(&entry.spiffe_id));
            let key = request.map_err(|reason| reason.to_string()).map(|request| {
                params.push(NewX509svidParams {
                    entry_id: entry.id.to_string(),
                    csr: Bytes::from(request.csr),
                });
                request.key
            });
            (entry, key)
        })
        .collect();
    (keys, params)
}

const QUICK: usize = 4;
/// 500 SVIDs with long chains.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
