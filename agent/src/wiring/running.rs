//! The agent while it runs, and how everything ends in order.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use budget::Budget;
use config::Settings;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info};

use super::lines;
use super::succession::{needed_again, send_away};
use crate::continuity::{Changes, Contents, Continuity, Line};
use crate::life::{Fatal, Lifecycle};
use crate::manager::Manager;
use crate::status::Status;

/// What ends with the agent.
pub(super) struct Running {
    pub(super) settings: Arc<Settings>,
    pub(super) status: Arc<Status>,
    pub(super) bytes: Budget,
    pub(super) ready: watch::Sender<Option<Manager>>,
    /// The server of the public socket.
    pub(super) apis: JoinHandle<Fatal>,
    /// The server of the admin socket.
    pub(super) admin: JoinHandle<()>,
    /// Ends when another agent has taken over.
    pub(super) successor: JoinHandle<Line>,
    /// What a later process needs.
    pub(super) changes: Changes,
    pub(super) continuity: Arc<Continuity>,
}

impl Running {
    /// Runs until a signal or a fatal error, then ends everything in order.
    pub(super) async fn until_the_end(
        mut self,
        lifecycle: Lifecycle,
        recalled: Option<Contents>,
        mut stop: Stop,
    ) -> Result<(), Fatal> {
        let keeper = lifecycle.keeper();
        let mut life = tokio::spawn(lifecycle.run(recalled));
        let mut successor = None;
        let ended = tokio::select! {
            ended = &mut life => Some(ended.unwrap_or(Fatal::Stopped("the lifecycle"))),
            ended = &mut self.apis => Some(ended.unwrap_or(Fatal::Stopped("the server of the public socket"))),
            () = stop.signalled() => None,
            Ok(line) = &mut self.successor => {
                info!("Another agent has taken over; the connections of this one end");
                self.continuity.yields();
                successor = Some(line);
                None
            }
        };
        // Before what is to be written goes.
        let _ = timeout(LAST_WRITE, self.changes.written()).await;
        if let Some(fatal) = ended {
            keeper.flush(LAST_WRITE).await;
            return Err(fatal);
        }
        self.status.stopping();
        lines::stopping(&self.settings);
        self.apis.abort();
        self.admin.abort();
        life.abort();
        if successor.is_some() {
            send_away(&self.bytes).await;
        }
        tokio::join!(drain(&self.bytes, self.ready), keeper.flush(LAST_WRITE));
        if let Some(line) = successor {
            // Whoever started this agent will stop it. Until then it can be started again if its successor is gone.
            tokio::select! {
                () = stop.signalled() => {}
                () = needed_again(&line, &self.continuity, &self.settings.data_dir) => {}
            }
        }
        Ok(())
    }
}

/// The signals that stop the agent.
pub(super) struct Stop {
    pub(super) interrupt: Signal,
    pub(super) terminate: Signal,
}

impl Stop {
    pub(super) async fn signalled(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ends all connections. Calls that have begun are answered, and streams end because the manager is gone. After
/// [`DRAIN`] the agent no longer waits for callers that do not read.
async fn drain(bytes: &Budget, ready: watch::Sender<Option<Manager>>) {
    ready.send_replace(None);
    drop(ready);
    bytes.drain();
    if timeout(DRAIN, poll_fn(|cx| bytes.poll_drained(cx))).await.is_err() {
        debug!(bytes = bytes.held(), "Stopped while some callers had not taken their last answers");
    }
}

/// How long a stopping agent waits for callers to read their last answers.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a stopping agent waits for its data to reach the disk.
const LAST_WRITE: Duration = Duration::from_secs(2);
