//! Node attestors: what the agent shows the server to prove which node it is on.

mod join_token;
mod k8s_psat;

use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

pub use join_token::JoinToken;
pub use k8s_psat::K8sPsat;

/// One configured attestor.
#[derive(Debug)]
pub enum Attestor {
    /// `join_token`: a single-use token.
    JoinToken(JoinToken),
    /// `k8s_psat`: a projected service account token.
    K8sPsat(K8sPsat),
}

impl Attestor {
    /// The plugin's name; the type of the attestation data.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::JoinToken(_) => "join_token",
            Self::K8sPsat(_) => "k8s_psat",
        }
    }

    /// What opens the attestation; files are read anew each time.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn payload(&self) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        match self {
            Self::JoinToken(token) => token.payload(),
            Self::K8sPsat(psat) => psat.payload(),
        }
    }

    /// The answer to a challenge.
    ///
    /// # Errors
    /// [`NodeError::UnexpectedChallenge`]: neither attestor knows one.
    pub fn answer(&self, _challenge: &[u8]) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        Err(NodeError::UnexpectedChallenge(self.name()))
    }
}

/// Why nothing can be shown to the server.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// `join_token` without a token.
    #[error("nodeattestor(join_token): join token was not provided: set join_token or join_token_file")]
    NoToken,
    /// The projected token cannot be read (yet).
    #[error("nodeattestor(k8s_psat): unable to load token from {path}: {source}")]
    Unreadable {
        /// `token_path`.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The projected token is empty.
    #[error("nodeattestor(k8s_psat): unable to load token from {0}: the file is empty")]
    Empty(PathBuf),
    /// The server asked something back.
    #[error("nodeattestor({0}): unexpected challenge from the server")]
    UnexpectedChallenge(&'static str),
}
