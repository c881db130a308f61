//! Node attestors: what the agent presents to the server to prove which node it runs on.
//!
//! The configuration determines the [`Attestor`]. Each attestation is a [`Conversation`] of its own: the payload
//! opens it, and the server may send any number of challenges. Only this module distinguishes between attestors; what
//! the agent must know about one is a method.

mod http_challenge;
mod join_token;
mod k8s_psat;
mod x509pop;

use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

pub use http_challenge::HttpChallenge;
pub use join_token::JoinToken;
pub use k8s_psat::K8sPsat;
pub use x509pop::{Credential, CredentialError, Fetch, X509Pop};

use self::http_challenge::NonceServer;
use self::x509pop::SigningKey;

/// Bytes that are sent to the server. They may be a secret, so they are zeroized when dropped.
pub type SecretBytes = Zeroizing<Vec<u8>>;

/// The configured node attestor.
#[derive(Debug)]
pub struct Attestor(Kind);

#[derive(Debug)]
enum Kind {
    HttpChallenge(HttpChallenge),
    JoinToken(JoinToken),
    K8sPsat(K8sPsat),
    X509Pop(X509Pop),
}

impl Attestor {
    /// The plugin's name, which is also the type of the attestation data.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.0 {
            Kind::HttpChallenge(_) => http_challenge::NAME,
            Kind::JoinToken(_) => "join_token",
            Kind::K8sPsat(_) => "k8s_psat",
            Kind::X509Pop(_) => x509pop::NAME,
        }
    }

    /// Whether its payload is used up by one attestation, so that the server's refusal is final.
    #[must_use]
    pub fn works_once(&self) -> bool {
        match &self.0 {
            Kind::JoinToken(_) => true,
            Kind::HttpChallenge(_) | Kind::K8sPsat(_) | Kind::X509Pop(_) => false,
        }
    }

    /// Begins an attestation. Files are read again each time.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn begin(&self) -> Result<Conversation, NodeError> {
        let (payload, next) = match &self.0 {
            Kind::HttpChallenge(challenge) => {
                let (payload, server) = challenge.begin()?;
                (payload, Next::Publish(server))
            }
            Kind::JoinToken(token) => (token.begin()?, Next::Nothing),
            Kind::K8sPsat(psat) => (psat.begin().await?, Next::Nothing),
            Kind::X509Pop(pop) => {
                let (payload, key) = pop.begin().await?;
                (payload, Next::Sign(Box::new(key)))
            }
        };
        Ok(Conversation { name: self.name(), payload, next })
    }
}

impl From<HttpChallenge> for Attestor {
    fn from(challenge: HttpChallenge) -> Self {
        Self(Kind::HttpChallenge(challenge))
    }
}

impl From<JoinToken> for Attestor {
    fn from(token: JoinToken) -> Self {
        Self(Kind::JoinToken(token))
    }
}

impl From<K8sPsat> for Attestor {
    fn from(psat: K8sPsat) -> Self {
        Self(Kind::K8sPsat(psat))
    }
}

impl From<X509Pop> for Attestor {
    fn from(pop: X509Pop) -> Self {
        Self(Kind::X509Pop(pop))
    }
}

/// One attestation, from the payload to the server's verdict. The key that signs a challenge and the listener that
/// publishes one live as long as it: the caller keeps it until the verdict.
#[derive(Debug)]
pub struct Conversation {
    name: &'static str,
    payload: SecretBytes,
    next: Next,
}

/// How the next challenge is answered.
#[derive(Debug)]
enum Next {
    /// No challenge is expected.
    Nothing,
    /// With a signature by this key.
    Sign(Box<SigningKey>),
    /// By publishing its nonce.
    Publish(NonceServer),
    /// No further challenge is expected, and the nonce stays published until the verdict.
    Published { _server: NonceServer },
}

impl Conversation {
    /// Takes the payload, which opens the conversation. It is empty if it was taken before.
    pub fn payload(&mut self) -> SecretBytes {
        std::mem::take(&mut self.payload)
    }

    /// Returns the response to the server's next challenge.
    ///
    /// # Errors
    /// [`NodeError::UnexpectedChallenge`] if the attestor expects no (further) challenge; [`NodeError::Challenge`] if
    /// it cannot be answered.
    pub async fn answer(&mut self, challenge: &[u8]) -> Result<SecretBytes, NodeError> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing | Next::Published { .. } => Err(NodeError::UnexpectedChallenge(self.name)),
            Next::Publish(server) => {
                let response = server.publish(challenge)?;
                self.next = Next::Published { _server: server };
                Ok(response)
            }
            // An RSA signature takes a millisecond, which must not block a thread that serves callers.
            Next::Sign(key) => {
                let challenge = challenge.to_vec();
                let signed = tokio::task::spawn_blocking(move || key.answer(&challenge)).await;
                signed.unwrap_or(Err(NodeError::Challenge { name: self.name, reason: "signing has failed" }))
            }
        }
    }
}

/// Why an attestation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The attestor is `join_token`, and there is no token.
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
    /// A file of `x509pop` cannot be read (yet).
    #[error("nodeattestor(x509pop): unable to load keypair: {path}: {source}")]
    File {
        /// `private_key_path`, `certificate_path` or `intermediates_path`.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The files of `x509pop` are not a certificate with its key.
    #[error("nodeattestor(x509pop): unable to load keypair: {path}: {source}")]
    Credential {
        /// The file that is wrong, as far as that can be told.
        path: PathBuf,
        /// What is wrong with it.
        source: CredentialError,
    },
    /// The Workload API at `spiffe_endpoint_socket` gives no SVID.
    #[error("nodeattestor(x509pop): unable to fetch SVID from workload API: {0}")]
    WorkloadApi(String),
    /// The port on which `http_challenge` would publish the nonce cannot be had (yet).
    #[error("nodeattestor(http_challenge): could not listen on port {port}: {source}")]
    Listen {
        /// The configured port.
        port: u16,
        /// The system's reason.
        source: io::Error,
    },
    /// The challenge cannot be answered.
    #[error("nodeattestor({name}): {reason}")]
    Challenge {
        /// The plugin's name, such as `x509pop`.
        name: &'static str,
        /// Why it cannot be answered.
        reason: &'static str,
    },
    /// The server sent a challenge that the attestor does not expect.
    #[error("nodeattestor({0}): unexpected challenge from the server")]
    UnexpectedChallenge(&'static str),
}

impl NodeError {
    /// Whether trying again is useless until the operator provides something.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NoToken)
    }
}
