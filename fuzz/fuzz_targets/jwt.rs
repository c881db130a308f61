//! Any token has a verdict, and a refusal has words and a rule. What is accepted is what a key has signed: nothing but line
//! breaks and spare bits may differ from a token of the table, of which nobody has the private keys.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD, URL_SAFE_NO_PAD};
use identity::{Bundle, JwtAuthority, TrustDomain, validate_jwt};

// The first byte says what the others are: a token; a token of the table and a change of it; header, claims and signature
// with zeros between.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let token = match (kind % 3, rest) {
        (0, token) => String::from_utf8(token.to_vec()).ok(),
        (1, [number, high, low, cut, put @ ..]) => {
            let place = usize::from(u16::from_be_bytes([*high, *low]));
            changed(usize::from(*number), place, usize::from(*cut), put)
        }
        (2, parts) => {
            let parts: Vec<_> = parts.splitn(3, |byte| *byte == 0).collect();
            Some(parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect::<Vec<_>>().join("."))
        }
        _ => None,
    };
    if let Some(token) = token {
        judge(&token);
    }
});

/// A token of the table, with `cut` bytes at a place replaced.
fn changed(number: usize, place: usize, cut: usize, put: &[u8]) -> Option<String> {
    let mut token = TABLE.tokens[number % TABLE.tokens.len()].clone().into_bytes();
    let place = place % (token.len() + 1);
    let end = (place + cut).min(token.len());
    token.splice(place..end, put.iter().copied());
    String::from_utf8(token).ok()
}

fn judge(token: &str) {
    match validate_jwt(token, [&TABLE.bundle], "a", SystemTime::UNIX_EPOCH + NOW) {
        Ok(valid) => {
            assert!(valid.claims["aud"].as_array().is_some_and(|list| list.iter().any(|one| one == "a")));
            assert_eq!(valid.claims["sub"], valid.id.as_str());
            let signed = parts(token);
            assert!(TABLE.tokens.iter().any(|known| parts(known) == signed), "nobody has signed it");
        }
        Err(reason) => assert!(!reason.to_string().is_empty() && reason.rule().len() > 6),
    }
}

/// The parts of a token; `None` if they are not base64.
fn parts(token: &str) -> Option<Vec<Vec<u8>>> {
    token.split('.').map(|part| BASE64.decode(part.replace(['\r', '\n'], "")).ok()).collect()
}

/// The keys and tokens that the unit tests hold against SPIRE's verdicts.
struct Table {
    bundle: Bundle,
    tokens: Vec<String>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let text = include_str!("../../identity/testdata/tokens.json");
    let table: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let mut bundle = Bundle::of_x509(TrustDomain::parse("td.example").expect("a name"), []);
    let keys = table["keys"].as_array().expect("a list").iter();
    bundle.jwt_authorities = keys
        .map(|key| JwtAuthority {
            public_key: STANDARD.decode(text(&key["spki"])).expect("base64").into(),
            key_id: text(&key["id"]),
            expires_at: 0,
            tainted: false,
        })
        .collect();
    let rows = table["rows"].as_array().expect("a list").iter();
    Table { bundle, tokens: rows.map(|row| text(&row["token"])).filter(|token| !token.is_empty()).collect() }
});

/// When the table's tokens are valid.
const NOW: Duration = Duration::from_secs(1_800_000_000);
const BASE64: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));
