//! Reads certificate signing requests. The server uses only their key.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

/// Why a request is refused. The server's API adds its own words before the text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("{0}")]
    Malformed(String),
    #[error("{0}")]
    Signature(String),
}

/// The public key of a request. Its signature must be by this key.
pub(crate) fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    let malformed = |error: &dyn std::fmt::Display| CsrError::Malformed(error.to_string());
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|error| malformed(&error))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("x509: trailing data".to_owned()));
    }
    csr.verify_signature().map_err(|error| CsrError::Signature(error.to_string()))?;
    SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
        .map_err(|error| malformed(&error))
}
