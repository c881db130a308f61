//! Measures a call, in SPIRE's way: a counter and the elapsed time, both with the label `status`, the name of a gRPC
//! code in Go (SPIRE, `telemetry/call.go`).

use telemetry::{Metric, Metrics};
use tokio::time::Instant;
use tonic::Code;

/// The two metrics of a kind of call.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) count: Metric,
    pub(crate) elapsed: Metric,
}

impl Calls {
    /// Measures a call from now on.
    pub(crate) fn start(&'static self, metrics: &Metrics) -> Call {
        Call { metrics: metrics.clone(), calls: self, began: Instant::now() }
    }

    /// Records a call that took from `began` until now. The last label is its status.
    pub(crate) fn record(&'static self, metrics: &Metrics, labels: &[&str], began: Instant) {
        metrics.add(&self.count, labels, 1);
        metrics.elapsed(&self.elapsed, labels, began.elapsed());
    }
}

/// A call that is under way.
#[derive(Debug)]
#[must_use = "a call that does not end is not recorded"]
pub(crate) struct Call {
    metrics: Metrics,
    calls: &'static Calls,
    began: Instant,
}

impl Call {
    /// Records the call. `status` is the name of its code.
    pub(crate) fn end(self, status: &str) {
        self.calls.record(&self.metrics, &[status], self.began);
    }

    /// Records a call of an attestor.
    pub(crate) fn end_of(self, attestor: &str, status: &str) {
        self.calls.record(&self.metrics, &[attestor, status], self.began);
    }
}

/// The name of a code in Go.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
