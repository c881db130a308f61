//! Tokens that are signed by a key at hand.

use std::fmt::Write as _;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The key `own` of the bundle. No verdict depends on which key it is, so each run may have another.
pub(crate) struct Signer(EcdsaKeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
    }

    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.0.public_key().as_der().expect("it has an encoding").as_ref().to_vec()
    }

    pub(crate) fn sign(&self, header: &[u8], claims: &[u8]) -> String {
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).expect("a key signs");
        format!("{message}.{}", encoded(signature.as_ref()))
    }
}

pub(crate) fn encoded(part: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

/// Header and claims, of which each byte chooses one. The bytes after the choices are the value of one claim more. Most
/// choices are good, so that a token with one bad choice is frequent.
pub(crate) fn chosen(bytes: &[u8], now: u64) -> (Vec<u8>, Vec<u8>) {
    let mut choices = Choices(bytes);
    let mut header = format!(
        "{{\"alg\":{},\"kid\":{}",
        choices.one_of(&["\"ES256\"", "\"ES384\"", "\"PS256\"", "null"], "\"ES256\""),
        choices.one_of(&["\"p256\"", "\"\"", "null", "1", "\"other\""], "\"own\""),
    );
    header.push_str(choices.one_of(TYPES, ""));
    header.push_str(choices.one_of(MEMBERS, ""));
    header.push('}');
    let mut claims = format!(
        "{{\"sub\":{},\"aud\":{}",
        choices.one_of(SUBJECTS, "\"spiffe://td.example/web\""),
        choices.one_of(AUDIENCES, "[\"a\"]"),
    );
    for (name, usual) in [("exp", Some(now + 600)), ("nbf", None), ("iat", None)] {
        if let Some(time) = choices.time(now).or_else(|| usual.map(|usual| usual.to_string())) {
            let _ = write!(claims, ",\"{name}\":{time}");
        }
    }
    for name in ["iss", "jti", "exp", "aud"] {
        // Names that stand twice are among these.
        if let value @ 1.. = choices.next() % 16
            && let Some(value) = VALUES.get(usize::from(value) - 1)
        {
            let _ = write!(claims, ",\"{name}\":{value}");
        }
    }
    let mut claims = claims.into_bytes();
    if !choices.0.is_empty() {
        claims.extend_from_slice(b",\"more\":");
        claims.extend_from_slice(choices.0);
    }
    claims.push(b'}');
    (header.into_bytes(), claims)
}

struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    /// 0 if there is none any more, which stands for what is usual.
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn one_of<'t>(&mut self, odd: &[&'t str], usual: &'t str) -> &'t str {
        let choice = usize::from(self.next()).checked_sub(1);
        choice.and_then(|choice| odd.get(choice % 32).copied()).unwrap_or(usual)
    }

    /// A date near now, or something that may not be one; `None` for the usual.
    fn time(&mut self, now: u64) -> Option<String> {
        let choice = self.next();
        if choice == 0 {
            return None;
        }
        let now = i64::try_from(now).expect("not yet");
        let time = now + OFFSETS[usize::from(choice >> 4)];
        Some(match choice & 15 {
            0..=5 => time.to_string(),
            6 => format!("{time}.0"),
            7 => format!("{time}.5"),
            8 => format!("{}e2", time / 100),
            9 => format!("\"{time}\""),
            10 => "null".to_owned(),
            11 => format!("-{time}"),
            12 => format!("{time}000000"),
            13 => format!("{time}e-10"),
            14 => "1e300".to_owned(),
            _ => "18446744073709551616".to_owned(),
        })
    }
}

const TYPES: &[&str] =
    &[",\"typ\":\"JWT\"", ",\"typ\":\"JOSE\"", ",\"typ\":null", ",\"typ\":\"at+jwt\"", ",\"typ\":1"];
const MEMBERS: &[&str] = &[
    ",\"cty\":\"x\"",
    ",\"nonce\":\"n\"",
    ",\"crit\":[]",
    ",\"crit\":[\"exp\"]",
    ",\"b64\":true",
    ",\"b64\":false",
    ",\"jwk\":{}",
    ",\"x5c\":[]",
    ",\"kid\":\"own\"",
];
const SUBJECTS: &[&str] = &[
    "\"spiffe://td.example\"",
    "\"spiffe://td.example/a/b-c_d.e\"",
    "\"spiffe://td.example/\"",
    "\"spiffe://td.example//web\"",
    "\"spiffe://td.example/../web\"",
    "\"spiffe://td.example/%41\"",
    "\"spiffe://TD.example/web\"",
    "\"SPIFFE://td.example/web\"",
    "\"spiffe://other.example/web\"",
    "\"spiffe://td.example:80/web\"",
    "\"web\"",
    "\"\"",
    "null",
    "1",
    "\"\\u0073piffe://td.example/web\"",
];
const AUDIENCES: &[&str] = &[
    "\"a\"",
    "[\"a\",\"b\"]",
    "[\"b\"]",
    "[]",
    "\"\"",
    "null",
    "1",
    "[\"a\",1]",
    "[\"a\",null]",
    "[[\"a\"]]",
    "[\"a\",\"a\"]",
    "[\"A\"]",
    "[\"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\
     \"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\",\"1\",\"a\"]",
];
const VALUES: &[&str] = &["\"x\"", "null", "1", "[]", "{}", "true", "4102444800", "[\"a\"]"];
/// Seconds from now: far, and on both sides of a minute and of now.
const OFFSETS: [i64; 16] =
    [-1_000_000, -3600, -70, -61, -50, -10, -3, 3, 10, 50, 55, 70, 600, 3600, 100_000, 100_000_000];
