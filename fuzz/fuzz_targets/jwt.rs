//! The same token, keys and audience for our verifier and for the `spiffe` crate's: both accept it and read the same from
//! it, or neither accepts it, with the exceptions of `jwt/exceptions.rs`, each with its reason. What is accepted is what a
//! key has signed, and a refusal has words and a rule.
#![no_main]

#[path = "jwt/exceptions.rs"]
mod exceptions;
#[path = "jwt/making.rs"]
mod making;

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::{Bundle, JwtAuthority, TrustDomain, Validated, validate_jwt};
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid};

use exceptions::{Seen, decoded};
use making::Signer;

// The first byte says what the others are: a token; a token of the table and a change of it; the texts of header, claims and
// signature with zeros between; header and claims, which are then signed; choices of members and claims, signed too.
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let now = SystemTime::now();
    let token = match (kind % 5, rest) {
        (0, token) => String::from_utf8(token.to_vec()).ok(),
        (1, [number, high, low, cut, put @ ..]) => {
            let place = usize::from(u16::from_be_bytes([*high, *low]));
            changed(usize::from(*number), place, usize::from(*cut), put)
        }
        (2, parts) => {
            let parts: Vec<_> = parts.splitn(3, |byte| *byte == 0).collect();
            Some(parts.into_iter().map(making::encoded).collect::<Vec<_>>().join("."))
        }
        (3, parts) => {
            let (header, claims) = parts.split_at(parts.iter().position(|byte| *byte == 0).unwrap_or(0));
            Some(WORLD.signer.sign(header, claims.get(1..).unwrap_or_default()))
        }
        (4, choices) => {
            let seconds = now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            let (header, claims) = making::chosen(choices, seconds);
            Some(WORLD.signer.sign(&header, &claims))
        }
        _ => None,
    };
    if let Some(token) = token {
        judge(&token, kind % 5 > 2, now);
    }
});

/// A token of the table, with `cut` bytes at a place replaced.
fn changed(number: usize, place: usize, cut: usize, put: &[u8]) -> Option<String> {
    let mut token = WORLD.tokens[number % WORLD.tokens.len()].clone().into_bytes();
    let place = place % (token.len() + 1);
    let end = (place + cut).min(token.len());
    token.splice(place..end, put.iter().copied());
    String::from_utf8(token).ok()
}

fn judge(token: &str, signed: bool, now: SystemTime) {
    let ours = validate_jwt(token, [&WORLD.bundle], "a", now);
    let theirs = JwtSvid::parse_and_validate(token, &WORLD.theirs, &["a"]);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => same(ours, theirs),
        (Ok(_), Err(reason)) => {
            assert!(
                Seen::of(token, now).theirs_may_refuse(reason),
                "only theirs refuses: {reason:?}, {token}"
            );
        }
        (Err(reason), Ok(_)) => {
            assert!(Seen::of(token, now).ours_may_refuse(reason), "only ours refuses: {reason:?}, {token}");
        }
        (Err(_), Err(_)) => {}
    }
    match ours {
        Ok(valid) => {
            assert!(valid.claims["aud"].as_array().is_some_and(|list| list.iter().any(|one| one == "a")));
            let parts = decoded(token);
            assert!(
                signed || WORLD.tokens.iter().any(|known| decoded(known) == parts),
                "nobody has signed it"
            );
        }
        Err(reason) => assert!(!reason.to_string().is_empty() && reason.rule().len() > 6),
    }
}

/// Both have read the same ID, audiences and expiry.
fn same(ours: &Validated, theirs: &JwtSvid) {
    assert_eq!(ours.id.as_str(), theirs.spiffe_id().to_string());
    assert_eq!(ours.claims["sub"], ours.id.as_str());
    assert_eq!(ours.claims["aud"], serde_json::json!(theirs.audience()));
    // They take whole seconds up to the year 9999, which doubles hold.
    assert_eq!(ours.claims["exp"].as_f64(), Some(theirs.expiry().unix_timestamp() as f64));
}

/// The keys and tokens that the unit tests hold against SPIRE's verdicts, and a key that is at hand.
struct World {
    bundle: Bundle,
    /// The same keys, as the agent would serve them.
    theirs: JwtBundleSet,
    tokens: Vec<String>,
    signer: Signer,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let text = include_str!("../../identity/testdata/tokens.json");
    let table: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let signer = Signer::new();
    let mut bundle = Bundle::of_x509(TrustDomain::parse(TRUST_DOMAIN).expect("a name"), []);
    let of_table = table["keys"].as_array().expect("a list").iter();
    let of_table =
        of_table.map(|key| (text(&key["id"]), STANDARD.decode(text(&key["spki"])).expect("base64")));
    bundle.jwt_authorities = of_table
        .chain([("own".to_owned(), signer.public_key())])
        .map(|(key_id, public_key)| JwtAuthority {
            public_key: public_key.into(),
            key_id,
            expires_at: 0,
            tainted: false,
        })
        .collect();
    let rows = table["rows"].as_array().expect("a list").iter();
    let tokens = rows.map(|row| text(&row["token"])).filter(|token| !token.is_empty()).collect();
    World { theirs: theirs(&bundle), bundle, tokens, signer }
});

fn theirs(bundle: &Bundle) -> JwtBundleSet {
    let served: serde_json::Value = serde_json::from_str(&bundle.jwks()).expect("JSON");
    let mut keys = JwtBundle::new(spiffe::TrustDomain::new(TRUST_DOMAIN).expect("a name"));
    for key in served["keys"].as_array().expect("a list") {
        keys.add_jwk_authority_json(key.to_string().as_bytes()).expect("a key");
    }
    let mut set = JwtBundleSet::new();
    set.add_bundle(keys);
    set
}

const TRUST_DOMAIN: &str = "td.example";
