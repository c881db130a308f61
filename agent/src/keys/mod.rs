//! Private keys: generating, requests for certificates, and where the agent's own two are kept.

mod disk;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use config::KeyType;
use identity::{PrivateKey, SpiffeId};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _, SanType};

use zeroize::Zeroize as _;

pub use disk::Disk;

/// A fresh key with a request for a certificate of it.
#[derive(Debug)]
pub struct Request {
    /// The key.
    pub key: PrivateKey,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
}

/// The agent's own keys: two slots in turn, so that a new key never replaces the one whose SVID is in use.
#[derive(Debug)]
pub struct Keys {
    held: BTreeMap<String, PrivateKey>,
    disk: Option<Disk>,
}

/// Why a key cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The generator failed.
    #[error("cannot generate a key: {0}")]
    Generate(#[from] rcgen::Error),
    /// The key manager's folder is not usable.
    #[error("keymanager(disk): {path}: {source}")]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk does not answer.
    #[error("keymanager(disk): {0} is not written within {limit:?}: does its disk answer?", limit = disk::WRITE_LIMIT)]
    Slow(PathBuf),
    /// `keys.json` is not as spire-agent writes it.
    #[error("keymanager(disk): {path} is not a key file: {reason}; move it away to start with new keys")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Keys {
    /// `KeyManager "memory"`.
    #[must_use]
    pub fn memory() -> Self {
        Self { held: BTreeMap::new(), disk: None }
    }

    /// `KeyManager "disk"`.
    ///
    /// # Errors
    /// [`KeyError::Disk`], [`KeyError::Corrupt`].
    pub fn disk(directory: PathBuf) -> Result<Self, KeyError> {
        let disk = Disk::open(directory)?;
        Ok(Self { held: disk.load()?, disk: Some(disk) })
    }

    /// Whether a restart loses the keys.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.disk.is_none()
    }

    /// Makes a P-256 key in the slot that `current` does not stand in, and the agent's CSR: no SAN, the server knows
    /// who asks (SPIRE, `pkg/common/util/csr.go`).
    ///
    /// # Errors
    /// [`KeyError`]; a key that cannot be kept is not used.
    pub async fn renew(&mut self, current: Option<&[u8]>) -> Result<Request, KeyError> {
        let slot = match self.held.get(SLOT_A) {
            Some(key) if current == Some(key.pkcs8()) => SLOT_B,
            _ => SLOT_A,
        };
        let request = request(KeyType::EcP256, None)?;
        self.held.insert(slot.to_owned(), request.key.clone());
        if let Some(disk) = &self.disk {
            disk.keep(self.held.clone()).await?;
        }
        Ok(request)
    }

    /// The key whose public half is in this certificate (DER), whatever its slot.
    #[must_use]
    pub fn key_of(&self, certificate: &[u8]) -> Option<PrivateKey> {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let public = certificate.public_key().raw;
        self.held.values().find(|key| public_key(key).as_deref() == Some(public)).cloned()
    }
}

/// A fresh key and a CSR for it, with the URI SAN of a workload's SPIFFE ID where one is given.
///
/// # Errors
/// The generator's.
pub fn request(key_type: KeyType, id: Option<&SpiffeId>) -> Result<Request, rcgen::Error> {
    let mut pair = match key_type {
        KeyType::EcP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        KeyType::EcP384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)?,
        KeyType::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?,
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    if let Some(id) = id {
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    }
    let csr = params.serialize_request(&pair)?.der().to_vec();
    let request = Request { key: PrivateKey::from_pkcs8(pair.serialize_der()), csr };
    pair.zeroize();
    Ok(request)
}

/// The SubjectPublicKeyInfo (DER) of a key.
fn public_key(key: &PrivateKey) -> Option<Vec<u8>> {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.pkcs8());
    let mut pair = KeyPair::try_from(&der).ok()?;
    let public = pair.subject_public_key_info();
    pair.zeroize();
    Some(public)
}

const SLOT_A: &str = "agent-svid-A";
const SLOT_B: &str = "agent-svid-B";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_in_turn() {
        let mut keys = Keys::memory();
        let first = keys.renew(None).await.unwrap();
        let second = keys.renew(Some(first.key.pkcs8())).await.unwrap();
        assert_eq!(keys.held[SLOT_A].pkcs8(), first.key.pkcs8());
        assert_eq!(keys.held[SLOT_B].pkcs8(), second.key.pkcs8());
        let third = keys.renew(Some(second.key.pkcs8())).await.unwrap();
        assert_eq!(keys.held[SLOT_A].pkcs8(), third.key.pkcs8());
    }

    #[test]
    fn a_request_names_the_workload() {
        let id = SpiffeId::parse("spiffe://td/web").unwrap();
        for key_type in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
            let request = request(key_type, Some(&id)).unwrap();
            let text = String::from_utf8_lossy(&request.csr).into_owned();
            assert!(text.contains("spiffe://td/web") && text.contains("SPIRE"));
        }
    }
}
