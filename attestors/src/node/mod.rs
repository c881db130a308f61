//! Node attestors: what the agent shows the server to prove which node it is on.
//!
//! An [`Attestor`] is chosen once, when the configuration is read. Each attestation is a [`Conversation`] of its own: the
//! payload opens it, and the server may ask back as often as its plugin likes. Nobody outside of this module asks which
//! attestor it is; what the agent must know of one is a method.

mod join_token;
mod k8s_psat;
mod x509pop;

use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

pub use join_token::JoinToken;
pub use k8s_psat::K8sPsat;
pub use x509pop::{Credential, CredentialError, Fetch, X509Pop};

use self::x509pop::SigningKey;

/// What is shown to the server: most likely a secret, so it is zeroized when dropped.
pub type Shown = Zeroizing<Vec<u8>>;

/// The configured attestor.
#[derive(Debug)]
pub struct Attestor(Kind);

#[derive(Debug)]
enum Kind {
    JoinToken(JoinToken),
    K8sPsat(K8sPsat),
    X509Pop(X509Pop),
}

impl Attestor {
    /// The plugin's name; the type of the attestation data.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.0 {
            Kind::JoinToken(_) => "join_token",
            Kind::K8sPsat(_) => "k8s_psat",
            Kind::X509Pop(_) => x509pop::NAME,
        }
    }

    /// Whether what it shows is spent after one attestation, so that a server's refusal stands for good.
    #[must_use]
    pub fn works_once(&self) -> bool {
        match &self.0 {
            Kind::JoinToken(_) => true,
            Kind::K8sPsat(_) | Kind::X509Pop(_) => false,
        }
    }

    /// Begins an attestation; files are read anew each time.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn begin(&self) -> Result<Conversation, NodeError> {
        let (payload, next) = match &self.0 {
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

/// One attestation, from its payload to the server's verdict. Whatever it keeps for that goes when it is dropped.
#[derive(Debug)]
pub struct Conversation {
    name: &'static str,
    payload: Shown,
    next: Next,
}

/// How the next challenge is answered.
#[derive(Debug)]
enum Next {
    /// None is expected.
    Nothing,
    /// By a signature.
    Sign(Box<SigningKey>),
}

impl Conversation {
    /// What opens it; empty when it was taken before.
    pub fn payload(&mut self) -> Shown {
        std::mem::take(&mut self.payload)
    }

    /// The answer to the server's next challenge.
    ///
    /// # Errors
    /// [`NodeError::UnexpectedChallenge`] where the plugin asks nothing back.
    pub async fn answer(&mut self, challenge: &[u8]) -> Result<Shown, NodeError> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Nothing => Err(NodeError::UnexpectedChallenge(self.name)),
            // An RSA signature takes a millisecond: it must not be one of the thread that serves.
            Next::Sign(key) => {
                let challenge = challenge.to_vec();
                let signed = tokio::task::spawn_blocking(move || key.answer(&challenge)).await;
                signed.unwrap_or(Err(NodeError::Challenge { name: self.name, reason: "signing has failed" }))
            }
        }
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
    /// A file of `x509pop` cannot be read (yet).
    #[error("nodeattestor(x509pop): unable to load keypair: {path}: {source}")]
    File {
        /// `private_key_path`, `certificate_path` or `intermediates_path`.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What `x509pop` is to show is not a certificate with its key.
    #[error("nodeattestor(x509pop): unable to load keypair: {path}: {source}")]
    Credential {
        /// The file that is wrong, as far as one can tell.
        path: PathBuf,
        /// What is wrong.
        source: CredentialError,
    },
    /// The Workload API of `spiffe_endpoint_socket` gives no SVID.
    #[error("nodeattestor(x509pop): unable to fetch SVID from workload API: {0}")]
    WorkloadApi(String),
    /// The challenge cannot be answered.
    #[error("nodeattestor({name}): {reason}")]
    Challenge {
        /// The plugin's name, such as `x509pop`.
        name: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// The server asked something back.
    #[error("nodeattestor({0}): unexpected challenge from the server")]
    UnexpectedChallenge(&'static str),
}

impl NodeError {
    /// Whether trying again cannot help: the operator has to give something first.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NoToken)
    }
}
