//! What an agent does for its successors: it gives them what it has, and waits for the first that serves.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Continuity, Line, Own, PAUSE, Post, handover, sealer};
use crate::manager::Manager;

impl Continuity {
    /// Waits at the post until a successor has taken over. Returns the connection to it.
    pub(crate) async fn handed_over(
        &self,
        post: Post,
        own: watch::Receiver<Option<Own>>,
        manager: watch::Receiver<Option<Manager>>,
    ) -> Line {
        // One that says nothing must not keep others from it.
        let mut under_way = FuturesUnordered::new();
        loop {
            let done = tokio::select! {
                accepted = post.accept(), if under_way.len() < SUCCESSORS => match accepted {
                    Ok(line) => {
                        under_way.push(self.hand_over(line, &own, &manager));
                        continue;
                    }
                    Err(reason) => Err(reason),
                },
                Some(done) = under_way.next() => done,
            };
            match done {
                Ok(Some(line)) => return line,
                Ok(None) => warn!("The agent that was to take over is gone; this one goes on"),
                Err(reason) => {
                    debug!(error = %reason, "No hand-over");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Gives everything to a successor. Returns the connection to it when it serves; `None` if it is gone before.
    async fn hand_over(
        &self,
        line: Line,
        own: &watch::Receiver<Option<Own>>,
        manager: &watch::Receiver<Option<Manager>>,
    ) -> Result<Option<Line>, handover::Refused> {
        line.asked().await?;
        info!("Another agent is about to take over");
        let mut things = Vec::new();
        for (name, socket) in &*self.sockets() {
            things.push((name.clone(), socket.try_clone()?));
        }
        let present = manager.borrow().clone();
        if let Some(manager) = present
            && let Ok(mut contents) = manager.contents().await
        {
            contents.own = own.borrow().clone();
            match sealer::sealed(contents, FIRST).await {
                Ok(file) => things.push((sealer::ODD.to_owned(), file.into())),
                Err(reason) => warn!(error = %reason, "The other agent has to ask the server for everything"),
            }
        }
        line.give(&things)?;
        drop(things);
        Ok(line.is_ready().await.then_some(line))
    }
}

/// The most hand-overs that are under way. The first successor that is ready takes over.
const SUCCESSORS: usize = 4;
/// The number of a memory that is written for a successor.
const FIRST: u64 = 1;
