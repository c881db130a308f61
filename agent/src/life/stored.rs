//! The state that an earlier run of the agent has left on disk.

use std::path::PathBuf;

use config::KeyManager;

use super::Fatal;
use crate::keys::Keys;
use crate::store::{Data, Store};

/// The agent's data and keys, as an earlier run has left them.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(super) store: Store,
    pub(super) data: Data,
    pub(super) keys: Keys,
}

impl Stored {
    /// Reads the data and the keys on a blocking thread. Callers are accepted meanwhile.
    ///
    /// # Errors
    /// [`Fatal::StartUp`].
    pub(crate) async fn read(data_dir: PathBuf, key_manager: KeyManager) -> Result<Self, Fatal> {
        let reading = tokio::task::spawn_blocking(move || {
            let storage = |reason| Fatal::StartUp(format!("data_dir {}: {reason}", data_dir.display()));
            let store = Store::open(&data_dir).map_err(storage)?;
            let data = store.load().map_err(storage)?;
            let keys = match key_manager {
                KeyManager::Memory => Keys::memory(),
                KeyManager::Disk { directory } => Keys::disk(directory)?,
            };
            Ok(Self { store, data, keys })
        });
        reading.await.unwrap_or(Err(Fatal::Stopped("the reader of data_dir")))
    }
}
