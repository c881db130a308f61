//! The `join_token` attestor: the bytes of the token are the payload.

use std::fmt;

use zeroize::Zeroizing;

use super::NodeError;

/// A single-use token.
pub struct JoinToken(Zeroizing<String>);

impl JoinToken {
    /// Takes the token. An empty one is an error when attestation begins.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    pub(super) fn begin(&self) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        if self.0.is_empty() {
            return Err(NodeError::NoToken);
        }
        Ok(Zeroizing::new(self.0.as_bytes().to_vec()))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}
