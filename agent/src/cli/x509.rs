//! X.509-SVIDs from the Workload API, taken apart and verified as a workload should (X509-SVID §5).

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use identity::chain::{SvidChainError, verify_svid};
use identity::{PrivateKey, SpiffeId, TrustDomain};
use proto::workload::{X509svid, X509svidResponse};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What the agent sent, parsed.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) svids: Vec<Svid>,
    /// By the trust domain's SPIFFE ID.
    pub(super) federated: BTreeMap<String, Vec<Certificate>>,
}

/// One of them, with the bundle that vouches for it.
#[derive(Debug)]
pub(super) struct Svid {
    pub(super) id: String,
    pub(super) hint: String,
    /// Leaf first; there is one.
    pub(super) chain: Vec<Certificate>,
    pub(super) key: PrivateKey,
    pub(super) bundle: Vec<Certificate>,
}

/// What is shown of a certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    pub(super) der: Bytes,
    pub(super) not_before: OffsetDateTime,
    pub(super) not_after: OffsetDateTime,
}

impl Fetched {
    /// Reads an answer.
    ///
    /// # Errors
    /// When a part of it cannot be read. A chain that does not verify can be: see [`Fetched::verify`].
    pub(super) fn parse(response: &X509svidResponse) -> Result<Self, X509Error> {
        if response.svids.is_empty() {
            return Err(X509Error::NoSvids);
        }
        let mut federated = BTreeMap::new();
        for (id, ders) in &response.federated_bundles {
            let bundle =
                certificates(ders).map_err(|reason| X509Error::Federated { id: id.clone(), reason })?;
            if bundle.is_empty() {
                return Err(X509Error::FederatedEmpty(id.clone()));
            }
            federated.insert(id.clone(), bundle);
        }
        let svids = response.svids.iter().enumerate().map(|(index, svid)| {
            Svid::parse(svid).map_err(|reason| X509Error::Svid { index, id: svid.spiffe_id.clone(), reason })
        });
        Ok(Self { svids: svids.collect::<Result<_, _>>()?, federated })
    }

    /// Verifies each chain by its bundle.
    ///
    /// # Errors
    /// At the first that does not hold.
    pub(super) fn verify(&self, now: SystemTime) -> Result<(), X509Error> {
        self.svids.iter().try_for_each(|svid| svid.verify(now))
    }
}

impl Svid {
    fn parse(svid: &X509svid) -> Result<Self, PartError> {
        let chain = certificates(&svid.x509_svid)?;
        if chain.is_empty() {
            return Err(PartError::NoCertificates);
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&svid.x509_svid_key[..]));
        any_supported_type(&key).map_err(PartError::Key)?;
        let bundle = certificates(&svid.bundle).map_err(|_| PartError::Bundle)?;
        if bundle.is_empty() {
            return Err(PartError::EmptyBundle);
        }
        let key = PrivateKey::from_pkcs8(svid.x509_svid_key.to_vec());
        Ok(Self { id: svid.spiffe_id.clone(), hint: svid.hint.clone(), chain, key, bundle })
    }

    fn verify(&self, now: SystemTime) -> Result<(), X509Error> {
        let id = SpiffeId::parse(&self.id)?;
        let trust_domain = TrustDomain::parse(id.trust_domain_name())?;
        let (chain, bundle) = (self.chain.iter().map(der), self.bundle.iter().map(der));
        let verified = verify_svid(chain, &trust_domain, bundle, now);
        verified.map(drop).map_err(|reason| X509Error::Unverified { id: self.id.clone(), reason })
    }
}

fn der(certificate: &Certificate) -> &[u8] {
    &certificate.der
}

/// Concatenated DER, as the Workload API has it (Workload API §5.2.1).
fn certificates(ders: &Bytes) -> Result<Vec<Certificate>, PartError> {
    let mut certificates = Vec::new();
    let mut rest: &[u8] = ders;
    while !rest.is_empty() {
        let (after, certificate) = X509Certificate::from_der(rest).map_err(|_| PartError::Certificate)?;
        let der = ders.slice_ref(&rest[..rest.len() - after.len()]);
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        certificates.push(Certificate { der, not_before, not_after });
        rest = after;
    }
    Ok(certificates)
}

/// Why an answer cannot be used, in spire-agent's words.
#[derive(Debug, thiserror::Error)]
pub(super) enum X509Error {
    #[error("workload response contains no svids")]
    NoSvids,
    #[error("failed to parse bundle for federated domain {id:?}: {reason}")]
    Federated { id: String, reason: PartError },
    #[error("no certificates in bundle for federated domain {0:?}")]
    FederatedEmpty(String),
    #[error("failed to parse svid entry {index} for spiffe id {id:?}: {reason}")]
    Svid { index: usize, id: String, reason: PartError },
    #[error(transparent)]
    Id(#[from] identity::IdError),
    #[error("{id:?} SVID failed verification against bundle: {reason}")]
    Unverified { id: String, reason: SvidChainError },
}

/// What is wrong with a part of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    #[error("x509: malformed certificate")]
    Certificate,
    #[error("no certificates found")]
    NoCertificates,
    #[error("failed to parse private key: {0}")]
    Key(rustls::Error),
    #[error("failed to parse trust bundle: x509: malformed certificate")]
    Bundle,
    #[error("no certificates in trust bundle")]
    EmptyBundle,
}

#[cfg(test)]
mod tests;
