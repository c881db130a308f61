//! `healthcheck`: asks the agent on its public socket.

use std::path::Path;
use std::process::ExitCode;

use proto::health::HealthCheckRequest;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_client::HealthClient;

use super::client::{self, RpcError};
use super::flags::{FlagSet, Values, switch};
use super::socket::{self, SocketError};
use super::{block_on, console};

/// `healthcheck`. There is no deadline: that is for whoever calls it.
pub(super) fn run(values: &Values) -> ExitCode {
    block_on(async {
        match check(values).await {
            Ok(()) => {
                console::out("Agent is healthy.");
                ExitCode::SUCCESS
            }
            Err(reason) => {
                console::err(&format!("Agent is unhealthy: {reason}"));
                ExitCode::FAILURE
            }
        }
    })
}

async fn check(values: &Values) -> Result<(), Unhealthy> {
    let verbose = values.switch("verbose");
    if verbose {
        console::out("Checking agent health...");
    }
    let status = ask(&socket::path(values)?).await.map_err(|error| {
        if verbose {
            console::err(&format!("Failed to check health: {error}"));
        }
        Unhealthy::NoAnswer
    })?;
    match status {
        ServingStatus::Serving => Ok(()),
        other => Err(Unhealthy::Status(other.as_str_name())),
    }
}

async fn ask(path: &Path) -> Result<ServingStatus, RpcError> {
    let mut client = HealthClient::new(client::connect(path).await?);
    Ok(client.check(HealthCheckRequest::default()).await?.into_inner().status())
}

/// Why the agent is not healthy, in spire-agent's words.
#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("unable to determine health")]
    NoAnswer,
    #[error("agent returned status {0:?}")]
    Status(&'static str),
}

/// The flags of `healthcheck`. `-shallow` makes no difference.
pub(super) const FLAGS: FlagSet = FlagSet {
    name: "health",
    flags: &[
        socket::instance_flag(),
        switch("shallow", "Perform a less stringent health check"),
        socket::path_flag("Path to the SPIRE Agent API socket"),
        switch("verbose", "Print verbose information"),
    ],
};
