//! Writes the agent's data in the background. A disk that takes seconds for an fsync delays nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::error;

use super::{Data, Store};

/// The handle of the writing task. Cheap to clone. The task ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    /// The newest data.
    wanted: watch::Sender<Numbered>,
    /// The number of the newest change that was written, or failed to be.
    written: watch::Receiver<u64>,
}

/// The data after a change, and the number of the change.
#[derive(Debug, Clone, Default)]
struct Numbered {
    number: u64,
    data: Arc<Data>,
}

impl Keeper {
    /// Starts the task.
    pub(crate) fn start(store: Store) -> Self {
        let (wanted, changes) = watch::channel(Numbered::default());
        let (done, written) = watch::channel(0);
        tokio::spawn(write(Arc::new(store), changes, done));
        Self { wanted, written }
    }

    /// Requests a write of the file. If several changes come during one write, only the last is written.
    pub(crate) fn save(&self, data: Data) {
        let data = Arc::new(data);
        self.wanted.send_modify(|wanted| *wanted = Numbered { number: wanted.number + 1, data });
    }

    /// Waits until all changes so far are on the disk or have failed, but no longer than `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let number = self.wanted.borrow().number;
        let mut written = self.written.clone();
        if timeout(limit, written.wait_for(|written| *written >= number)).await.is_err() {
            error!(limit = ?limit, "Agent data is not on the disk yet: a restart may have to attest anew");
        }
    }
}

/// Writes each change. A failure is logged and the agent goes on; the next change tries again.
async fn write(store: Arc<Store>, mut changes: watch::Receiver<Numbered>, done: watch::Sender<u64>) {
    while changes.changed().await.is_ok() {
        let Numbered { number, data } = changes.borrow_and_update().clone();
        let store = Arc::clone(&store);
        let saved = tokio::task::spawn_blocking(move || store.save(&data)).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                error!(error = %reason, "Failed to store agent data: a restart would have to attest anew");
            }
            Err(stopped) => {
                error!(error = %stopped, "Failed to store agent data: a restart would have to attest anew");
            }
        }
        done.send_replace(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_last_change_is_on_the_disk_after_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::start(Store::open(folder.path()).unwrap());
        keeper.flush(LIMIT).await;
        for attempts in 1..=20 {
            keeper.save(Data { connection_attempts: attempts, ..Data::default() });
        }
        keeper.flush(LIMIT).await;
        let stored = Store::open(folder.path()).unwrap().load().unwrap();
        assert_eq!(stored.connection_attempts, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_ends_though_the_task_does_not_answer() {
        let (wanted, _changes) = watch::channel(Numbered::default());
        let (_done, written) = watch::channel(0);
        let keeper = Keeper { wanted, written };
        keeper.save(Data::default());
        keeper.flush(LIMIT).await;
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_tried_again_at_the_next_change() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("data");
        let keeper = Keeper::start(Store::open(&data_dir).unwrap());
        std::fs::remove_dir(&data_dir).unwrap();
        keeper.save(Data { connection_attempts: 1, ..Data::default() });
        keeper.flush(LIMIT).await;
        std::fs::create_dir(&data_dir).unwrap();
        keeper.save(Data { connection_attempts: 2, ..Data::default() });
        keeper.flush(LIMIT).await;
        assert_eq!(Store::open(&data_dir).unwrap().load().unwrap().connection_attempts, 2);
    }
}
