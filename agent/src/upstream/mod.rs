//! The client of the SPIRE server: the only place where server messages become domain values.
//!
//! - [`link`]: one sticky connection, thrown away on any doubt; [`channel`]: HTTP/2 over it;
//! - `dial`: the connection below it, through a `proxy` where one is set;
//! - [`tls`]: who the server must be, and who we are;
//! - `parent`: the SVID that another agent's Workload API gives this one;
//! - [`attest`]: AttestAgent, RenewAgent; [`sync`]: entries and bundles; [`mint`]: X.509-SVIDs;
//! - [`convert`]: wire values checked one by one; a bad one is dropped and counted, the rest go on.

pub mod attest;
pub mod backoff;
pub mod channel;
pub mod convert;
mod dial;
pub mod link;
pub mod mint;
pub(crate) mod parent;
mod proxy;
pub mod sync;
pub mod tls;

use std::time::Duration;

use prost::Message as _;
use proto::types::permission_denied_details::Reason;
use tonic::{Code, Status};

/// Why a call to the server failed, by what is to be done about it.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No connection: DNS, TCP, proxy.
    #[error("cannot reach the server: {0}")]
    Unreachable(String),
    /// The server's certificate is signed by an authority that is not in our bundle.
    #[error(
        "x509: certificate signed by unknown authority: the server's certificate is not signed by the trust bundle"
    )]
    UnknownAuthority,
    /// The server's certificate is not acceptable for another reason.
    #[error("server is not trusted: {0}")]
    Untrusted(String),
    /// Another error, in the course of syncing entries; scripts look for the text.
    #[error("failed to fetch authorized entries: {0}")]
    Entries(#[source] Box<Self>),
    /// The server does not accept the agent's certificate (TLS alert).
    #[error("server does not accept this agent's certificate: TLS alert {0}")]
    CertificateRefused(String),
    /// The connection ended under the call.
    #[error("connection to the server was lost: {0}")]
    Disconnected(String),
    /// No answer in time.
    #[error("no answer from the server within {0:?}")]
    Timeout(Duration),
    /// PermissionDenied with a reason that the server spells out.
    #[error("server refuses this agent: {reason}: {message}", reason = reason.as_str_name())]
    Refused {
        /// Its reason.
        reason: Reason,
        /// Its words.
        message: String,
    },
    /// Any other status.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[source] Box<Status>),
    /// An answer that breaks the protocol.
    #[error("server's answer makes no sense: {0}")]
    Protocol(&'static str),
    /// An answer that cannot be understood.
    #[error("server's answer cannot be used: {0}")]
    Malformed(String),
    /// The node attestor has nothing to show.
    #[error(transparent)]
    Node(#[from] attestors::node::NodeError),
    /// No key for a new SVID.
    #[error(transparent)]
    Key(#[from] crate::keys::KeyError),
}

impl ServerError {
    /// Reads a status, and the details that SPIRE attaches to a refusal.
    #[must_use]
    pub fn of(status: Status) -> Self {
        match refusal(&status) {
            Some(reason) => Self::Refused { reason, message: status.message().to_owned() },
            None => Self::Status(Box::new(status)),
        }
    }

    /// Says that entries were being fetched; what decides about the agent's life stays as it is.
    fn in_entries(self) -> Self {
        match self {
            Self::Refused { .. } | Self::UnknownAuthority | Self::CertificateRefused(_) => self,
            other => Self::Entries(Box::new(other)),
        }
    }

    /// The status code, where the server answered.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            Self::Refused { .. } => Some(Code::PermissionDenied),
            Self::Entries(inner) => inner.code(),
            _ => None,
        }
    }

    /// How long the server wants to be left alone: RetryInfo (`google/rpc/error_details.proto`) or `grpc-retry-pushback-ms`
    /// (gRFC A6), at most five minutes; `None` where it says nothing.
    #[must_use]
    pub fn hold(&self) -> Option<Duration> {
        match self {
            Self::Status(status) => hold(status).map(|hold| hold.min(HOLD_LIMIT)),
            Self::Entries(inner) => inner.hold(),
            _ => None,
        }
    }

    /// Whether the connection is to be thrown away: everything but a clear answer of the server.
    fn dooms_connection(&self) -> bool {
        !matches!(
            self.code(),
            Some(
                Code::NotFound
                    | Code::InvalidArgument
                    | Code::PermissionDenied
                    | Code::ResourceExhausted
                    | Code::Unimplemented
                    | Code::FailedPrecondition
                    | Code::AlreadyExists
            )
        )
    }
}

/// The reason in `grpc-status-details-bin`, if it is SPIRE's.
fn refusal(status: &Status) -> Option<Reason> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let any =
        details.into_iter().find(|any| any.type_url.ends_with("spire.api.types.PermissionDeniedDetails"))?;
    let details = proto::types::PermissionDeniedDetails::decode(&*any.value).ok()?;
    Some(details.reason()).filter(|reason| *reason != Reason::Unknown)
}

fn hold(status: &Status) -> Option<Duration> {
    let pushback = status.metadata().get("grpc-retry-pushback-ms").and_then(|value| value.to_str().ok());
    if let Some(milliseconds) = pushback.and_then(|text| text.parse().ok()) {
        return Some(Duration::from_millis(milliseconds));
    }
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let any = details.into_iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*any.value).ok()?.retry_delay?;
    Some(Duration::from_secs(u64::try_from(delay.seconds).ok()?))
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<WholeSeconds>,
}

/// `google.protobuf.Duration`, of which the nanoseconds do not matter here.
#[derive(Clone, PartialEq, prost::Message)]
struct WholeSeconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The longest that a server may ask to be left alone: SVIDs must be renewed all the same.
const HOLD_LIMIT: Duration = Duration::from_mins(5);
/// How long one call may take (SPIRE, `client.go`).
pub const CALL_LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_says_how_long_to_wait() {
        let busy = |details: Vec<u8>| {
            ServerError::of(Status::with_details(Code::ResourceExhausted, "busy", details.into()))
                .in_entries()
        };
        assert_eq!(busy(Vec::new()).hold(), None);
        let retry = |seconds| {
            let value = RetryInfo { retry_delay: Some(WholeSeconds { seconds }) }.encode_to_vec();
            let any = RpcAny { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value };
            busy(RpcStatus { details: vec![any] }.encode_to_vec()).hold()
        };
        assert_eq!(
            [retry(7), retry(-1), retry(86_400)],
            [Some(Duration::from_secs(7)), None, Some(HOLD_LIMIT)]
        );
        let mut status = Status::unavailable("busy");
        status.metadata_mut().insert("grpc-retry-pushback-ms", 1500.into());
        assert_eq!(ServerError::of(status).hold(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn spires_reason_is_found() {
        let reason = proto::types::PermissionDeniedDetails { reason: Reason::AgentBanned.into() };
        let any = RpcAny {
            type_url: "type.googleapis.com/spire.api.types.PermissionDeniedDetails".into(),
            value: reason.encode_to_vec(),
        };
        let details = RpcStatus { details: vec![any] }.encode_to_vec();
        let status = Status::with_details(Code::PermissionDenied, "agent is banned", details.clone().into());
        assert!(matches!(ServerError::of(status), ServerError::Refused { reason: Reason::AgentBanned, .. }));
        let other = Status::with_details(Code::Internal, "agent is banned", details.into());
        assert!(matches!(ServerError::of(other), ServerError::Status(_)));
        let bare = Status::permission_denied("no");
        assert!(matches!(ServerError::of(bare), ServerError::Status(_)));
    }
}
