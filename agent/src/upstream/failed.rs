//! The log line of a call to the server that failed, as spire-agent's client writes it (`client.go`).

use tracing::error;

use super::ServerError;
use crate::telemetry::calls;

/// Logs `message` with the reason and the status that grpc-go would have for it.
pub(crate) fn log(message: &'static str, reason: &ServerError) {
    let status_code = code_name(reason);
    error!(error = %reason, status_code, status_message = %reason, "{message}");
}

/// The reason as grpc-go's clients write it.
pub(crate) fn rpc_error(reason: &ServerError) -> String {
    let words = match reason {
        ServerError::Status(status) => status.message().to_owned(),
        ServerError::Refused { message, .. } => message.clone(),
        other => other.to_string(),
    };
    format!("rpc error: code = {} desc = {words}", code_name(reason))
}

/// The name of the status code in Go. Where there was no answer, it is the code that grpc-go makes up.
pub(crate) fn code_name(reason: &ServerError) -> &'static str {
    match (reason.code(), reason) {
        (Some(code), _) => calls::code_name(code),
        (None, ServerError::Entries(inner)) => code_name(inner),
        (None, ServerError::Timeout(_)) => "DeadlineExceeded",
        (
            None,
            ServerError::Unreachable(_)
            | ServerError::UnknownAuthority
            | ServerError::Untrusted(_)
            | ServerError::CertificateRefused(_)
            | ServerError::Disconnected(_),
        ) => "Unavailable",
        (None, _) => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn a_reason_is_written_as_by_grpc_go() {
        let refused = ServerError::of(Status::internal("no"));
        assert_eq!(rpc_error(&refused), "rpc error: code = Internal desc = no");
        let away = ServerError::Unreachable("away".into());
        assert_eq!(rpc_error(&away), "rpc error: code = Unavailable desc = cannot reach the server: away");
    }

    #[test]
    fn codes_are_named_as_by_go() {
        let status = |code| ServerError::of(Status::new(code, "x"));
        for (reason, expected) in [
            (status(Code::PermissionDenied), "PermissionDenied"),
            (status(Code::Cancelled), "Canceled"),
            (ServerError::Entries(Box::new(status(Code::Internal))), "Internal"),
            (ServerError::Entries(Box::new(ServerError::Unreachable("x".into()))), "Unavailable"),
            (ServerError::UnknownAuthority, "Unavailable"),
            (ServerError::Timeout(std::time::Duration::ZERO), "DeadlineExceeded"),
            (ServerError::Malformed("x".into()), "Unknown"),
        ] {
            assert_eq!(code_name(&reason), expected, "{reason:?}");
        }
    }
}
