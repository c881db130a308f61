//! The state that an earlier run of the agent has left on disk.

use std::path::PathBuf;

use bytes::Bytes;
use config::KeyManager;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Fatal;
use crate::continuity::{Contents, Own};
use crate::keys::Keys;
use crate::store::{Data, Store};

/// The agent's data and keys, as an earlier run has left them.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(super) store: Store,
    pub(super) data: Data,
    pub(super) keys: Keys,
    /// What the last process had, if its holder has kept it.
    pub(crate) recalled: Option<Contents>,
}

impl Stored {
    /// Reads the data and the keys on a blocking thread. Callers are accepted meanwhile.
    ///
    /// # Errors
    /// [`Fatal::StartUp`].
    pub(crate) async fn read(
        data_dir: PathBuf,
        key_manager: KeyManager,
        recall: impl FnOnce() -> Option<Contents> + Send + 'static,
    ) -> Result<Self, Fatal> {
        let reading = tokio::task::spawn_blocking(move || {
            let storage = |reason| Fatal::StartUp(format!("data_dir {}: {reason}", data_dir.display()));
            let store = Store::open(&data_dir).map_err(storage)?;
            let mut data = store.load().map_err(storage)?;
            let mut keys = match key_manager {
                KeyManager::Memory => Keys::memory(),
                KeyManager::Disk { directory } => Keys::disk(directory)?,
            };
            let recalled = recall();
            if let Some(own) = recalled.as_ref().and_then(|contents| contents.own.as_ref()) {
                keys.restore(&own.keys);
                continue_with(&mut data, own);
            }
            Ok(Self { store, data, keys, recalled })
        });
        reading.await.unwrap_or(Err(Fatal::Stopped("the reader of data_dir")))
    }
}

/// Takes the SVID of the last process if it is newer than the one on the disk: its disk may have been full. Without one on
/// the disk, the node attests anew: that is how an operator asks for it.
fn continue_with(data: &mut Data, own: &Own) {
    let not_after = |chain: &[Bytes]| {
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        Some(leaf.validity().not_after.timestamp())
    };
    if !data.svid.is_empty() && not_after(&own.chain) > not_after(&data.svid) {
        data.svid.clone_from(&own.chain);
        data.reattestable = own.reattestable;
    }
}
