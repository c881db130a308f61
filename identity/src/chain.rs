//! Verification of certificate chains by the rules of Go's crypto/x509 and of go-spiffe, which SPIRE's programs use: what they
//! accept is accepted, what they refuse is refused, with their words (`testdata/chains.json` is the table that says so).
//!
//! - `certificate`, `extensions`, `names`: what is read, and what cannot be (`der` is the reader);
//! - `search`: the ways from a leaf to an anchor; `signature`: who has signed whom;
//! - `policies`, `constraints`: what a whole chain must keep to;
//! - `svid`: what an X.509-SVID must be besides (X509-SVID §5);
//! - `host`: which hosts a certificate is for; `handshake`: what its key has signed in TLS;
//! - `jwk`: a public key as a JSON Web Key; `jws`: whether it has signed a token.
//!
//! Rules that differ from other verifiers: an anchor counts with its times, its constraints and its purposes; an anchor of
//! version 1 may sign; a critical `certificatePolicies` is understood; SHA-1 is refused, but nobody looks at the signature of an
//! anchor; a search ends after a hundred signatures.

mod certificate;
mod constraints;
mod der;
mod extensions;
mod handshake;
mod host;
mod jwk;
mod jws;
mod names;
mod policies;
mod search;
mod signature;
mod svid;

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use certificate::Malformed;
pub use constraints::NameRefusal;
pub use handshake::{HandshakeError, Tls, verify_handshake};
pub use host::{HostError, verify_host};
pub(crate) use jwk::Jwk;
pub(crate) use jws::{JwsAlgorithm, is_public_key};
pub(crate) use signature::Curve;
pub use signature::SignatureError;
pub use svid::{SvidChainError, verify_svid};

use certificate::Certificate;
use search::Search;

/// What a chain is to be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Whatever its certificates are for.
    Any,
    /// TLS servers.
    Server,
    /// TLS clients.
    Client,
    /// TLS servers or TLS clients.
    ServerOrClient,
}

/// Verifies that a leaf chains up to one of the anchors, through certificates that may stand in any order. All are DER. An
/// anchor that cannot be read is left out. Names and keys of the leaf are the caller's matter.
///
/// # Errors
/// [`ChainError`].
pub fn verify<'a>(
    leaf: &'a [u8],
    intermediates: impl IntoIterator<Item = &'a [u8]>,
    anchors: impl IntoIterator<Item = &'a [u8]>,
    purpose: Purpose,
    now: SystemTime,
) -> Result<(), ChainError> {
    lengths(leaf, intermediates, anchors, purpose, now).map(drop)
}

/// The same, and how many certificates each chain that will do has, leaf and anchor included.
///
/// # Errors
/// [`ChainError`].
pub fn lengths<'a>(
    leaf: &'a [u8],
    intermediates: impl IntoIterator<Item = &'a [u8]>,
    anchors: impl IntoIterator<Item = &'a [u8]>,
    purpose: Purpose,
    now: SystemTime,
) -> Result<Vec<usize>, ChainError> {
    let leaf = Certificate::parse(leaf)?;
    let intermediates = intermediates.into_iter().map(Certificate::parse).collect::<Result<Vec<_>, _>>()?;
    verify_parsed(&leaf, &intermediates, anchors, purpose, now)
}

/// Whether these bytes are a certificate that Go can read.
pub(crate) fn is_certificate(der: &[u8]) -> bool {
    Certificate::parse(der).is_ok()
}

fn verify_parsed<'a>(
    leaf: &Certificate<'a>,
    intermediates: &[Certificate<'a>],
    anchors: impl IntoIterator<Item = &'a [u8]>,
    purpose: Purpose,
    now: SystemTime,
) -> Result<Vec<usize>, ChainError> {
    let anchors: Vec<_> = anchors.into_iter().filter_map(|der| Certificate::parse(der).ok()).collect();
    let chains = Search::new(&anchors, intermediates, now).chains(leaf)?;
    let mut refusals = Refusals::default();
    let good: Vec<_> = chains.iter().filter(|chain| refusals.judge(chain, purpose)).map(Vec::len).collect();
    if good.is_empty() { Err(refusals.into()) } else { Ok(good) }
}

/// Why none of several chains will do.
#[derive(Debug, Default)]
struct Refusals {
    name: Option<NameRefusal>,
    policies: usize,
    purposes: usize,
}

impl Refusals {
    /// Whether this chain, leaf first and anchor last, will do.
    fn judge(&mut self, chain: &[&Certificate<'_>], purpose: Purpose) -> bool {
        if !policies::valid(chain) {
            self.policies += 1;
        } else if !purpose.fits(chain) {
            self.purposes += 1;
        } else {
            match constraints::check_chain(chain) {
                Ok(()) => return true,
                Err(refusal) => _ = self.name.get_or_insert(refusal),
            }
        }
        false
    }
}

impl From<Refusals> for ChainError {
    fn from(refusals: Refusals) -> Self {
        match refusals {
            Refusals { name: Some(refusal), .. } => Self::Name(refusal),
            Refusals { policies: 0, .. } => Self::Purpose,
            Refusals { policies, purposes, .. } => Self::Policies { policies, purposes },
        }
    }
}

impl Purpose {
    /// Whether one purpose is left that each certificate of the chain allows. One without a list allows all.
    fn fits(self, chain: &[&Certificate<'_>]) -> bool {
        let wanted: &[&[u8]] = match self {
            Self::Any => return true,
            Self::Server => &[SERVER_AUTH],
            Self::Client => &[CLIENT_AUTH],
            Self::ServerOrClient => &[SERVER_AUTH, CLIENT_AUTH],
        };
        let lists = || chain.iter().map(|certificate| &certificate.extensions.purposes);
        wanted.iter().any(|wanted| {
            lists().all(|list| list.is_empty() || list.contains(&ANY_PURPOSE) || list.contains(wanted))
        })
    }
}

/// Why a chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A certificate of the chain, not an anchor, cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A certificate has a critical extension that nobody here understands.
    #[error("x509: unhandled critical extension")]
    CriticalExtension,
    /// A certificate, or an anchor, is not valid yet.
    #[error(
        "x509: certificate has expired or is not yet valid: current time {} is before {}",
        rfc3339(*.now),
        rfc3339(*.not_before)
    )]
    NotYetValid {
        /// When it was looked at.
        now: OffsetDateTime,
        /// When it begins to be valid.
        not_before: OffsetDateTime,
    },
    /// A certificate, or an anchor, is not valid any more.
    #[error(
        "x509: certificate has expired or is not yet valid: current time {} is after {}",
        rfc3339(*.now),
        rfc3339(*.not_after)
    )]
    Expired {
        /// When it was looked at.
        now: OffsetDateTime,
        /// Its last second.
        not_after: OffsetDateTime,
    },
    /// A certificate signs and is no CA.
    #[error("x509: certificate is not authorized to sign other certificates")]
    NotAuthorizedToSign,
    /// There are more CAs below another than it allows.
    #[error("x509: too many intermediates for path length constraint")]
    PathLength,
    /// A CA may not vouch for one of the names.
    #[error("x509: a root or intermediate certificate is not authorized to sign for this name: {0}")]
    Name(#[source] NameRefusal),
    /// A certificate is for other purposes.
    #[error("x509: certificate specifies an incompatible key usage")]
    Purpose,
    /// A CA requires policies that others do not have.
    #[error("x509: no valid chains built: {}", candidates(*.policies, *.purposes))]
    Policies {
        /// Chains that fail by it.
        policies: usize,
        /// Chains that are for other purposes.
        purposes: usize,
    },
    /// No way leads to an anchor.
    #[error("x509: certificate signed by unknown authority{}", hint(.0.as_ref()))]
    UnknownAuthority(Option<Candidate>),
    /// There are too many certificates of one name.
    #[error("x509: signature check attempts limit reached while verifying certificate chain")]
    SignatureLimit,
}

/// The first certificate that could have been the issuer by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its common name, else its organisation, else its serial number.
    pub name: String,
    /// Why it is not.
    pub reason: CandidateError,
}

/// Why a candidate is not the issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CandidateError {
    /// It has not signed.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It is not acceptable itself.
    #[error(transparent)]
    Invalid(#[from] Box<ChainError>),
}

fn rfc3339(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

fn hint(candidate: Option<&Candidate>) -> String {
    candidate.map_or_else(String::new, |Candidate { name, reason }| {
        let reason = reason.to_string();
        format!(
            " (possibly because of {reason:?} while trying to verify candidate authority certificate {name:?})"
        )
    })
}

fn candidates(policies: usize, purposes: usize) -> String {
    let purposes = match purposes {
        0 => String::new(),
        count => format!("{count} candidate chains with incompatible key usage, "),
    };
    format!("{purposes}{policies} candidate chains with invalid policies")
}

/// 1.3.6.1.5.5.7.3.1
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// 1.3.6.1.5.5.7.3.2
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// 2.5.29.37.0
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0];

#[cfg(test)]
mod tests;
