//! Private keys: how they are generated, their certificate signing requests, and the store of the agent's own two keys.

mod agent_key;
mod disk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use config::KeyType;
use identity::{PrivateKey, SpiffeId, X509Svid};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _, SanType, SigningKey};
use zeroize::Zeroize as _;

pub use self::agent_key::{AgentKey, Unusable};
pub use self::disk::Disk;

/// A new key with its certificate signing request. The agent's own key is an [`AgentKey`]; keys of workloads are
/// [`PrivateKey`]s.
#[derive(Debug)]
pub struct Request<K = PrivateKey> {
    /// The private key.
    pub key: K,
    /// The public key, as the content of `subjectPublicKey` in a certificate.
    pub public_key: Vec<u8>,
    /// The certificate signing request (PKCS#10, DER).
    pub csr: Vec<u8>,
}

/// The agent's own SVID. Its key signs, and is never handed out.
pub type AgentSvid = X509Svid<AgentKey>;

/// The agent's own keys. There are two slots, used in turn, so that a new key never replaces the key of the SVID in
/// use.
#[derive(Debug)]
pub struct Keys {
    held: BTreeMap<String, AgentKey>,
    disk: Option<Disk>,
}

/// Why a key cannot be made or stored.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key or its signing request cannot be made.
    #[error("cannot generate a key: {0}")]
    Generate(#[from] rcgen::Error),
    /// The agent's own key cannot be made or exported.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The key manager's folder or file cannot be used.
    #[error("keymanager(disk): {path}: {source}")]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file was not written in time.
    #[error("keymanager(disk): {0} is not written within {limit:?}: does its disk answer?", limit = disk::WRITE_LIMIT)]
    Slow(PathBuf),
    /// `keys.json` is malformed.
    #[error("keymanager(disk): {path} is not a key file: {reason}; move it away to start with new keys")]
    Corrupt {
        /// The path of `keys.json`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Keys {
    /// Keys of `KeyManager "memory"`: none at the start, and a restart loses them.
    #[must_use]
    pub fn memory() -> Self {
        Self { held: BTreeMap::new(), disk: None }
    }

    /// Keys of `KeyManager "disk"`: reads `keys.json` in `directory`.
    ///
    /// # Errors
    /// [`KeyError::Disk`], [`KeyError::Corrupt`].
    pub fn disk(directory: PathBuf) -> Result<Self, KeyError> {
        let (disk, held) = Disk::open(directory)?.load()?;
        Ok(Self { held, disk: Some(disk) })
    }

    /// Reads the keys of `KeyManager "disk"` and changes nothing. Without a file there are none.
    ///
    /// # Errors
    /// [`KeyError::Disk`], [`KeyError::Corrupt`].
    pub(crate) fn peek(directory: &Path) -> Result<Self, KeyError> {
        let (_, held) = Disk::at(directory).load()?;
        Ok(Self { held, disk: None })
    }

    /// Whether the keys are only in memory, so that a restart loses them.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.disk.is_none()
    }

    /// Makes a new P-256 key in the slot that `current` is not in, stores it, and makes the agent's CSR. The CSR has no
    /// SAN, because the server knows who asks (SPIRE, `pkg/common/util/csr.go`).
    ///
    /// # Errors
    /// [`KeyError`], also if the key cannot be stored.
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

    /// The keys that a later process could not read from the disk, by slot. One that cannot be exported is left out.
    #[must_use]
    pub(crate) fn kept(&self) -> Vec<(String, PrivateKey)> {
        if self.disk.is_some() {
            return Vec::new();
        }
        let exported = self.held.iter().map(|(slot, key)| Some((slot.clone(), key.export().ok()?)));
        exported.flatten().collect()
    }

    /// Takes the keys that an earlier process had, if it had them in memory only.
    pub(crate) fn restore(&mut self, kept: &[(String, PrivateKey)]) {
        if self.disk.is_none() {
            let keys = kept.iter().filter_map(|(slot, key)| Some((slot.clone(), AgentKey::import(key)?)));
            self.held.extend(keys);
        }
    }

    /// The key of this certificate (DER), whatever its slot; `None` if no slot has it.
    #[must_use]
    pub fn key_of(&self, certificate: &[u8]) -> Option<AgentKey> {
        self.held.values().find(|key| key.is_of(certificate)).cloned()
    }
}

/// Makes a new key of a workload and its CSR, with the SPIFFE ID as URI SAN if one is given.
///
/// # Errors
/// If the key or the CSR cannot be made.
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

/// The names of the two slots in `keys.json`, as spire-agent has them.
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
