//! Counts the calls of the sockets, and measures how long they take, as spire-agent does.

use tokio::time::Instant;

use super::call::Judged;
use crate::telemetry::names::Connections;
use crate::telemetry::{Calls, Metrics, names};

/// A call that is under way. It is recorded when it ends; one that is dropped was given up by its client.
#[derive(Debug)]
pub(super) struct Measured {
    metrics: Metrics,
    calls: &'static Calls,
    connections: Option<&'static Connections>,
    /// The names of the service and of the method.
    names: [&'static str; 2],
    began: Instant,
    /// The status, which is that of a call that was given up until the call has ended.
    status: &'static str,
}

impl Measured {
    pub(super) fn start<A>(call: &Judged<A>, metrics: &Metrics) -> Self {
        let connections = call.service.connections;
        if let Some(connections) = connections {
            metrics.add(&connections.count, &[], 1);
            metrics.change(&connections.open, &[], 1);
        }
        let names = [call.service.name, call.method.name];
        metrics.change(&names::OPEN_CALLS, &names, 1);
        Self {
            metrics: metrics.clone(),
            calls: call.method.calls,
            connections,
            names,
            began: Instant::now(),
            status: call.method.request.given_up(),
        }
    }

    /// Records the call with this status.
    pub(super) fn end(mut self, status: &'static str) {
        self.status = status;
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.calls.record(&self.metrics, &[self.status], self.began);
        self.metrics.change(&names::OPEN_CALLS, &self.names, -1);
        if let Some(connections) = self.connections {
            self.metrics.change(&connections.open, &[], -1);
        }
    }
}
