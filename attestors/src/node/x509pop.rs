//! The `x509pop` attestor: proof that the agent has the key of a certificate (SPIRE, `pkg/common/plugin/x509pop`).
//!
//! The payload is the certificate chain. The server sends a nonce; the response is a nonce of the agent, and a
//! signature of the SHA-256 hash of both.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _};
use futures_util::future::BoxFuture;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{NodeError, SecretBytes};
use crate::file::load_bytes;

/// The `x509pop` attestor.
#[derive(Debug)]
pub struct X509Pop {
    source: Source,
}

enum Source {
    Files { key: PathBuf, certificate: PathBuf, intermediates: Option<PathBuf> },
    Other(Fetch),
}

/// Fetches a chain (DER, leaf first) and its key from another source. The error is the reason in words.
pub type Fetch = Arc<dyn Fn() -> BoxFuture<'static, Result<Credential, String>> + Send + Sync>;

/// A certificate chain and the key of its leaf.
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: SigningKey,
}

/// The key that signs the server's challenge.
pub(super) enum SigningKey {
    Rsa(rsa::KeyPair),
    Ecdsa(EcdsaKeyPair),
    /// A key on P-384. aws-lc signs with it only over SHA-384, so the SHA-256 hash is passed as one of that length.
    EcdsaP384(EcdsaKeyPair),
}

/// Why a chain and a key do not make a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// There is no CERTIFICATE block.
    #[error("failed to find any PEM data in certificate input")]
    NoCertificate,
    /// The first certificate cannot be read.
    #[error("malformed certificate")]
    Certificate,
    /// There is no PRIVATE KEY block.
    #[error("failed to find any private key PEM data in key input")]
    NoKey,
    /// The key is not DER, or neither RSA nor ECDSA on P-256, P-384 or P-521.
    #[error("unsupported private key: use RSA, or ECDSA on P-256, P-384 or P-521")]
    Key,
    /// The key is not that of the first certificate.
    #[error("private key does not match public key")]
    Mismatch,
}

impl X509Pop {
    /// An attestor with `private_key_path`, `certificate_path` and `intermediates_path`.
    #[must_use]
    pub fn files(key: PathBuf, certificate: PathBuf, intermediates: Option<PathBuf>) -> Self {
        Self { source: Source::Files { key, certificate, intermediates } }
    }

    /// An attestor with `spiffe_endpoint_socket`: it presents the SVID that another Workload API provides.
    #[must_use]
    pub fn fetched(fetch: Fetch) -> Self {
        Self { source: Source::Other(fetch) }
    }

    /// Returns the payload, and the key that will sign the challenge.
    pub(super) async fn begin(&self) -> Result<(SecretBytes, SigningKey), NodeError> {
        let credential = match &self.source {
            Source::Files { key, certificate, intermediates } => {
                read(key, certificate, intermediates.as_deref()).await?
            }
            Source::Other(fetch) => fetch().await.map_err(NodeError::WorkloadApi)?,
        };
        let certificates = credential.chain.iter().map(|der| base64(der)).collect();
        let payload = serde_json::to_vec(&Payload { certificates }).expect("texts are JSON");
        Ok((payload.into(), credential.key))
    }
}

impl Credential {
    /// Combines a chain (DER, leaf first) and a key (PKCS#8).
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn new(chain: Vec<Vec<u8>>, pkcs8: &[u8]) -> Result<Self, CredentialError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Self::pair(chain, &PrivatePkcs8KeyDer::from(pkcs8).into())
    }

    fn pair(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, CredentialError> {
        let leaf = chain.first().ok_or(CredentialError::NoCertificate)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| CredentialError::Certificate)?;
        let key = SigningKey::read(key).ok_or(CredentialError::Key)?;
        if leaf.public_key().subject_public_key.data.as_ref() != key.public() {
            return Err(CredentialError::Mismatch);
        }
        Ok(Self { chain, key })
    }
}

/// Reads files as Go's `tls.LoadX509KeyPair` does: every CERTIFICATE block of one file, and the first key of the
/// other.
async fn read(key: &Path, certificate: &Path, intermediates: Option<&Path>) -> Result<Credential, NodeError> {
    let mut chain = certificates(certificate).await?;
    if let Some(path) = intermediates {
        chain.extend(certificates(path).await?);
    }
    let text = load(key).await?;
    let wrong = |source| NodeError::Credential { path: key.to_owned(), source };
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| wrong(CredentialError::NoKey))?;
    Credential::pair(chain, &key).map_err(wrong)
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NodeError> {
    let wrong = |source| NodeError::Credential { path: path.to_owned(), source };
    let text = load(path).await?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|_| wrong(CredentialError::Certificate))?;
    if all.is_empty() { Err(wrong(CredentialError::NoCertificate)) } else { Ok(all) }
}

async fn load(path: &Path) -> Result<SecretBytes, NodeError> {
    let read = load_bytes(path, FILE_BYTES).await;
    read.map_err(|source| NodeError::File { path: path.to_owned(), source })
}

impl SigningKey {
    fn read(key: &PrivateKeyDer<'_>) -> Option<Self> {
        match key {
            PrivateKeyDer::Pkcs1(der) => {
                Some(Self::Rsa(rsa::KeyPair::from_der(der.secret_pkcs1_der()).ok()?))
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                if let Ok(key) = rsa::KeyPair::from_pkcs8(der) {
                    return Some(Self::Rsa(key));
                }
                Self::ecdsa(|curve| EcdsaKeyPair::from_pkcs8(curve, der).ok())
            }
            PrivateKeyDer::Sec1(der) => {
                Self::ecdsa(|curve| EcdsaKeyPair::from_private_key_der(curve, der.secret_sec1_der()).ok())
            }
            _ => None,
        }
    }

    fn ecdsa(read: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>) -> Option<Self> {
        let p384 = || read(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).map(Self::EcdsaP384);
        let others =
            [&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &signature::ECDSA_P521_SHA256_FIXED_SIGNING];
        others.into_iter().find_map(|curve| read(curve).map(Self::Ecdsa)).or_else(p384)
    }

    /// The public key as it is in a certificate: PKCS#1 for RSA, the point for ECDSA.
    fn public(&self) -> &[u8] {
        match self {
            Self::Rsa(key) => key.public_key().as_ref(),
            Self::Ecdsa(key) | Self::EcdsaP384(key) => key.public_key().as_ref(),
        }
    }

    /// The response to the server's challenge.
    pub(super) fn answer(&self, challenge: &[u8]) -> Result<SecretBytes, NodeError> {
        let wrong = |reason| NodeError::Challenge { name: NAME, reason };
        let challenge: Challenge =
            serde_json::from_slice(challenge).map_err(|_| wrong("unable to unmarshal challenge"))?;
        let nonce: [u8; NONCE] = aws_lc_rs_random()?;
        let sign = |asked: Option<Nonce>, kind| {
            let theirs = asked.ok_or_else(|| wrong(kind))?;
            let theirs = decode(&theirs.nonce).filter(|theirs| theirs.len() == NONCE);
            let both = [theirs.ok_or_else(|| wrong("invalid challenge nonce"))?, nonce.to_vec()].concat();
            self.sign(&both).ok_or_else(|| wrong("failed to calculate challenge response"))
        };
        let nonce = base64(&nonce);
        let response = match self {
            Self::Rsa(_) => {
                let signature = base64(&sign(challenge.rsa_signature, "expecting RSA challenge")?);
                Response { rsa_signature: Some(RsaResponse { nonce, signature }), ecdsa_signature: None }
            }
            Self::Ecdsa(_) | Self::EcdsaP384(_) => {
                let signature = sign(challenge.ecdsa_signature, "expecting ECDSA challenge")?;
                let (r, s) = signature.split_at(signature.len() / 2);
                let (r, s) = (base64(r), base64(s));
                Response { rsa_signature: None, ecdsa_signature: Some(EcdsaResponse { nonce, r, s }) }
            }
        };
        Ok(serde_json::to_vec(&response).expect("texts are JSON").into())
    }

    /// Signs the SHA-256 hash of a message. The signature is RSA-PSS, or R and S of ECDSA, each as long as the
    /// curve's order.
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PSS_SHA256, &SystemRandom::new(), message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ecdsa(key) => Some(key.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec()),
            Self::EcdsaP384(key) => {
                // ECDSA signs the hash as a number, and leading zeros do not change a number (FIPS 186-5 §6.4.1).
                let mut padded = [0; 48];
                padded[16..].copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
                let hash = Digest::import_less_safe(&padded, &digest::SHA384).ok()?;
                Some(key.sign_digest(&hash).ok()?.as_ref().to_vec())
            }
        }
    }
}

fn aws_lc_rs_random() -> Result<[u8; NONCE], NodeError> {
    let mut nonce = [0; NONCE];
    let filled = aws_lc_rs::rand::fill(&mut nonce);
    filled.map_err(|_| NodeError::Challenge { name: NAME, reason: "the system has no random numbers" })?;
    Ok(nonce)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[derive(Serialize)]
struct Payload {
    certificates: Vec<String>,
}

#[derive(Deserialize)]
struct Challenge {
    rsa_signature: Option<Nonce>,
    ecdsa_signature: Option<Nonce>,
}

#[derive(Deserialize)]
struct Nonce {
    nonce: String,
}

#[derive(Serialize)]
struct Response {
    rsa_signature: Option<RsaResponse>,
    ecdsa_signature: Option<EcdsaResponse>,
}

#[derive(Serialize)]
struct RsaResponse {
    nonce: String,
    signature: String,
}

#[derive(Serialize)]
struct EcdsaResponse {
    nonce: String,
    r: String,
    s: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { key, certificate, intermediates } => f
                .debug_struct("Files")
                .field("key", key)
                .field("certificate", certificate)
                .field("intermediates", intermediates)
                .finish(),
            Self::Other(_) => f.write_str("Other"),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({} certificates)", self.chain.len())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

pub(super) const NAME: &str = "x509pop";
const NONCE: usize = 32;
/// The most bytes that are read of a file: hundreds of certificates.
const FILE_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
