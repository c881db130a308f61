//! Tokens that keep to the JWT-SVID profile have the same verdict from our verifier and from the `spiffe` crate's, and both
//! read the same from them. Where the two differ about other tokens is listed in `fuzz/fuzz_targets/jwt/exceptions.rs`.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::{Bundle, JwtAuthority, TrustDomain, validate_jwt};
use proptest::prelude::*;
use serde_json::{Value, json};
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid};

proptest! {
    #[test]
    fn the_verdict_is_that_of_the_spiffe_crate(
        subject in "spiffe://(td|td|td|other)\\.example(/[a-zA-Z0-9._-]{1,8}){0,3}",
        audiences in prop::collection::vec("[ab]", 0..4),
        alone in any::<bool>(),
        (expiry, ago, issued) in (seconds(), prop::option::of(seconds()), prop::option::of(-100_000..0_i64)),
        kid in prop_oneof![4 => Just("k"), 1 => Just("other")],
        damage in prop::option::weighted(0.1, 0..64usize),
    ) {
        let now = SystemTime::now();
        let at = |offset: i64| now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64 + offset;
        let audience = match &*audiences {
            [one] if alone => json!(one),
            several => json!(several),
        };
        let mut claims = json!({ "sub": subject, "aud": audience, "exp": at(expiry) });
        for (name, offset) in [("nbf", ago.map(|ago| -ago)), ("iat", issued)] {
            if let Some(offset) = offset {
                claims[name] = at(offset).into();
            }
        }
        let (key, bundle) = bundle();
        let token = sign(&key, &json!({ "alg": "ES256", "kid": kid, "typ": "JWT" }), &claims, damage);
        let theirs = JwtSvid::parse_and_validate(&token, &set(&bundle), &["a"]);
        match (validate_jwt(&token, [&bundle], "a", now), theirs) {
            (Ok(ours), Ok(theirs)) => {
                prop_assert_eq!(ours.id.as_str(), theirs.spiffe_id().to_string());
                prop_assert_eq!(&ours.claims["aud"], &json!(theirs.audience()));
                prop_assert_eq!(ours.claims["exp"].as_f64(), Some(theirs.expiry().unix_timestamp() as f64));
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "ours {:?}, theirs {:?}", ours, theirs),
        }
    }
}

/// More than a minute from now, which is the leeway that only we give; more often later, which is good for `exp`.
fn seconds() -> impl Strategy<Value = i64> {
    const LATER: Range<i64> = 100..1_000_000;
    prop_oneof![1 => LATER.prop_map(|later| -later), 4 => LATER]
}

fn sign(key: &EcdsaKeyPair, header: &Value, claims: &Value, damage: Option<usize>) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message =
        format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let mut signature =
        key.sign(&SystemRandom::new(), message.as_bytes()).expect("a key signs").as_ref().to_vec();
    if let Some(place) = damage {
        signature[place] ^= 1;
    }
    format!("{message}.{}", encode(&signature))
}

/// A key, and the bundle of td.example that has it.
fn bundle() -> (EcdsaKeyPair, Bundle) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let public_key = key.public_key().as_der().expect("it has an encoding").as_ref().to_vec().into();
    let mut bundle = Bundle::of_x509(TrustDomain::parse("td.example").expect("a name"), []);
    bundle.jwt_authorities =
        vec![JwtAuthority { public_key, key_id: "k".to_owned(), expires_at: 0, tainted: false }];
    (key, bundle)
}

/// The bundle as a workload gets it.
fn set(bundle: &Bundle) -> JwtBundleSet {
    let keys: Value = serde_json::from_str(&bundle.jwks()).expect("JSON");
    let mut own = JwtBundle::new(spiffe::TrustDomain::new(bundle.trust_domain.name()).expect("a name"));
    own.add_jwk_authority_json(keys["keys"][0].to_string().as_bytes()).expect("a key");
    let mut set = JwtBundleSet::new();
    set.add_bundle(own);
    set
}
