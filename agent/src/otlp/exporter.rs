//! One of the two tasks: when it sends, and when it tries again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::otlp::resource::Resource;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::answer::Failed;
use super::records::{Batch, Records};
use super::target::{Connection, Target};
use crate::upstream::backoff::{Backoff, Need, jitter};

/// Sends requests of one signal.
#[derive(Debug)]
pub(super) struct Exporter {
    target: Target,
    connection: Option<Connection>,
    backoff: Backoff,
    /// Whether the log tells of a trouble that is not over.
    complained: bool,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// The receiver takes all but so many of its records.
    Partly(u64),
    /// The receiver does not take it.
    Refused,
    /// It is to be sent again after this time.
    Again(Duration),
}

impl Exporter {
    pub(super) fn new(target: Target) -> Self {
        Self { target, connection: None, backoff: Backoff::default(), complained: false }
    }

    /// Sends one request. The first failure of a row is logged, and its end.
    async fn send(&mut self, request: &Bytes) -> Outcome {
        let failed = match self.target.send(&mut self.connection, request).await {
            Ok(()) => {
                self.backoff.reset();
                if std::mem::take(&mut self.complained) {
                    let (signal, endpoint) = (self.target.signal().name(), self.target.told());
                    info!(signal, endpoint, "OTLP endpoint takes exports again");
                }
                return Outcome::Taken;
            }
            Err(failed) => failed,
        };
        if !std::mem::replace(&mut self.complained, true) {
            let (signal, endpoint) = (self.target.signal().name(), self.target.told());
            warn!(signal, endpoint, error = %failed, "Cannot export to the OTLP endpoint; trying on without further words");
        }
        match failed {
            Failed::Broken(_) => Outcome::Again(self.backoff.wait(Need::Idle)),
            // The receiver's wish is spread, too: all agents of a fleet hear the same.
            Failed::Again(_, after) => {
                let least =
                    after.map_or(Duration::ZERO, |after| after.mul_f64(1.0 + rand::random::<f64>() / 10.0));
                Outcome::Again(self.backoff.wait(Need::Idle).max(least))
            }
            Failed::Refused(_) => {
                self.backoff.reset();
                Outcome::Refused
            }
            Failed::Partly(count, _) => {
                self.backoff.reset();
                Outcome::Partly(count)
            }
        }
    }
}

/// The wish to stop.
#[derive(Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    pub(super) fn new(stop: watch::Receiver<bool>) -> Self {
        Self(stop)
    }

    /// Does this until it is done, or until the agent ends: then `None`.
    async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.0.wait_for(|stop| *stop) => None,
            done = work => Some(done),
        }
    }
}

/// Sends metrics every `interval`, and once more at the end. What fails is not sent again, because what is sent next has
/// it, too; but it is sent sooner, or later, as the failure asks.
pub(super) async fn send_metrics(
    mut exporter: Exporter,
    requests: impl Fn() -> Vec<Bytes>,
    interval: Duration,
    mut stop: Stop,
) {
    // Agents that start together do not send together.
    let mut wait = interval.mul_f64(rand::random());
    while stop.or(sleep(wait)).await.is_some() {
        let Some(again) = stop.or(send_all(&mut exporter, requests())).await else { break };
        wait = again.unwrap_or_else(|| jitter(interval, SPREAD));
    }
    send_all(&mut exporter, requests()).await;
}

/// Sends all requests. Returns when to send again if one of them does not arrive.
async fn send_all(exporter: &mut Exporter, requests: Vec<Bytes>) -> Option<Duration> {
    for request in requests {
        if let Outcome::Again(wait) = exporter.send(&request).await {
            return Some(wait);
        }
    }
    None
}

/// Sends log records as they come. A batch is sent again until the receiver takes or refuses it.
pub(super) async fn send_logs(
    mut exporter: Exporter,
    records: Arc<Records>,
    resource: Resource,
    mut stop: Stop,
) {
    let mut batch = None;
    loop {
        let round = round(&mut exporter, &records, &resource, &mut batch);
        let Some(again) = stop.or(round).await else { break };
        if let Some(wait) = again
            && stop.or(sleep(wait)).await.is_none()
        {
            break;
        }
    }
    while batch.is_some() || {
        batch = records.take(&resource);
        batch.is_some()
    } {
        if deliver(&mut exporter, &records, &mut batch).await.is_some() {
            return;
        }
    }
}

/// Sends the batch that is left, or waits for the next one. Returns when to send it again if it does not arrive.
async fn round(
    exporter: &mut Exporter,
    records: &Records,
    resource: &Resource,
    batch: &mut Option<Batch>,
) -> Option<Duration> {
    if batch.is_none() {
        records.filled().await;
        *batch = records.take(resource);
    }
    deliver(exporter, records, batch).await
}

/// Sends the batch, if there is one. It is gone afterwards, unless it must be sent again.
async fn deliver(exporter: &mut Exporter, records: &Records, batch: &mut Option<Batch>) -> Option<Duration> {
    let Batch { request, count } = batch.as_ref()?;
    match exporter.send(request).await {
        Outcome::Again(wait) => return Some(wait),
        Outcome::Taken => {}
        Outcome::Refused => records.refused(*count),
        Outcome::Partly(rejected) => records.refused(rejected.min(*count)),
    }
    *batch = None;
    None
}

/// How much an interval is longer or shorter at random.
const SPREAD: f64 = 0.05;
