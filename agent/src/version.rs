//! The version strings that the agent reports.

/// The spire-agent release that this agent replaces.
pub const SPIRE: &str = "1.15.3";

/// The version that the agent reports to the server: spire-agent's release, then ours as SemVer build metadata after a
/// plus.
#[must_use]
pub fn compatible() -> String {
    format!("{SPIRE}+finial.{}", env!("CARGO_PKG_VERSION"))
}

/// Finial's own version.
#[must_use]
pub fn own() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// The output of `-version`. It begins with spire-agent's release because scripts read the first word.
#[must_use]
pub fn line() -> String {
    format!("{SPIRE} (finial {})", env!("CARGO_PKG_VERSION"))
}
