//! Reasons for which a peer is refused.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use identity::chain::ChainError;
use x509_parser::prelude::{ASN1Time, X509Certificate};

use super::Peer;

/// Why a peer is refused. Problems of the policy itself are [`super::PolicyError`]s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The peer presents no certificate.
    NoCertificate,
    /// A certificate of the chain expired at this time.
    Expired(SystemTime),
    /// A certificate of the chain is not valid before this time.
    NotYet(SystemTime),
    /// No root of the bundle can be used: all have expired, or (SPIFFE validator) none is self-signed.
    NoRoot,
    /// The chain does not lead to a root.
    Chain(ChainError),
    /// The chain is too long.
    Depth {
        /// The number of certificates above the leaf.
        depth: u32,
        /// The policy's `max_verify_depth`.
        most: u32,
    },
    /// The leaf's key usage allows no signature in TLS.
    KeyUsage,
    /// SPIFFE validator: the leaf is a CA certificate, or may sign certificates or CRLs.
    Authority,
    /// SPIFFE validator: the leaf's first URI is not a SPIFFE ID with a path.
    NoSpiffeId,
    /// SPIFFE validator: there is no bundle for the leaf's trust domain.
    OtherTrustDomain {
        /// The leaf's trust domain.
        trust_domain: String,
        /// The trust domains with bundles.
        known: Vec<String>,
    },
    /// No matcher matches any name of the leaf.
    Names,
    /// The leaf is in neither `verify_certificate_hash` nor `verify_certificate_spki`.
    Pins,
    /// The policy has neither roots nor pins.
    NothingToVerify,
}

impl Refusal {
    /// The name of the counter that Envoy increments, below `ssl.`.
    #[must_use]
    pub fn stat(&self) -> &'static str {
        match self {
            Self::NoCertificate => "fail_verify_no_cert",
            Self::Names => "fail_verify_san",
            Self::Pins => "fail_verify_cert_hash",
            _ => "fail_verify_error",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("no certificate"),
            Self::Expired(at) => write!(f, "a certificate of the chain expired at {}", date(*at)),
            Self::NotYet(at) => write!(f, "a certificate of the chain is not valid before {}", date(*at)),
            Self::NoRoot => f.write_str(
                "the bundle has no root that is valid at this time (the SPIFFE validator wants self-signed ones)",
            ),
            Self::Chain(ChainError::UnknownAuthority(_)) => {
                f.write_str("the chain leads to none of the roots (UnknownIssuer)")
            }
            Self::Chain(reason) => write!(f, "the chain does not hold: {reason}"),
            Self::Depth { depth, most } => {
                write!(f, "{depth} certificates above the leaf, and max_verify_depth is {most}")
            }
            Self::KeyUsage => f.write_str("the certificate's key usage allows no signature in TLS"),
            Self::Authority => f.write_str("a CA's certificate is no leaf to the SPIFFE validator"),
            Self::NoSpiffeId => {
                f.write_str("the certificate's first URI is no SPIFFE ID with a path, which the SPIFFE validator needs")
            }
            Self::OtherTrustDomain { trust_domain, known } => {
                write!(f, "the SPIFFE validator has no bundle for trust domain {trust_domain:?}, only for {known:?}")
            }
            Self::Names => f.write_str("no matcher matches a name of the certificate"),
            Self::Pins => f.write_str("neither the certificate nor its key is pinned"),
            Self::NothingToVerify => f.write_str("the policy has no roots and no pins, so nothing can verify a peer"),
        }
    }
}

/// Checks what the SPIFFE validator checks first (X509-SVID §5.2).
pub(super) fn spiffe_leaf(leaf: &X509Certificate<'_>) -> Result<(), Refusal> {
    let usage = leaf.key_usage().ok().flatten();
    let signs = usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    if leaf.is_ca() || signs { Err(Refusal::Authority) } else { Ok(()) }
}

/// Checks the part of BoringSSL's purposes `ssl_client` and `ssl_server` that `identity::chain` does not check.
pub(super) fn key_usage(leaf: &X509Certificate<'_>, peer: Peer) -> Result<(), Refusal> {
    let Some(usage) = leaf.key_usage().ok().flatten() else { return Ok(()) };
    let usage = usage.value;
    let good = usage.digital_signature()
        || usage.key_agreement()
        || peer == Peer::Server && usage.key_encipherment();
    if good { Ok(()) } else { Err(Refusal::KeyUsage) }
}

fn date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| format!("{seconds} s after 1970"), |time| time.to_string())
}
