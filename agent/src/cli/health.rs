//! `healthcheck`: asks the agent on its public socket.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use proto::health::HealthCheckRequest;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_client::HealthClient;

use super::client::{self, RpcError};
use super::flags::{FlagSet, Values, switch};
use super::socket::{self, SocketError};
use super::{block_on, console};

/// Runs `healthcheck`. It ends after [`LIMIT`] even if the agent does not answer.
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
    let answer = async {
        let mut client = HealthClient::new(client::connect(path).await?);
        Ok(client.check(HealthCheckRequest::default()).await?.into_inner().status())
    };
    client::within(Some(LIMIT), answer).await
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

/// How long the command waits for an agent that does not answer, as in spire-agent.
const LIMIT: Duration = client::CONNECT_LIMIT;

/// The flags of `healthcheck`. `-shallow` has no effect.
pub(super) const FLAGS: FlagSet = FlagSet {
    name: "health",
    flags: &[
        socket::instance_flag(),
        switch("shallow", "Perform a less stringent health check"),
        socket::path_flag("Path to the SPIRE Agent API socket"),
        switch("verbose", "Print verbose information"),
    ],
};

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::cli::client::tests::{mute, speaks_once};

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_says_nothing_is_unhealthy_after_twenty_seconds() {
        let (_mute, mute, _listener) = mute();
        let (_once, once) = speaks_once();
        for path in [mute, once] {
            let start = Instant::now();
            ask(&path).await.unwrap_err();
            assert_eq!(start.elapsed().as_secs(), 20, "{}", path.display());
        }
    }
}
