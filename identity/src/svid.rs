//! X.509-SVIDs (X509-SVID §2–§5).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::certificates_pem;
use crate::{IdError, PrivateKey, SpiffeId};

/// An X.509-SVID: a certificate chain, the leaf's key, and facts that were read from the leaf. A workload's key is handed out.
/// The agent's own key is of another type, which only signs.
#[derive(Debug, Clone)]
pub struct X509Svid<K = PrivateKey> {
    /// The leaf's SPIFFE ID.
    pub id: SpiffeId,
    /// The certificates in DER, leaf first, without the root.
    pub chain: Vec<Bytes>,
    /// The private key of the leaf.
    pub key: K,
    /// The time from which the leaf is valid.
    pub not_before: SystemTime,
    /// The time at which the leaf expires.
    pub not_after: SystemTime,
    /// The leaf's serial number in lower-case hexadecimal.
    pub serial: String,
}

impl<K> X509Svid<K> {
    /// Parses a chain from the server. The leaf must have exactly one URI SAN, which is a SPIFFE ID (X509-SVID §2).
    /// The caller provides the key that belongs to it.
    ///
    /// # Errors
    /// [`SvidError`], which has one variant for each rule.
    pub fn new(chain: Vec<Bytes>, key: K) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::Empty)?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| SvidError::Malformed)?;
        let id = spiffe_id(&certificate)?;
        let validity = certificate.validity();
        let not_before = time(validity.not_before.timestamp());
        let not_after = time(validity.not_after.timestamp());
        let serial = certificate.tbs_certificate.serial.to_str_radix(16);
        for issuer in &chain[1..] {
            X509Certificate::from_der(issuer).map_err(|_| SvidError::Malformed)?;
        }
        Ok(Self { id, not_before, not_after, serial, chain, key })
    }

    /// The chain as concatenated DER (Workload API §5.2.1).
    #[must_use]
    pub fn chain_der(&self) -> Bytes {
        match &self.chain[..] {
            [leaf] => leaf.clone(),
            chain => chain.concat().into(),
        }
    }

    /// The chain as PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        certificates_pem(&self.chain)
    }

    /// Whether the leaf has expired.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }
}

impl X509Svid {
    /// The SPIFFE ID of a leaf certificate (DER).
    ///
    /// # Errors
    /// [`SvidError::Malformed`], [`SvidError::UriSans`] or [`SvidError::Id`].
    pub fn leaf_id(der: &[u8]) -> Result<SpiffeId, SvidError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| SvidError::Malformed)?;
        spiffe_id(&certificate)
    }
}

/// Why a chain is not an X.509-SVID.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SvidError {
    /// The chain has no certificate.
    #[error("certificate chain is empty")]
    Empty,
    /// A certificate of the chain cannot be parsed.
    #[error("certificate is malformed")]
    Malformed,
    /// The leaf has another number of URI SANs than one (X509-SVID §2).
    #[error("certificate has {0} URI SANs, must have exactly one")]
    UriSans(usize),
    /// The URI SAN is not a SPIFFE ID.
    #[error("certificate's SPIFFE ID is malformed: {0}")]
    Id(#[from] IdError),
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let names = certificate.subject_alternative_name().map_err(|_| SvidError::Malformed)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|san| &san.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let [uri] = uris[..] else { return Err(SvidError::UriSans(uris.len())) };
    Ok(SpiffeId::parse(uri)?)
}

/// Converts a certificate's time. Times before 1970 count as 1970.
fn time(unix_seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_seconds.try_into().unwrap_or(0))
}
