//! Judges a JWT-SVID as SPIRE's agent does (`pkg/common/jwtsvid`, with go-jose), in the same order and words.
//!
//! What go-jose takes and is refused here: the exceptions of [`super::json`] and of `chain::jws`, and a token of more than
//! [`LONGEST`] bytes. What it refuses and is taken here: a header `jwk` or `x5c` that is malformed. Neither has any use in a
//! JWT-SVID. Reasons of malformed JSON are in other words.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::error::{JwtError, ParseError};
use super::json;
use crate::chain::{JwsAlgorithm, is_public_key};
use crate::{Bundle, SpiffeId};

/// A token whose signature, times and audience are good.
#[derive(Clone, PartialEq)]
pub struct Validated {
    /// The SPIFFE ID of the workload that the token stands for (the claim `sub`).
    pub id: SpiffeId,
    /// All claims. Every number is a double, and `aud` is a list.
    pub claims: Map<String, Value>,
}

/// Without the claims.
impl fmt::Debug for Validated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validated").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Validates a token for one audience, by the JWT authorities of these bundles. Times have a leeway of one minute.
///
/// # Errors
/// [`JwtError`].
pub fn validate<'a>(
    token: &str,
    bundles: impl IntoIterator<Item = &'a Bundle>,
    audience: &str,
    now: SystemTime,
) -> Result<Validated, JwtError> {
    if token.len() > LONGEST {
        return Err(JwtError::TooLong(token.len()));
    }
    let token = Token::parse(token).map_err(JwtError::Parse)?;
    let key_id = token.text("kid").unwrap_or_default();
    if key_id.is_empty() {
        return Err(JwtError::NoKeyId);
    }
    let claims = json::parse(&token.payload).map_err(JwtError::Json)?;
    let registered = Registered::read(&claims)?;
    if registered.subject.is_empty() {
        return Err(JwtError::NoSubject);
    }
    let Some(expiry) = registered.expiry else { return Err(JwtError::NoExpiry) };
    let id = SpiffeId::parse(registered.subject).map_err(JwtError::Subject)?;
    token.verify(key(bundles, &id, key_id)?)?;
    if !registered.audience.contains(&audience) {
        let found = registered.audience.iter().map(|found| (*found).to_owned()).collect();
        return Err(JwtError::Audience { expected: audience.to_owned(), found });
    }
    let now = Moment::of(now);
    if registered.not_before.is_some_and(|begin| now.plus(LEEWAY) < begin) {
        return Err(JwtError::NotValidYet);
    }
    if now.plus(-LEEWAY) > expiry {
        return Err(JwtError::Expired);
    }
    if registered.issued_at.is_some_and(|issued| now.plus(LEEWAY) < issued) {
        return Err(JwtError::IssuedInTheFuture);
    }
    let Value::Object(mut claims) = claims else { return Err(JwtError::NoSubject) };
    if let Some(audience) = claims.get_mut("aud")
        && audience.is_string()
    {
        *audience = Value::Array(vec![audience.take()]);
    }
    Ok(Validated { id, claims })
}

/// The key with this ID in the bundle of an ID's trust domain. A key that cannot be read counts as absent.
fn key<'a>(
    bundles: impl IntoIterator<Item = &'a Bundle>,
    id: &SpiffeId,
    key_id: &str,
) -> Result<&'a [u8], JwtError> {
    let trust_domain = id.trust_domain_name();
    let bundle = bundles.into_iter().find(|bundle| bundle.trust_domain.name() == trust_domain);
    let bundle = bundle.ok_or_else(|| JwtError::NoKeys(trust_domain.to_owned()))?;
    let mut named = bundle.jwt_authorities.iter().filter(|authority| authority.key_id == key_id);
    let key = named.next_back().map(|authority| &*authority.public_key).filter(|key| is_public_key(key));
    key.ok_or_else(|| JwtError::UnknownKey {
        key_id: key_id.to_owned(),
        trust_domain: trust_domain.to_owned(),
    })
}

/// A token taken apart (RFC 7515 §7.1).
struct Token {
    algorithm: JwsAlgorithm,
    header: Map<String, Value>,
    protected: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Token {
    fn parse(token: &str) -> Result<Self, ParseError> {
        let mut parts = token.split('.');
        let (Some(protected), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseError::Parts);
        };
        let (protected, payload, signature) = (decode(protected)?, decode(payload)?, decode(signature)?);
        let header = if protected.is_empty() {
            Value::Null
        } else {
            json::parse(&protected).map_err(ParseError::Json)?
        };
        let header = match header {
            Value::Object(header) => header,
            Value::Null => Map::new(),
            other => return Err(ParseError::Header(json::kind(&other))),
        };
        check(&header)?;
        let name = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let algorithm = JwsAlgorithm::ALL.into_iter().find(|(known, _)| *known == name);
        let (_, algorithm) = algorithm.ok_or_else(|| ParseError::Algorithm(name.to_owned()))?;
        Ok(Self { algorithm, header, protected, payload, signature })
    }

    /// A text in the header.
    fn text(&self, name: &str) -> Option<&str> {
        self.header.get(name)?.as_str()
    }

    fn verify(&self, key: &[u8]) -> Result<(), JwtError> {
        match self.header.get("crit") {
            None | Some(Value::Null) => {}
            Some(Value::Array(names)) if names.iter().all(|name| *name == "b64") => {}
            Some(_) => return Err(JwtError::Critical),
        }
        // go-jose encodes anew what it has decoded, and so forgives line breaks and spare bits.
        let mut message = URL_SAFE_NO_PAD.encode(&self.protected).into_bytes();
        message.push(b'.');
        // RFC 7797: the signature is over the payload as it is.
        if self.header.get("b64") == Some(&Value::Bool(false)) {
            message.extend_from_slice(&self.payload);
        } else {
            message.extend_from_slice(URL_SAFE_NO_PAD.encode(&self.payload).as_bytes());
        }
        let signed = self.algorithm.is_signed_by(key, &message, &self.signature);
        if signed { Ok(()) } else { Err(JwtError::Signature) }
    }
}

/// Checks the kinds of the header's members that go-jose knows. Keys and certificates in it are used by nobody, so they
/// are not read.
fn check(header: &Map<String, Value>) -> Result<(), ParseError> {
    for (name, words, fitting, wanted) in MEMBERS {
        let Some(member) = header.get(name).filter(|member| !["null", fitting].contains(&json::kind(member)))
        else {
            continue;
        };
        let text = member.to_string();
        let json = text.strip_suffix(".0").unwrap_or(&text).to_owned();
        return Err(ParseError::Member { words, kind: json::kind(member), wanted, json });
    }
    Ok(())
}

/// Decodes base64 as Go's `RawURLEncoding`: line breaks are skipped, and the spare bits at the end may be anything.
fn decode(text: &str) -> Result<Vec<u8>, ParseError> {
    let wrong = |byte: u8| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_' | b'\r' | b'\n');
    if let Some(at) = text.bytes().position(wrong) {
        return Err(ParseError::Base64(at));
    }
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    BASE64.decode(digits).map_err(|_| ParseError::Base64(text.len().saturating_sub(1)))
}

/// The registered claims (RFC 7519 §4.1), not verified yet.
#[derive(Debug, Default)]
struct Registered<'a> {
    subject: &'a str,
    audience: Vec<&'a str>,
    expiry: Option<Moment>,
    not_before: Option<Moment>,
    issued_at: Option<Moment>,
}

impl<'a> Registered<'a> {
    fn read(claims: &'a Value) -> Result<Self, JwtError> {
        let claims = match claims {
            Value::Object(claims) => claims,
            Value::Null => return Ok(Self::default()),
            other => return Err(JwtError::NoObject(json::kind(other))),
        };
        let audience = match claims.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![&**one],
            Some(Value::Array(several)) => {
                let texts = several.iter().map(Value::as_str).collect::<Option<_>>();
                texts.ok_or(JwtError::AudienceKind)?
            }
            Some(_) => return Err(JwtError::AudienceKind),
        };
        let date = |name| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Moment::of_date).map(Some).ok_or(JwtError::DateKind),
        };
        let (expiry, not_before, issued_at) = (date("exp")?, date("nbf")?, date("iat")?);
        let text = |name| match claims.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(&**text),
            Some(other) => Err(JwtError::TextKind(json::kind(other))),
        };
        let (subject, _, _) = (text("sub")?, text("iss")?, text("jti")?);
        Ok(Self { subject, audience, expiry, not_before, issued_at })
    }
}

/// A time as Go compares it: seconds since the year 1, which wrap around, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    seconds: i64,
    nanoseconds: u32,
}

impl Moment {
    /// A date of a token. The fraction is cut off. A date that 64 bits do not hold is long past.
    fn of_date(date: f64) -> Self {
        let in_range = (-TWO_TO_63..TWO_TO_63).contains(&date);
        let seconds = if in_range { date as i64 } else { i64::MIN };
        Self { seconds: seconds.wrapping_add(UNIX_TO_YEAR_1), nanoseconds: 0 }
    }

    fn of(time: SystemTime) -> Self {
        let (seconds, nanoseconds) = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => (whole(since), since.subsec_nanos()),
            Err(before) => match before.duration() {
                before if before.subsec_nanos() == 0 => (-whole(before), 0),
                before => (-whole(before) - 1, 1_000_000_000 - before.subsec_nanos()),
            },
        };
        Self { seconds: seconds.saturating_add(UNIX_TO_YEAR_1), nanoseconds }
    }

    fn plus(self, seconds: i64) -> Self {
        Self { seconds: self.seconds.saturating_add(seconds), ..self }
    }
}

fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Members of a header: go-jose's name of each, the kind of JSON that it must be, and its Go type.
const MEMBERS: [(&str, &str, &str, &str); 5] = [
    ("alg", "algorithm", "string", "string"),
    ("kid", "key ID", "string", "string"),
    ("nonce", "nonce", "string", "string"),
    ("jwk", "JWK", "object", "jose.rawJSONWebKey"),
    ("x5c", "x5c header", "array", "[]string"),
];
/// The longest token that is read, in bytes.
pub(super) const LONGEST: usize = 64 * 1024;
/// Seconds by which clocks may differ (go-jose's `DefaultLeeway`).
const LEEWAY: i64 = 60;
/// Seconds from the beginning of the year 1 to that of 1970.
const UNIX_TO_YEAR_1: i64 = 62_135_596_800;
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
const BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

#[cfg(test)]
mod tests;
