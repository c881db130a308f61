//! What a failed call says of the server.

use std::time::Duration;

/// Why a call failed, as far as it decides when the next one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it was.
    pub cause: Cause,
    /// The wait that the server asks for.
    pub asked: Option<Duration>,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There is no connection.
    Away,
    /// The server has too much to do (ResourceExhausted).
    Busy,
    /// Anything else.
    Other,
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self { cause, asked: None }
    }
}
