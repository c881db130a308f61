//! Trust bundles (SPIFFE Trust Domain and Bundle §4).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::TrustDomain;
use crate::blocks::blocks;

/// The bundles that an agent knows, by trust domain.
pub type Bundles = BTreeMap<TrustDomain, Arc<Bundle>>;

/// The authorities of one trust domain. Tainted ones stay in it until the server removes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose it is.
    pub trust_domain: TrustDomain,
    /// The roots of X.509-SVIDs.
    pub x509_authorities: Vec<Authority>,
    /// The keys of JWT-SVIDs.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// Seconds between refreshes that the server suggests.
    pub refresh_hint: i64,
    /// Raised with each change.
    pub sequence_number: u64,
}

/// A root certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// DER.
    pub der: Bytes,
    /// The operator has declared it compromised; what it signed is to be replaced.
    pub tainted: bool,
}

/// A public key of JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    /// PKIX, DER.
    pub public_key: Bytes,
    /// The `kid` of tokens that it signed.
    pub key_id: String,
    /// Unix seconds; 0 for never.
    pub expires_at: i64,
    /// As [`Authority::tainted`].
    pub tainted: bool,
}

impl Bundle {
    /// A bundle of X.509 authorities alone.
    #[must_use]
    pub fn of_x509(trust_domain: TrustDomain, ders: impl IntoIterator<Item = Bytes>) -> Self {
        let x509_authorities = ders.into_iter().map(|der| Authority { der, tainted: false }).collect();
        Self {
            trust_domain,
            x509_authorities,
            jwt_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number: 0,
        }
    }

    /// Reads `CERTIFICATE` blocks, as Go's `encoding/pem` finds them. Any other block is an error, and so is none (SPIRE,
    /// `pemutil`).
    ///
    /// # Errors
    /// [`BundleError`], saying which block and what to do.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        let mut ders = Vec::new();
        for block in blocks(text) {
            if block.kind != "CERTIFICATE" {
                return Err(BundleError::Block(block.kind));
            }
            ders.push(certificate(block.content)?);
        }
        if ders.is_empty() {
            return Err(BundleError::Pem);
        }
        Ok(Self::of_x509(trust_domain, ders))
    }

    /// Reads a SPIFFE bundle (JWKS) for its X.509 authorities, as Go's `encoding/json` and `encoding/base64` read one: names of
    /// members in any case, line breaks within base64. Keys of other uses are skipped (§4.2.2 there).
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn from_spiffe_json(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        let document: serde_json::Value =
            serde_json::from_slice(text).map_err(|e| BundleError::Json(e.to_string()))?;
        let keys = member(&document, "keys").and_then(|keys| keys.as_array()).ok_or(BundleError::NoKeys)?;
        let mut ders = Vec::new();
        for key in keys.iter().filter(|key| member(key, "use").and_then(|u| u.as_str()) == Some("x509-svid"))
        {
            let Some(x5c) = member(key, "x5c").and_then(|list| list.get(0)).and_then(|value| value.as_str())
            else {
                continue;
            };
            let x5c: String = x5c.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
            ders.push(certificate(STANDARD.decode(x5c).map_err(|_| BundleError::Certificate)?)?);
        }
        if ders.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self::of_x509(trust_domain, ders))
    }

    /// The X.509 authorities as concatenated DER (Workload API §5.2.1).
    #[must_use]
    pub fn x509_der(&self) -> Vec<u8> {
        self.x509_authorities.iter().flat_map(|authority| authority.der.iter().copied()).collect()
    }

    /// The X.509 authorities as PEM.
    #[must_use]
    pub fn x509_pem(&self) -> String {
        certificates_pem(self.x509_authorities.iter().map(|authority| &authority.der))
    }
}

/// The last member of an object with this name, in whatever case it is written.
fn member<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    let members = value.as_object()?.iter();
    members.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, member)| member).next_back()
}

/// `CERTIFICATE` blocks of DER certificates, each ending in a newline.
pub(crate) fn certificates_pem<'a>(ders: impl IntoIterator<Item = &'a Bytes>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    ders.into_iter()
        .map(|der| pem::encode_config(&pem::Pem::new("CERTIFICATE", der.to_vec()), config))
        .collect()
}

/// Why a bundle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not PEM.
    #[error("not PEM: expected one or more CERTIFICATE blocks")]
    Pem,
    /// A block of another kind.
    #[error("unexpected PEM block {0:?}: only CERTIFICATE blocks may be in a trust bundle")]
    Block(String),
    /// JSON without an X.509 authority.
    #[error("no certificates found")]
    Empty,
    /// Not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// JSON, but not a SPIFFE bundle.
    #[error("not a SPIFFE bundle: there is no \"keys\" list (is trust_bundle_format right?)")]
    NoKeys,
    /// A certificate that cannot be read.
    #[error("certificate is malformed")]
    Certificate,
}

fn certificate(der: Vec<u8>) -> Result<Bytes, BundleError> {
    match X509Certificate::from_der(&der) {
        Ok(([], _)) => Ok(der.into()),
        _ => Err(BundleError::Certificate),
    }
}
