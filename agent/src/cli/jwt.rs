//! The commands `api fetch jwt` and `api validate jwt`. `text` makes their output.

mod text;

use std::process::ExitCode;
use std::time::Duration;

use proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use super::client::{self, RpcError};
use super::flags::{FlagSet, Values, duration, list, old_output, output, text};
use super::print::Format;
use super::socket::{self, SocketError};
use super::{block_on, console};

/// Runs `api fetch jwt`: prints a token for each of the caller's identities, and the keys that they are verified by.
pub(super) fn fetch(values: &Values) -> ExitCode {
    run(fetched(values))
}

/// Runs `api validate jwt`: prints the claims of a token, if it is good.
pub(super) fn validate(values: &Values) -> ExitCode {
    run(validated(values))
}

fn run(work: impl Future<Output = Result<String, JwtError>>) -> ExitCode {
    block_on(async {
        match work.await {
            Ok(text) => {
                console::out(&text);
                ExitCode::SUCCESS
            }
            Err(error) => {
                console::err(&error.to_string());
                ExitCode::FAILURE
            }
        }
    })
}

async fn fetched(values: &Values) -> Result<String, JwtError> {
    let path = socket::path(values)?;
    let audience = values.list("audience");
    if audience.is_empty() {
        return Err(JwtError::NoAudience);
    }
    let limit = values.duration("timeout");
    let begun = Instant::now();
    let channel = client::within(limit, client::connect(&path)).await.map_err(JwtError::Unreached)?;
    let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
    let bundles = bundles(channel.clone(), left).await?;
    let request = JwtsvidRequest { audience, spiffe_id: values.text("spiffeID").to_owned() };
    let svids = client::within(limit, svids(channel, request)).await?;
    Ok(match values.format() {
        Format::Pretty => text::fetched(&svids, &bundles),
        Format::Json => text::fetched_json(&svids, &bundles),
    })
}

async fn bundles(channel: Channel, limit: Option<Duration>) -> Result<JwtBundlesResponse, RpcError> {
    client::within(limit, async {
        let answer =
            client::workload(channel).fetch_jwt_bundles(client::request(JwtBundlesRequest {})).await?;
        client::next(&mut answer.into_inner()).await
    })
    .await
}

async fn svids(channel: Channel, request: JwtsvidRequest) -> Result<JwtsvidResponse, RpcError> {
    Ok(client::workload(channel).fetch_jwtsvid(client::request(request)).await?.into_inner())
}

async fn validated(values: &Values) -> Result<String, JwtError> {
    let path = socket::path(values)?;
    let request = ValidateJwtsvidRequest {
        audience: values.text("audience").to_owned(),
        svid: values.text("svid").to_owned(),
    };
    if request.audience.is_empty() {
        return Err(JwtError::NoAudience);
    }
    if request.svid.is_empty() {
        return Err(JwtError::NoSvid);
    }
    let answer: Result<ValidateJwtsvidResponse, RpcError> =
        client::within(values.duration("timeout"), async {
            let mut client = client::workload(client::connect(&path).await?);
            Ok(client.validate_jwtsvid(client::request(request)).await?.into_inner())
        })
        .await;
    let answer = answer.map_err(JwtError::of_validation)?;
    Ok(match values.format() {
        Format::Pretty => text::validated(&answer),
        Format::Json => text::validated_json(&answer),
    })
}

/// Why a command prints nothing, in spire-agent's words.
#[derive(Debug, thiserror::Error)]
enum JwtError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("audience must be specified")]
    NoAudience,
    #[error("svid must be specified")]
    NoSvid,
    #[error("failed to receive JWT bundles: {0}")]
    Unreached(RpcError),
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("SVID is not valid: {0}")]
    Invalid(String),
    #[error("unable to validate JWT SVID: {0}")]
    NotValidated(RpcError),
}

impl JwtError {
    fn of_validation(error: RpcError) -> Self {
        match error {
            RpcError::Status(status) if status.code() == Code::InvalidArgument => {
                Self::Invalid(status.message().to_owned())
            }
            error => Self::NotValidated(error),
        }
    }
}

/// The flags of `api fetch jwt`.
pub(super) const FETCH_FLAGS: FlagSet = FlagSet {
    name: "fetch jwt",
    flags: &[
        list("audience", "comma separated list of audience values"),
        old_output("format", "deprecated; use -output"),
        socket::instance_flag(),
        output(),
        socket::path_flag(socket::USAGE),
        text("spiffeID", "", "SPIFFE ID subject (optional)"),
        duration("timeout", 5, "Time to wait for a response"),
    ],
};

/// The flags of `api validate jwt`.
pub(super) const VALIDATE_FLAGS: FlagSet = FlagSet {
    name: "validate jwt",
    flags: &[
        text("audience", "", "expected audience value"),
        socket::instance_flag(),
        output(),
        socket::path_flag(socket::USAGE),
        text("svid", "", "JWT SVID"),
        duration("timeout", 5, "Time to wait for a response"),
    ],
};

#[cfg(test)]
mod tests;
