//! Faults of the server, for tests.

use std::time::Duration;

/// A fault of the server. It has one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// The server works.
    #[default]
    None,
    /// The listener is closed and every connection is cut. Afterwards the server listens on the same port again.
    Down,
    /// Every call is delayed by this time.
    Slow(Duration),
    /// TCP connections are accepted, but nothing is answered, on existing connections neither.
    BlackHole,
    /// The authorized entries include two malformed ones: one without selectors, one without a valid SPIFFE ID.
    OneBadEntry,
    /// The certificate of new connections is signed by the right authority but has another SPIFFE ID.
    WrongServerId,
    /// No X.509-SVID of a workload is signed; every other call works.
    RefuseToSign,
}
