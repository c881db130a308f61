//! Retries the binding of the public socket until an operator has removed the obstacle.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{error, info};
use transport::BindError;

#[cfg(test)]
mod tests;

/// Calls `bind` until it succeeds. The pauses grow from [`FIRST`] to [`MOST`]. `reason` is the error of the first
/// attempt. Each new reason is logged once, and the number of failures at the end.
///
/// # Errors
/// The first error that is final ([`BindError::is_final`]).
pub(super) async fn bound<T>(
    mut reason: BindError,
    mut bind: impl FnMut() -> Result<T, BindError>,
) -> Result<T, BindError> {
    let (mut logged, mut failures, mut pause) = (String::new(), 0_u64, FIRST);
    loop {
        if reason.is_final() {
            return Err(reason);
        }
        failures += 1;
        let text = reason.to_string();
        if text != logged {
            error!(error = text, failures, "The public socket cannot be opened; trying again until it can");
            logged = text;
        }
        sleep(pause).await;
        pause = (pause * 2).min(MOST);
        match bind() {
            Ok(bound) => {
                info!(failures, "The public socket can be opened now");
                return Ok(bound);
            }
            Err(next) => reason = next,
        }
    }
}

const FIRST: Duration = Duration::from_secs(1);
/// The longest pause: short enough for a person who has just removed the obstacle and watches.
const MOST: Duration = Duration::from_secs(30);
