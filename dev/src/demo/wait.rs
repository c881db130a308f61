//! Polls for a condition.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;

/// Calls `probe` every 100 ms until it returns a value. Returns `None` after `limit`.
///
/// # Errors
/// The first error of `probe`.
pub(crate) async fn until<T>(
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await? {
            return Ok(Some(found));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
