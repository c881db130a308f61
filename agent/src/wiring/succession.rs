//! One agent after another: a successor accepts callers when it has synced, and the agent before it then sends its own
//! away (`continuity::handover`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use budget::Budget;
use config::Settings;
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::continuity::{Changes, Continuity, Line, Own, Post, Sealer};
use crate::life::Fatal;
use crate::manager::Manager;
use crate::status::Status;

/// Tells when this agent may accept callers: at once, or when it replaces the one before it.
#[derive(Debug, Clone)]
pub(super) struct Turn(watch::Receiver<bool>);

impl Turn {
    pub(super) async fn comes(&mut self) {
        // Without a sender it never comes: the agent is on its way out.
        if self.0.wait_for(|open| *open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Finds out what there is to continue with, before any socket is bound.
///
/// # Errors
/// [`Fatal::StartUp`].
pub(super) async fn prepare(continuity: &mut Continuity, settings: &Settings) -> Result<(), Fatal> {
    continuity.use_disk(settings).map_err(Fatal::StartUp)?;
    let succeeded = continuity.succeed(&settings.data_dir).await;
    succeeded.map_err(|reason| Fatal::StartUp(format!("cannot take over from the running agent: {reason}")))
}

/// What goes on beside the agent's own work.
#[derive(Debug)]
pub(super) struct Succession {
    pub(super) continuity: Arc<Continuity>,
    pub(super) turn: Turn,
    post: Option<Post>,
    sealer: Option<Sealer>,
}

impl Succession {
    /// Called when all sockets are bound.
    pub(super) fn begin(mut continuity: Continuity, data_dir: &Path, status: &Arc<Status>) -> Self {
        let post = continuity.post(data_dir);
        continuity.drop_leftovers();
        let (sealer, predecessor) = (continuity.sealer(), continuity.predecessor());
        let continuity = Arc::new(continuity);
        let (open, turn) = watch::channel(predecessor.is_none());
        let turn = Turn(turn);
        match predecessor {
            Some(line) => {
                // Whoever rolls out a new version must not end the old one before that.
                status.has_predecessor();
                let folder = data_dir.to_owned();
                tokio::spawn(take_over(line, Arc::clone(&continuity), Arc::clone(status), open, folder));
            }
            None => {
                // The channel lives as long as the receivers look at it.
                tokio::spawn(async move { open.closed().await });
            }
        }
        Self { continuity, turn, post, sealer }
    }

    /// Keeps what the agent has, and waits for its successor, which the task returns.
    pub(super) fn watch(
        self,
        changes: &Changes,
        own: watch::Receiver<Option<Own>>,
        manager: watch::Receiver<Option<Manager>>,
    ) -> JoinHandle<Line> {
        if let Some(sealer) = self.sealer {
            tokio::spawn(sealer.run(changes.clone(), own.clone(), manager.clone()));
        }
        let (continuity, post, mut turn) = (self.continuity, self.post, self.turn);
        tokio::spawn(async move {
            turn.comes().await;
            match post {
                Some(post) => continuity.handed_over(post, own, manager).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// Accepts callers as soon as this agent has synced, and tells the agent before it.
async fn take_over(
    line: Line,
    continuity: Arc<Continuity>,
    status: Arc<Status>,
    open: watch::Sender<bool>,
    data_dir: PathBuf,
) {
    tokio::select! {
        () = status.until_synced() => info!("Taking over from the other agent"),
        () = line.gone() => {
            warn!("The other agent has ended before this one has synced");
            // It may be started again, and then serves, and can hand over.
            sleep(STARTED_AGAIN).await;
            if !continuity.may_serve(&data_dir) {
                // This one is started again by its keeper, and takes over from that one.
                let _ = kill_process(getpid(), Signal::TERM);
                return std::future::pending().await;
            }
        }
    }
    open.send_replace(true);
    continuity.took_over();
    // It is gone already, or about to go.
    let _ = line.ready();
    continuity.until_alone(data_dir).await;
    line.gone().await;
    open.closed().await;
}

/// Ends when the agent that has taken over is gone, and its keeper has not started it again.
pub(super) async fn needed_again(line: &Line, continuity: &Continuity, data_dir: &Path) {
    line.gone().await;
    warn!("The agent that has taken over is gone");
    sleep(STARTED_AGAIN).await;
    continuity.until_alone(data_dir.to_owned()).await;
}

/// Ends all connections over [`SPREAD`]: their clients come back at once, and not all at once.
pub(super) async fn send_away(bytes: &Budget) {
    bytes.drain();
    let connections = bytes.levels().accounts;
    for _ in 0..STEPS {
        sleep(SPREAD / STEPS).await;
        if bytes.end_some(connections.div_ceil(STEPS as usize).max(1)) == 0 {
            break;
        }
    }
    bytes.end_some(usize::MAX);
}

/// In this time the keeper of another agent has started it again, and it has the lock.
const STARTED_AGAIN: Duration = Duration::from_millis(500);
const SPREAD: Duration = Duration::from_secs(2);
const STEPS: u32 = 50;
