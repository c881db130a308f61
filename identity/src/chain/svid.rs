//! Chains of X.509-SVIDs, as go-spiffe's `x509svid.Verify` judges them (X509-SVID §4, §5).

use std::borrow::Cow;
use std::time::SystemTime;

use super::certificate::{Certificate, Malformed};
use super::{ChainError, Purpose, verify_parsed};
use crate::{IdError, SpiffeId, TrustDomain};

/// Verifies an X.509-SVID, leaf first, by the authorities of a trust domain, whatever purpose it is for.
///
/// # Errors
/// [`SvidChainError`].
pub fn verify_svid<'a>(
    chain: impl IntoIterator<Item = &'a [u8]>,
    trust_domain: &TrustDomain,
    authorities: impl IntoIterator<Item = &'a [u8]>,
    now: SystemTime,
) -> Result<SpiffeId, SvidChainError> {
    let chain = chain.into_iter().map(Certificate::parse).collect::<Result<Vec<_>, _>>()?;
    let (leaf, intermediates) = chain.split_first().ok_or(SvidChainError::Empty)?;
    let id = spiffe_id(leaf)?;
    let usage = leaf.extensions.key_usage;
    match leaf.extensions.basic_constraints {
        Some(constraints) if constraints.is_ca => return Err(SvidChainError::Ca),
        _ if usage.cert_sign => return Err(SvidChainError::CertSign),
        _ if usage.crl_sign => return Err(SvidChainError::CrlSign),
        _ => {}
    }
    if !id.is_member_of(trust_domain) {
        return Err(SvidChainError::TrustDomain(id.trust_domain_name().to_owned()));
    }
    verify_parsed(leaf, intermediates, authorities, Purpose::Any, now)?;
    Ok(id)
}

fn spiffe_id(leaf: &Certificate<'_>) -> Result<SpiffeId, SvidChainError> {
    match &leaf.extensions.names.uris[..] {
        [] => Err(SvidChainError::NoUri),
        [uri] => Ok(SpiffeId::parse(&as_written_by_go(uri.text))?),
        _ => Err(SvidChainError::Uris),
    }
}

/// Go reads a URL and writes it again before it looks for a SPIFFE ID: a scheme is then in lower case, and an empty fragment is
/// gone.
fn as_written_by_go(uri: &str) -> Cow<'_, str> {
    let uri = uri.strip_suffix('#').unwrap_or(uri);
    match uri.split_once(':') {
        Some((scheme, rest)) if scheme.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            Cow::Owned(format!("{}:{rest}", scheme.to_ascii_lowercase()))
        }
        _ => Cow::Borrowed(uri),
    }
}

/// Why a chain is not that of an X.509-SVID.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SvidChainError {
    /// No certificate at all.
    #[error("x509svid: empty certificates chain")]
    Empty,
    /// A certificate that cannot be read.
    #[error("x509svid: unable to parse certificate: {0}")]
    Malformed(#[from] Malformed),
    /// The leaf has no SPIFFE ID.
    #[error("x509svid: could not get leaf SPIFFE ID: certificate contains no URI SAN")]
    NoUri,
    /// The leaf has several URIs.
    #[error("x509svid: could not get leaf SPIFFE ID: certificate contains more than one URI SAN")]
    Uris,
    /// The leaf's URI is not a SPIFFE ID.
    #[error("x509svid: could not get leaf SPIFFE ID: {0}")]
    Id(#[from] IdError),
    /// The leaf is a CA.
    #[error("x509svid: leaf certificate with CA flag set to true")]
    Ca,
    /// The leaf may sign certificates.
    #[error("x509svid: leaf certificate with KeyCertSign key usage")]
    CertSign,
    /// The leaf may sign revocation lists.
    #[error("x509svid: leaf certificate with KeyCrlSign key usage")]
    CrlSign,
    /// The leaf is of another trust domain than the authorities.
    #[error("x509svid: could not get X509 bundle: x509bundle: no X.509 bundle found for trust domain: {0:?}")]
    TrustDomain(String),
    /// The chain does not hold.
    #[error("x509svid: could not verify leaf certificate: {0}")]
    Chain(#[from] ChainError),
}

impl SvidChainError {
    /// Whether no authority has signed it; SPIRE asks for this text.
    #[must_use]
    pub fn is_unknown_authority(&self) -> bool {
        matches!(self, Self::Chain(ChainError::UnknownAuthority(_)))
    }
}
