//! Why a JWT-SVID is refused.

use std::fmt;

use super::validate::LONGEST;
use crate::IdError;
use crate::chain::JwsAlgorithm;

/// Why a token is refused, in SPIRE's words. `Display` has parts of the token, so it is for the caller who brought it;
/// [`JwtError::rule`] is for logs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum JwtError {
    /// The token has this many bytes, which is too many.
    #[error("unable to parse JWT token: it has {0} bytes, and at most {LONGEST} are read")]
    TooLong(usize),
    /// It is not a signed token in compact form, or its algorithm is not allowed.
    #[error("unable to parse JWT token: {0}")]
    Parse(ParseError),
    /// The header has no `kid`.
    #[error("token header missing key id")]
    NoKeyId,
    /// The payload is not JSON.
    #[error("{0}")]
    Json(String),
    /// The payload is JSON of this kind, and not an object.
    #[error("json: cannot unmarshal {0} into Go value of type jwt.Claims")]
    NoObject(&'static str),
    /// `sub`, `iss` or `jti` is of this kind, and not a text.
    #[error("json: cannot unmarshal {0} into Go value of type string")]
    TextKind(&'static str),
    /// `aud` is neither a text nor a list of texts.
    #[error("go-jose/go-jose/jwt: expected string or array value to unmarshal to Audience")]
    AudienceKind,
    /// `exp`, `nbf` or `iat` is not a number.
    #[error("go-jose/go-jose/jwt: expected number value to unmarshal NumericDate")]
    DateKind,
    /// There is no `sub`.
    #[error("token missing subject claim")]
    NoSubject,
    /// There is no `exp`.
    #[error("token missing exp claim")]
    NoExpiry,
    /// `sub` is not a SPIFFE ID.
    #[error("token has in invalid subject claim: {}", .0.as_go_spiffe_says())]
    Subject(#[source] IdError),
    /// There is no bundle of the subject's trust domain.
    #[error("no keys found for trust domain {0:?}")]
    NoKeys(String),
    /// The bundle has no such key.
    #[error("public key {key_id:?} not found in trust domain {trust_domain:?}")]
    UnknownKey {
        /// The token's `kid`.
        key_id: String,
        /// The trust domain of its subject.
        trust_domain: String,
    },
    /// The header has a critical extension that is not known.
    #[error("go-jose/go-jose: unsupported critical header")]
    Critical,
    /// The key has not signed the token, or is of a kind that the algorithm does not fit.
    #[error("go-jose/go-jose: error in cryptographic primitive")]
    Signature,
    /// The token is for others.
    #[error("expected audience in [{expected:?}] (audience=[{}])", quoted(.found))]
    Audience {
        /// The audience that was asked for.
        expected: String,
        /// The audiences in the token.
        found: Vec<String>,
    },
    /// `nbf` is more than a minute away.
    #[error("go-jose/go-jose/jwt: validation failed, token not valid yet (nbf)")]
    NotValidYet,
    /// `exp` was more than a minute ago.
    #[error("token has expired")]
    Expired,
    /// `iat` is more than a minute away.
    #[error("go-jose/go-jose/jwt: validation field, token issued in the future (iat)")]
    IssuedInTheFuture,
}

impl JwtError {
    /// The rule that the token breaks, without anything of the token.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "token is too long",
            Self::Parse(_) => "unable to parse JWT token",
            Self::NoKeyId => "token header missing key id",
            Self::Json(_) | Self::NoObject(_) | Self::TextKind(_) | Self::AudienceKind | Self::DateKind => {
                "unable to parse claims"
            }
            Self::NoSubject => "token missing subject claim",
            Self::NoExpiry => "token missing exp claim",
            Self::Subject(_) => "token has an invalid subject claim",
            Self::NoKeys(_) => "no keys found for trust domain",
            Self::UnknownKey { .. } => "public key not found in trust domain",
            Self::Critical => "unsupported critical header",
            Self::Signature => "signature verification failed",
            Self::Audience { .. } => "token has another audience",
            Self::NotValidYet => "token not valid yet",
            Self::Expired => "token has expired",
            Self::IssuedInTheFuture => "token issued in the future",
        }
    }
}

/// Why a token cannot be taken apart, in the words of Go and of go-jose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// There are not three parts with dots between.
    #[error("go-jose/go-jose: compact JWS format must have three parts")]
    Parts,
    /// A part is not base64, from this byte on.
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
    /// The header is not JSON.
    #[error("{0}")]
    Json(String),
    /// The header is JSON of this kind, and not an object.
    #[error("json: cannot unmarshal {0} into Go value of type jose.rawHeader")]
    Header(&'static str),
    /// A member of the header is of another kind than it must be.
    #[error(
        "failed to unmarshal {words}: json: cannot unmarshal {kind} into Go value of type {wanted}: {json:?}"
    )]
    Member {
        /// Go-jose's name of the member.
        words: &'static str,
        /// What the member is, as Go's encoding/json calls it: `string`, `number`, `array` …
        kind: &'static str,
        /// The Go type that it must fit.
        wanted: &'static str,
        /// The member itself.
        json: String,
    },
    /// The algorithm is not one of JWT-SVIDs (JWT-SVID §2.1).
    #[error("unexpected signature algorithm {0:?}; expected [{expected}]", expected = algorithms())]
    Algorithm(String),
}

fn algorithms() -> String {
    quoted(&JwsAlgorithm::ALL.map(|(name, _)| name))
}

/// Go's `%q` of a list, without the brackets.
fn quoted<T: fmt::Debug>(texts: &[T]) -> String {
    texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" ")
}
