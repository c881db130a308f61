//! The client of the SPIRE server. Only here do the server's messages become domain values.
//!
//! - [`link`]: one long-lived connection, dropped on any doubt; [`channel`]: HTTP/2 over it;
//! - `dial`: the TCP connection below it, through a `proxy` where one is set;
//! - [`tls`]: the authentication of the server, and the agent's own certificate;
//! - [`first_bundle`]: the bundle that authenticates the server at first contact, from its configured source;
//! - `parent`: what the Workload API of another agent gives this node, an SVID to attest by or the first bundle;
//! - `web_tls`: TLS with proxies, servers of trust bundles and receivers of OTLP;
//! - [`attest`]: AttestAgent, RenewAgent, PostStatus; [`sync`]: entries and bundles; [`mint`]: X.509-SVIDs; [`jwt`]: JWT-SVIDs;
//! - `probe`: one look at the server that changes nothing, for `finial check`;
//! - [`backoff`]: the waits between attempts;
//! - [`convert`]: checks wire values one by one; a malformed value does not affect the others.

pub mod attest;
pub mod backoff;
pub mod channel;
pub mod convert;
pub(crate) mod dial;
pub(crate) mod failed;
pub mod first_bundle;
pub mod jwt;
pub mod link;
pub mod mint;
pub(crate) mod parent;
pub(crate) mod probe;
mod proxy;
pub mod sync;
pub mod tls;
pub(crate) mod web_tls;

use std::time::Duration;

use pace::{Cause, Failure};
use prost::Message as _;
use proto::types::permission_denied_details::Reason;
use tonic::{Code, Status};

/// Why a call to the server failed. Each variant is a case that the agent's life treats in its own way, or logs in its
/// own words.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no connection: DNS, TCP or the proxy failed.
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
    /// An error while entries were fetched. Scripts look for the text.
    #[error("failed to fetch authorized entries: {0}")]
    Entries(#[source] Box<Self>),
    /// The server has rejected the agent's certificate. The text is its TLS alert.
    #[error("server does not accept this agent's certificate: TLS alert {0}")]
    CertificateRefused(String),
    /// The connection ended before the call did.
    #[error("connection to the server was lost: {0}")]
    Disconnected(String),
    /// The server did not answer within this time.
    #[error("no answer from the server within {0:?}")]
    Timeout(Duration),
    /// PermissionDenied with one of SPIRE's reasons in the status details.
    #[error("server refuses this agent: {reason}: {message}", reason = reason.as_str_name())]
    Refused {
        /// The reason in the status details.
        reason: Reason,
        /// The status message.
        message: String,
    },
    /// Any other gRPC status.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[source] Box<Status>),
    /// An answer that breaks the protocol.
    #[error("server's answer makes no sense: {0}")]
    Protocol(&'static str),
    /// An answer whose content is malformed.
    #[error("server's answer cannot be used: {0}")]
    Malformed(String),
    /// The node attestor cannot make its payload or answer a challenge.
    #[error(transparent)]
    Node(#[from] attestors::node::NodeError),
    /// There is no key for a new SVID.
    #[error(transparent)]
    Key(#[from] crate::keys::KeyError),
}

impl ServerError {
    /// Reads a status and the details that SPIRE attaches to a refusal.
    #[must_use]
    pub fn of(status: Status) -> Self {
        match refusal(&status) {
            Some(reason) => Self::Refused { reason, message: status.message().to_owned() },
            None => Self::Status(Box::new(status)),
        }
    }

    /// Adds that entries were being fetched. Errors that decide about the agent's life stay as they are.
    fn in_entries(self) -> Self {
        match self {
            Self::Refused { .. } | Self::UnknownAuthority | Self::CertificateRefused(_) => self,
            other => Self::Entries(Box::new(other)),
        }
    }

    /// The gRPC status code; `None` if the server did not answer.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            Self::Refused { .. } => Some(Code::PermissionDenied),
            Self::Entries(inner) => inner.code(),
            _ => None,
        }
    }

    /// How long the server asks the agent to wait before it calls again: RetryInfo (`google/rpc/error_details.proto`)
    /// or `grpc-retry-pushback-ms` (gRFC A6), capped at five minutes. `None` if the server does not ask for that.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(status) => retry_after(status).map(|wait| wait.min(RETRY_AFTER_LIMIT)),
            Self::Entries(inner) => inner.retry_after(),
            _ => None,
        }
    }

    /// What it says of when to call again.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let cause = match self {
            Self::Unreachable(_) => Cause::Away,
            _ if self.code() == Some(Code::ResourceExhausted) => Cause::Busy,
            _ => Cause::Other,
        };
        Failure { cause, asked: self.retry_after() }
    }

    /// Whether the connection must be dropped. Only a clear answer of the server keeps it.
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

/// An error with its causes.
pub(crate) fn whole(reason: &(dyn std::error::Error + 'static)) -> String {
    let causes =
        std::iter::successors(Some(reason), |reason: &&(dyn std::error::Error + 'static)| (*reason).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// SPIRE's reason in `grpc-status-details-bin`; `None` if there is none.
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

/// How long a gRPC server asks its client to wait, by its status.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
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

/// `google.protobuf.Duration`, without the nanoseconds, which do not matter here.
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

/// The longest wait that a server may ask for, because SVIDs must still be renewed in time.
const RETRY_AFTER_LIMIT: Duration = Duration::from_mins(5);
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
        assert_eq!(busy(Vec::new()).retry_after(), None);
        let retry = |seconds| {
            let value = RetryInfo { retry_delay: Some(WholeSeconds { seconds }) }.encode_to_vec();
            let any = RpcAny { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value };
            busy(RpcStatus { details: vec![any] }.encode_to_vec()).retry_after()
        };
        assert_eq!(
            [retry(7), retry(-1), retry(86_400)],
            [Some(Duration::from_secs(7)), None, Some(RETRY_AFTER_LIMIT)]
        );
        assert_eq!(busy(Vec::new()).failure(), Failure::from(Cause::Busy));
        let mut status = Status::unavailable("busy");
        status.metadata_mut().insert("grpc-retry-pushback-ms", 1500.into());
        assert_eq!(ServerError::of(status).retry_after(), Some(Duration::from_millis(1500)));
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
