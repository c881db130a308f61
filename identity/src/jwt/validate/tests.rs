use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::{JwtAuthority, TrustDomain};

/// A key of td.example, and its bundle.
struct Signer {
    key: EcdsaKeyPair,
    bundle: Bundle,
}

impl Signer {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let spki = key.public_key().as_der().unwrap();
        Self { bundle: bundle([("k", spki.as_ref().to_vec())]), key }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The reason why a token with these claims besides the usual ones is refused at [`NOW`].
    fn refusal(&self, more: &Value) -> Option<JwtError> {
        let mut claims = json!({ "sub": "spiffe://td.example/web", "aud": "a", "exp": NOW + 60 });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        validate(&self.sign(&header(), &claims), [&self.bundle], "a", at(NOW, 0)).err()
    }
}

fn bundle(keys: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Bundle {
    let mut bundle = Bundle::of_x509(TrustDomain::parse("td.example").unwrap(), []);
    let authority = |(id, spki)| authority(id, spki);
    bundle.jwt_authorities = keys.into_iter().map(authority).collect();
    bundle
}

fn authority(id: &str, spki: Vec<u8>) -> JwtAuthority {
    JwtAuthority { public_key: Bytes::from(spki), key_id: id.to_owned(), expires_at: 0, tainted: false }
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "k" })
}

fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::new(seconds, nanoseconds)
}

#[test]
fn claims_are_returned_with_doubles_and_a_list_of_audiences() {
    let signer = Signer::new();
    let claims =
        json!({ "sub": "spiffe://td.example/web", "aud": "a", "exp": NOW, "deep": { "n": [1, "x", null] } });
    let valid = validate(&signer.sign(&header(), &claims), [&signer.bundle], "a", at(NOW, 0)).unwrap();
    assert_eq!(valid.id.as_str(), "spiffe://td.example/web");
    let expected =
        r#"{"aud":["a"],"deep":{"n":[1.0,"x",null]},"exp":1800000000.0,"sub":"spiffe://td.example/web"}"#;
    assert_eq!(Value::Object(valid.claims.clone()).to_string(), expected);
    assert_eq!(format!("{valid:?}"), "Validated { id: spiffe://td.example/web, .. }");
}

#[test]
fn times_have_a_minute_of_leeway() {
    let signer = Signer::new();
    let expired = |exp: u64, now: SystemTime| {
        let claims = json!({ "sub": "spiffe://td.example/web", "aud": ["a"], "exp": exp });
        validate(&signer.sign(&header(), &claims), [&signer.bundle], "a", now).err()
    };
    assert_eq!(expired(NOW, at(NOW + 60, 0)), None);
    assert_eq!(expired(NOW, at(NOW + 60, 1)), Some(JwtError::Expired));
    assert_eq!(expired(0, UNIX_EPOCH - Duration::from_nanos(1)), None);
    for claim in ["nbf", "iat"] {
        assert_eq!(signer.refusal(&json!({ claim: NOW + 60 })), None, "{claim}");
    }
    assert_eq!(signer.refusal(&json!({ "nbf": NOW + 61 })), Some(JwtError::NotValidYet));
    assert_eq!(signer.refusal(&json!({ "iat": NOW + 61 })), Some(JwtError::IssuedInTheFuture));
    let late = json!({ "nbf": NOW + 61, "exp": 0, "iat": NOW + 61 });
    assert_eq!(signer.refusal(&late), Some(JwtError::NotValidYet), "the order of go-jose");
}

#[test]
fn the_subjects_trust_domain_has_the_key() {
    let signer = Signer::new();
    let token = signer.sign(&header(), &json!({ "sub": "spiffe://td.example/web", "aud": "a", "exp": NOW }));
    let judge = |bundles: &[&Bundle]| validate(&token, bundles.iter().copied(), "a", at(NOW, 0)).err();
    let mut foreign = signer.bundle.clone();
    foreign.trust_domain = TrustDomain::parse("other.example").unwrap();
    assert_eq!(judge(&[&foreign]), Some(JwtError::NoKeys("td.example".into())));
    assert_eq!(judge(&[&foreign, &signer.bundle]), None);
    let unreadable = bundle([("k", b"rubbish".to_vec())]);
    let reason = judge(&[&unreadable]).unwrap().to_string();
    assert_eq!(reason, "public key \"k\" not found in trust domain \"td.example\"");
    assert_eq!(judge(&[&Signer::new().bundle]), Some(JwtError::Signature), "another key of that name");
}

#[test]
fn a_long_token_is_not_looked_at() {
    let refused = validate(&"x".repeat(LONGEST + 1), [], "a", at(NOW, 0)).unwrap_err();
    assert_eq!(refused, JwtError::TooLong(65537));
    assert_eq!(
        refused.to_string(),
        "unable to parse JWT token: it has 65537 bytes, and at most 65536 are read"
    );
    let refused = validate(&"x".repeat(LONGEST), [], "a", at(NOW, 0)).unwrap_err();
    assert_eq!(refused, JwtError::Parse(ParseError::Parts));
}

#[test]
fn rules_have_nothing_of_the_token() {
    let signer = Signer::new();
    for more in [
        json!({ "sub": "secret" }),
        json!({ "sub": "spiffe://secret/web" }),
        json!({ "aud": ["secret"] }),
        json!({ "exp": "secret" }),
    ] {
        let refused = signer.refusal(&more).unwrap();
        assert!(!refused.rule().contains("secret") && refused.rule().len() > 6, "{more}");
    }
}

/// What SPIRE's agent says of the tokens of `testdata/tokens.json` (tests/peers/go/tokens).
#[test]
fn tokens_are_judged_as_by_spire() {
    let table: Value = serde_json::from_str(include_str!("../../../testdata/tokens.json")).unwrap();
    let mut keys = bundle([]);
    for key in table["keys"].as_array().unwrap() {
        let spki = STANDARD.decode(key["spki"].as_str().unwrap()).unwrap();
        keys.jwt_authorities.push(authority(key["id"].as_str().unwrap(), spki));
    }
    let mut wrong = Vec::new();
    for row in table["rows"].as_array().unwrap() {
        let text = |name: &str| row[name].as_str().unwrap_or_default();
        let judged = validate(text("token"), [&keys], text("audience"), at(NOW, 0));
        let words = judged.as_ref().map_or_else(ToString::to_string, |_| String::new());
        let exception = EXCEPTIONS.iter().find(|(name, _)| *name == text("name"));
        let agrees = match (&judged, exception) {
            (_, Some((_, reason))) => words == *reason,
            (Ok(valid), None) => {
                let mut claims = json::parse(text("claims").as_bytes()).unwrap_or_default();
                if claims["aud"].is_string() {
                    claims["aud"] = json!([claims["aud"]]);
                }
                text("id") == valid.id.as_str() && claims == json!(valid.claims)
            }
            (Err(_), None) if malformed(text("reason")) => true,
            (Err(_), None) => words == text("reason"),
        };
        if !agrees {
            wrong.push(format!("{}: {words:?}, not {:?}", text("name"), text("reason")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(table["rows"].as_array().unwrap().len() > 150);
}

/// Whether a reason says that JSON is malformed. Ours are in other words.
fn malformed(reason: &str) -> bool {
    reason.contains("invalid character ") || reason.contains("unexpected end of JSON input")
}

/// Rows of which the verdict or the reason differs from SPIRE's, and our reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // RFC 7518 §3.4 and §3.5 forbid these; aws-lc has no P-224, and no such verification by a key of 1024 bits.
    ("ES512 p256", NOT_SIGNED),
    ("ES256 p224", NOT_SIGNED),
    ("PSS with a short salt", NOT_SIGNED),
    ("RS384 rsa1024", NOT_SIGNED),
    ("PS256 rsa1024", NOT_SIGNED),
    // Text that is no Unicode, and 200 levels.
    (
        r#"claims {"aud":"a","exp":4102444800,"iat":1,"sub":"spiffe://td.example/web","x":"\ud800"}"#,
        "unexpected end of hex escape",
    ),
    (
        r#"claims {"aud":"a","exp":4102444800,"iat":1,"sub":"spiffe://td.example/web","x":"?"}"#,
        "invalid unicode code point",
    ),
    ("claims 473 bytes", "recursion limit exceeded"),
    // Refused by both, in other words.
    (
        r#"header {"alg":"ES256","kid":"p256","x":{"y":1,"y":1}}"#,
        "unable to parse JWT token: json: duplicate key 'y' in object",
    ),
    (r#"claims {"aud":"a","iat":1,"sub":"spiffe://td.example/web","exp":1e400}"#, "number out of range"),
    (
        r#"claims {"aud":"a","exp":4102444800,"iat":1,"sub":"spiffe://td.example/web","x":1e400}"#,
        "number out of range",
    ),
];
const NOT_SIGNED: &str = "go-jose/go-jose: error in cryptographic primitive";

/// When the table's tokens are valid.
const NOW: u64 = 1_800_000_000;
