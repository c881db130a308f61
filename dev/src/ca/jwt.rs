//! The keys that sign JWT-SVIDs. A new one signs at once; old ones stay in the bundle until a test orders otherwise.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::ids;

/// The keys of the bundle, the one that signs last.
pub(crate) struct JwtKeys {
    keys: Vec<Arc<JwtKey>>,
}

/// One key.
pub(crate) struct JwtKey {
    pub(crate) id: String,
    pub(crate) tainted: bool,
    pub(crate) public_key: Vec<u8>,
    pair: EcdsaKeyPair,
}

impl JwtKeys {
    pub(crate) fn new() -> Self {
        Self { keys: vec![Arc::new(JwtKey::new())] }
    }

    /// All keys of the bundle.
    pub(crate) fn all(&self) -> &[Arc<JwtKey>] {
        &self.keys
    }

    /// The key that signs.
    pub(crate) fn signer(&self) -> Arc<JwtKey> {
        Arc::clone(self.keys.last().expect("there is always one"))
    }

    /// Makes a new key sign.
    pub(crate) fn rotate(&mut self) {
        self.keys.push(Arc::new(JwtKey::new()));
    }

    /// Taints all keys but the one that signs.
    pub(crate) fn taint_old(&mut self) {
        let signer = self.keys.len() - 1;
        for key in &mut self.keys[..signer] {
            let (id, public_key) = (key.id.clone(), key.public_key.clone());
            // A tainted key signs nothing any more, so another one stands in for its private half.
            *key = Arc::new(JwtKey { id, public_key, tainted: true, ..JwtKey::new() });
        }
    }

    /// Removes all keys but the one that signs.
    pub(crate) fn forget_old(&mut self) {
        self.keys.drain(..self.keys.len() - 1);
    }
}

impl JwtKey {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made");
        let public_key: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("it has an encoding");
        let public_key = public_key.as_ref().to_vec();
        Self { id: ids::uuid(), tainted: false, public_key, pair }
    }

    /// Signs a token.
    pub(crate) fn sign(&self, subject: &str, audience: &[String], issued_at: i64, expires_at: i64) -> String {
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({"alg": "ES256", "kid": self.id, "typ": "JWT"}));
        let claims = json!({"aud": audience, "exp": expires_at, "iat": issued_at, "sub": subject});
        let signed = format!("{header}.{}", part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("a key signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
