//! Gauges that are read when somebody wants them, because they change all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use budget::Budget;
use telemetry::{Metrics, Snapshot};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{names, process};
use crate::explain::overview::until;
use crate::manager::Manager;
use crate::status::{Serving, Status};

/// Where the gauges are read.
#[derive(Debug, Clone)]
pub(crate) struct Gauges {
    pub(crate) metrics: Metrics,
    pub(crate) status: Arc<Status>,
    pub(crate) manager: watch::Receiver<Option<Manager>>,
    /// What callers make the agent keep, in bytes.
    pub(crate) bytes: Budget,
    /// The names that SDS streams wait for.
    pub(crate) held_names: Arc<AtomicUsize>,
}

impl Gauges {
    /// Reads the gauges every ten seconds, for the sinks that are told, as long as the agent lives.
    pub(crate) async fn run(self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.read();
        }
    }

    /// The values of all metrics now, in Prometheus's text format.
    pub(crate) fn text(&self) -> String {
        self.read();
        process::read(&self.metrics);
        self.metrics.text()
    }

    /// All series now, for a sink that takes state.
    pub(crate) fn snapshot(&self) -> Vec<Snapshot> {
        self.read();
        self.metrics.snapshot()
    }

    #[expect(clippy::cast_precision_loss, reason = "what is counted fits into memory")]
    fn read(&self) {
        let (metrics, state, now) = (&self.metrics, self.status.state(), SystemTime::now());
        metrics.set(&names::UPTIME, &[], self.status.uptime_ms() as f64);
        metrics.set(&names::SERVING, &[], if state.serving == Serving::Ready { 1.0 } else { 0.0 });
        if let Some(synced) = state.last_sync {
            metrics.set(&names::LAST_SYNC_AGE, &[], -until(synced, now));
        }
        if let Some(expiry) = state.svid.map(|svid| svid.not_after) {
            metrics.set(&names::AGENT_EXPIRY, &[], until(expiry, now));
        }
        let soonest = self.manager.borrow().as_ref().and_then(Manager::soonest_expiry);
        if let Some(soonest) = soonest {
            metrics.set(&names::SOONEST_EXPIRY, &[], until(soonest, now));
        }
        metrics.set(&names::HELD_NAMES, &[], self.held_names.load(Ordering::Relaxed) as f64);
        let (levels, limits) = (self.bytes.levels(), self.bytes.limits());
        for (level, held, limit) in [
            ("whole", levels.whole, limits.whole),
            ("group", levels.group, limits.group),
            ("connection", levels.account, limits.account),
        ] {
            metrics.set(&names::BUDGET_BYTES, &[level], held as f64);
            metrics.set(&names::BUDGET_LIMIT, &[level], limit as f64);
        }
        metrics.set(&names::CONNECTIONS, &[], levels.accounts as f64);
        metrics.set(&names::CALLER_GROUPS, &[], levels.groups as f64);
        let left_out = transport::left_out() + crate::logging::lines_left_out();
        metrics.set(&names::LOG_LINES_LEFT_OUT, &[], left_out as f64);
        metrics.set(&names::OTLP_RECORDS_DROPPED, &[], crate::otlp::records_dropped() as f64);
    }
}

/// How often sinks are told (SPIRE, `uptime.go`).
const INTERVAL: Duration = Duration::from_secs(10);
