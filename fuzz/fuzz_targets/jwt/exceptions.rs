//! What one verifier may refuse and the other accept. Each exception asks for what it is about in the token itself, so that
//! it excuses nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use identity::JwtError;
use serde_json::{Map, Value};
use spiffe::svid::jwt::{JwtSvidError, JwtVerificationErrorKind};

/// A token that one has accepted, as exceptions look at it.
pub(crate) struct Seen {
    /// Whether each part is the only base64 of its bytes.
    canonical: bool,
    header: Map<String, Value>,
    /// `None` if the claims cannot be read without loss.
    claims: Option<Map<String, Value>>,
    now: f64,
}

impl Seen {
    pub(crate) fn of(token: &str, now: SystemTime) -> Self {
        let parts = decoded(token).unwrap_or_default();
        let object = |part: usize| serde_json::from_slice(parts.get(part)?).ok();
        Self {
            canonical: parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).eq(token.split('.')),
            header: object(0).unwrap_or_default(),
            claims: object(1),
            now: now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64(),
        }
    }

    /// Where the crate is stricter. We do as SPIRE does.
    pub(crate) fn theirs_may_refuse(&self, reason: &JwtSvidError) -> bool {
        match reason {
            // The profile allows no other members (JWT-SVID §2), and no other `typ`. go-jose passes over them.
            JwtSvidError::InvalidJoseHeader(_) => {
                let more = self.header.keys().any(|name| !["alg", "kid", "typ"].contains(&name.as_str()));
                more || self.header.get("typ").is_some_and(|kind| !kind.is_string())
            }
            JwtSvidError::InvalidTyp => {
                self.header.get("typ").is_some_and(|kind| *kind != "JWT" && *kind != "JOSE")
            }
            // Go skips line breaks and ignores spare bits.
            JwtSvidError::InvalidBase64 => !self.canonical,
            // A date may have a fraction (RFC 7519 §2). There may be any number of audiences.
            JwtSvidError::InvalidJson(_) => {
                self.claim("exp").as_i64().is_none()
                    || self.claim("aud").as_array().is_some_and(|all| all.len() > 32)
            }
            JwtSvidError::InvalidExpiration => self.number("exp").is_some_and(|exp| exp > END_OF_9999),
            // Null is absent in go-jose, and fractions smaller than a nanosecond are cut off.
            JwtSvidError::InvalidNotBefore => {
                let nbf = self.claim("nbf");
                nbf.is_null() || nbf.is_f64() || nbf.as_i64().is_none_or(|nbf| nbf as f64 > END_OF_9999)
            }
            // It has no verifier for P-521.
            JwtSvidError::BackendUnsupportedAlgorithm(_) => {
                self.header.get("alg").is_some_and(|alg| *alg == "ES512")
            }
            // SPIRE takes keys of any length; ours is the limit of AWS-LC.
            JwtSvidError::WeakRsaAuthority(bits) => *bits < 2048,
            JwtSvidError::InvalidToken(reason) => match reason.kind() {
                // go-jose has a minute of leeway, the crate none.
                JwtVerificationErrorKind::Expired => {
                    self.number("exp").is_some_and(|exp| exp < self.now + SLACK)
                }
                JwtVerificationErrorKind::NotYetValid => {
                    self.number("nbf").is_some_and(|nbf| nbf > self.now - SLACK)
                }
                // Of the signature.
                JwtVerificationErrorKind::Other | JwtVerificationErrorKind::InvalidSignature => {
                    !self.canonical
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Where the crate is laxer. We do as SPIRE does.
    pub(crate) fn ours_may_refuse(&self, reason: &JwtError) -> bool {
        match reason {
            // It does not look at `iat`, `iss` and `jti`.
            JwtError::IssuedInTheFuture => self.number("iat").is_some_and(|iat| iat > self.now + 59.0),
            JwtError::DateKind => !self.claim("iat").is_number(),
            JwtError::TextKind(_) => ["iss", "jti"].into_iter().any(|name| !self.claim(name).is_string()),
            // It passes over claims that it does not know without reading them: names that stand twice, numbers that no
            // double holds, text that is not Unicode, nesting without end.
            JwtError::Json(reason) => self.claims.is_none() || reason.contains("duplicate key"),
            // It converts upper case in the scheme and the trust domain, which SPIRE refuses.
            JwtError::Subject(_) => {
                let subject = self.claim("sub").as_str().unwrap_or_default();
                let authority = subject.splitn(4, '/').take(3);
                authority.flat_map(str::chars).any(|char| char.is_ascii_uppercase())
            }
            _ => false,
        }
    }

    fn claim(&self, name: &str) -> &Value {
        self.claims.as_ref().and_then(|claims| claims.get(name)).unwrap_or(&Value::Null)
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.claim(name).as_f64()
    }
}

/// The bytes of a token's parts, as Go decodes them; `None` if one is not base64.
pub(crate) fn decoded(token: &str) -> Option<Vec<Vec<u8>>> {
    token.split('.').map(|part| BASE64.decode(part.replace(['\r', '\n'], "")).ok()).collect()
}

/// The last second that the crate can express.
const END_OF_9999: f64 = 253_402_300_799.0;
/// Seconds for which a busy machine may stop a run between its look at the clock and the crate's own.
const SLACK: f64 = 30.0;
const BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));
