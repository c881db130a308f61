//! Private keys: generating, requests for certificates, and where the agent's own two are kept.

mod agent_key;
mod disk;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use config::KeyType;
use identity::{PrivateKey, SpiffeId, X509Svid};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _, SanType, SigningKey};
use zeroize::Zeroize as _;

pub use self::agent_key::{AgentKey, Unusable};
pub use self::disk::Disk;

/// A fresh key with a request for a certificate of it. The agent's own key is an [`AgentKey`].
#[derive(Debug)]
pub struct Request<K = PrivateKey> {
    /// The key.
    pub key: K,
    /// The content of `subjectPublicKey` in a certificate of this key.
    pub public_key: Vec<u8>,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
}

/// The agent's own SVID: its key signs and is not handed out.
pub type AgentSvid = X509Svid<AgentKey>;

/// The agent's own keys: two slots in turn, so that a new key never replaces the one whose SVID is in use.
#[derive(Debug)]
pub struct Keys {
    held: BTreeMap<String, AgentKey>,
    disk: Option<Disk>,
}

/// Why a key cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The generator failed.
    #[error("cannot generate a key: {0}")]
    Generate(#[from] rcgen::Error),
    /// The agent's own key cannot be made or written.
    #[error(transparent)]
    Unusable(#[from] Unusable),
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
        let (disk, held) = Disk::open(directory)?.load()?;
        Ok(Self { held, disk: Some(disk) })
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
    pub async fn renew(&mut self, current: Option<&AgentKey>) -> Result<Request<AgentKey>, KeyError> {
        let slot = match self.held.get(SLOT_A) {
            Some(key) if current == Some(key) => SLOT_B,
            _ => SLOT_A,
        };
        let key = AgentKey::generate()?;
        let csr = csr(&key, None)?;
        self.held.insert(slot.to_owned(), key.clone());
        if let Some(disk) = &self.disk {
            disk.keep(self.held.clone()).await?;
        }
        Ok(Request { public_key: key.der_bytes().to_vec(), key, csr })
    }

    /// The key whose public half is in this certificate (DER), whatever its slot.
    #[must_use]
    pub fn key_of(&self, certificate: &[u8]) -> Option<AgentKey> {
        self.held.values().find(|key| key.is_of(certificate)).cloned()
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
    let csr = csr(&pair, id)?;
    let key = PrivateKey::from_pkcs8(pair.serialize_der());
    let request = Request { key, public_key: pair.der_bytes().to_vec(), csr };
    pair.zeroize();
    Ok(request)
}

fn csr(key: &impl SigningKey, id: Option<&SpiffeId>) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US");
    params.distinguished_name.push(DnType::OrganizationName, "SPIRE");
    if let Some(id) = id {
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    }
    Ok(params.serialize_request(key)?.der().to_vec())
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
        let second = keys.renew(Some(&first.key)).await.unwrap();
        assert_eq!(keys.held[SLOT_A], first.key);
        assert_eq!(keys.held[SLOT_B], second.key);
        let third = keys.renew(Some(&second.key)).await.unwrap();
        assert_eq!(keys.held[SLOT_A], third.key);
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
