//! What can be wrong with the server.

use std::time::Duration;

/// A way for the server to misbehave; one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It works.
    #[default]
    None,
    /// The listener is closed and every connection is cut. The port stays the same afterwards.
    Down,
    /// Every call waits so long before it is answered.
    Slow(Duration),
    /// TCP connections are accepted and nothing is ever answered, on existing connections neither.
    BlackHole,
    /// Two malformed entries (no selectors; no valid SPIFFE ID) are among the authorised ones.
    OneBadEntry,
    /// New connections see a certificate of the right authority with another SPIFFE ID.
    WrongServerId,
}
