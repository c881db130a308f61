//! What the receiver says about a request: taken, taken in part, not now, or never (OTLP specification, "OTLP/gRPC
//! Response" and "OTLP/HTTP Response").

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use prost::Message as _;
use proto::otlp::collector_metrics::ExportMetricsServiceResponse;
use tonic::{Code, Status};

use crate::upstream;

/// An answer as it came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) trailers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// There is no connection, or it broke, or no answer came.
    #[error("{0}")]
    Broken(String),
    /// The receiver asks to try again, after this time if it says one.
    #[error("{0}")]
    Again(String, Option<Duration>),
    /// The receiver does not take this request, ever.
    #[error("{0}")]
    Refused(String),
    /// The receiver has taken the request but for so many of its points or records.
    #[error("{0} were rejected: {1}")]
    Partly(u64, String),
}

/// Reads an answer of HTTP. Redirections are refusals.
pub(super) fn of_http(answer: &Answer) -> Result<(), Failed> {
    if answer.status.is_success() {
        return partly(&answer.body);
    }
    let reason = format!("HTTP {}", answer.status.as_u16());
    Err(if is_passing(answer.status) {
        Failed::Again(reason, seconds(&answer.headers))
    } else {
        Failed::Refused(reason)
    })
}

/// Reads an answer of gRPC, whose status is in the trailers, or in the headers of an answer that has nothing else.
pub(super) fn of_grpc(answer: &Answer) -> Result<(), Failed> {
    if answer.status != StatusCode::OK {
        return of_http(answer);
    }
    let status =
        Status::from_header_map(&answer.trailers).or_else(|| Status::from_header_map(&answer.headers));
    let Some(status) = status else { return Err(Failed::Broken("an answer without grpc-status".to_owned())) };
    if status.code() == Code::Ok {
        return partly(unframed(&answer.body));
    }
    let reason = format!("{:?}: {}", status.code(), cut(status.message()));
    let after = upstream::retry_after(&status).map(|wait| wait.min(LONGEST));
    Err(match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Failed::Again(reason, after),
        // Without a time to wait, the receiver will not recover.
        Code::ResourceExhausted if after.is_some() => Failed::Again(reason, after),
        _ => Failed::Refused(reason),
    })
}

/// Whether the receiver may take the same request later.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// `Retry-After` in seconds. A date is not read.
fn seconds(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

/// The message of gRPC's frame; empty if there is none that makes sense.
fn unframed(body: &[u8]) -> &[u8] {
    match body {
        [0, a, b, c, d, message @ ..] if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() => {
            message
        }
        _ => &[],
    }
}

/// Looks for what was rejected. Answers for metrics and for logs have the same form. One that cannot be read is as good
/// as none: the receiver has taken the request.
fn partly(message: &[u8]) -> Result<(), Failed> {
    let answer = ExportMetricsServiceResponse::decode(message).unwrap_or_default();
    match answer.partial_success {
        Some(partly) if partly.rejected_data_points > 0 => {
            let count = partly.rejected_data_points.unsigned_abs();
            Err(Failed::Partly(count, cut(&partly.error_message)))
        }
        _ => Ok(()),
    }
}

/// The beginning of a text of the receiver, as much as a line of the log needs.
fn cut(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

/// The longest wait that a receiver may ask for.
pub(super) const LONGEST: Duration = Duration::from_mins(5);
/// The most characters of the receiver's words in a line of the log.
const TEXT: usize = 200;
