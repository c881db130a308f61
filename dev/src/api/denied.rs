//! PermissionDenied with the reason in its details. The reason tells an agent whether to attest again.

use bytes::Bytes;
use prost::Message as _;
use proto::types::PermissionDeniedDetails;
use proto::types::permission_denied_details::Reason;
use tonic::{Code, Status};

/// Refuses a call because of the agent's state.
pub(super) fn because(reason: Reason, method: &str) -> Status {
    with_details(reason, refusal(method))
}

/// Refuses a call without a client certificate.
pub(super) fn without_details(method: &str) -> Status {
    Status::permission_denied(refusal(method))
}

/// A status with the reason in `grpc-status-details-bin`.
pub(super) fn with_details(reason: Reason, message: String) -> Status {
    let details = PermissionDeniedDetails { reason: reason.into() };
    let status = RpcStatus {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![prost_types::Any { type_url: TYPE_URL.to_owned(), value: details.encode_to_vec() }],
    };
    Status::with_details(Code::PermissionDenied, message, Bytes::from(status.encode_to_vec()))
}

fn refusal(method: &str) -> String {
    format!("authorization denied for method {method}")
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

const TYPE_URL: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";
