//! Which program this is.

/// The release of spire-agent that this one stands in for.
pub const SPIRE: &str = "1.15.3";

/// What the server is told: spire-agent's release, and ours after a plus (SemVer build metadata).
#[must_use]
pub fn compatible() -> String {
    format!("{SPIRE}+finial.{}", env!("CARGO_PKG_VERSION"))
}

/// What `-version` prints: scripts read the first word.
#[must_use]
pub fn line() -> String {
    format!("{SPIRE} (finial {})", env!("CARGO_PKG_VERSION"))
}
