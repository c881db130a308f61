//! A join token, which is a secret: it is zeroized when dropped and never printed.

use std::fmt;

use zeroize::Zeroizing;

/// A join token of the SPIRE server (SPIRE: `agent.join_token`, `agent.join_token_file`).
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken(Zeroizing<String>);

impl JoinToken {
    /// Wraps a token.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    /// The token itself, for the attestation payload.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}
