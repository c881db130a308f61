//! Trust bundles: the authorities of a trust domain (SPIFFE Trust Domain and Bundle §4).

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
    /// The trust domain that the authorities belong to.
    pub trust_domain: TrustDomain,
    /// The roots of X.509-SVIDs.
    pub x509_authorities: Vec<Authority>,
    /// The keys of JWT-SVIDs.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// The time between refreshes that the server suggests, in seconds; 0 if it suggests none.
    pub refresh_hint: i64,
    /// A number that grows with each change of the bundle.
    pub sequence_number: u64,
}

/// A root certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The certificate in DER.
    pub der: Bytes,
    /// Whether the operator has declared the authority compromised. What it signed must be replaced.
    pub tainted: bool,
}

/// A public key of JWT-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthority {
    /// The public key in PKIX, DER.
    pub public_key: Bytes,
    /// The `kid` in the header of tokens that it signs.
    pub key_id: String,
    /// When it expires, in Unix seconds; 0 means never.
    pub expires_at: i64,
    /// Whether the operator has declared the key compromised.
    pub tainted: bool,
}

impl Bundle {
    /// Makes a bundle of X.509 authorities alone, none of them tainted.
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

    /// Reads `CERTIFICATE` blocks, as Go's `encoding/pem` finds them. A block of another kind is an error, and so is
    /// a text without any block (SPIRE, `pemutil`).
    ///
    /// # Errors
    /// [`BundleError`]: which block is wrong, and what to do.
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

    /// Reads the X.509 authorities of a SPIFFE bundle (JWKS), as Go's `encoding/json` and `encoding/base64` read it:
    /// names of members may have any case, and base64 may have line breaks. Keys of other uses are skipped (SPIFFE
    /// Trust Domain and Bundle §4.2.2).
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

/// The last member of an object that has this name, in any case.
fn member<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    let members = value.as_object()?.iter();
    members.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, member)| member).next_back()
}

/// `CERTIFICATE` blocks of DER certificates, each ending in a newline.
#[must_use]
pub fn certificates_pem<'a>(ders: impl IntoIterator<Item = &'a Bytes>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    ders.into_iter()
        .map(|der| pem::encode_config(&pem::Pem::new("CERTIFICATE", der.to_vec()), config))
        .collect()
}

/// Why a bundle cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The text has no PEM block.
    #[error("not PEM: expected one or more CERTIFICATE blocks")]
    Pem,
    /// A PEM block is of another kind.
    #[error("unexpected PEM block {0:?}: only CERTIFICATE blocks may be in a trust bundle")]
    Block(String),
    /// The SPIFFE bundle has no X.509 authority.
    #[error("no certificates found")]
    Empty,
    /// The text is not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// The JSON is not a SPIFFE bundle.
    #[error("not a SPIFFE bundle: there is no \"keys\" list (is trust_bundle_format right?)")]
    NoKeys,
    /// A certificate cannot be parsed.
    #[error("certificate is malformed")]
    Certificate,
}

fn certificate(der: Vec<u8>) -> Result<Bytes, BundleError> {
    match X509Certificate::from_der(&der) {
        Ok(([], _)) => Ok(der.into()),
        _ => Err(BundleError::Certificate),
    }
}
