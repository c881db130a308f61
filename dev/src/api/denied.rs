//! PermissionDenied with the reason in its details, by which an agent knows whether to attest anew.

use bytes::Bytes;
use prost::Message as _;
use proto::types::PermissionDeniedDetails;
use proto::types::permission_denied_details::Reason;
use tonic::{Code, Status};

/// The refusal of a call for the state that the agent is in.
pub(super) fn because(reason: Reason, method: &str) -> Status {
    with_details(reason, refusal(method))
}

/// The refusal of a call by somebody without an SVID.
pub(super) fn without_details(method: &str) -> Status {
    Status::permission_denied(refusal(method))
}

/// Packs the reason into `grpc-status-details-bin`.
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
