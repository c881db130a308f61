//! The agent's own private key. It signs in place, for TLS with the server and for certificate signing requests. Its
//! private half leaves it only for the file of `KeyManager "disk"`, or for the sealed memory of a later process.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use identity::PrivateKey;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// An ECDSA key. It is P-256, or P-384 if an earlier agent has stored such a key. Cheap to clone: all clones share one
/// key.
#[derive(Clone)]
pub struct AgentKey {
    pair: Arc<EcdsaKeyPair>,
    curve: Curve,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

/// The system's random numbers are not available, or the cryptographic library rejects its own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library cannot make or use a key")]
pub struct Unusable;

impl AgentKey {
    /// Makes a P-256 key, as spire-agent does.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(super) fn generate() -> Result<Self, Unusable> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| Unusable)?;
        Ok(Self { pair: Arc::new(pair), curve: Curve::P256 })
    }

    /// Reads a key from PKCS#8; `None` if it is not an ECDSA key of P-256 or P-384.
    pub(super) fn import(key: &PrivateKey) -> Option<Self> {
        [Curve::P256, Curve::P384].into_iter().find_map(|curve| {
            let pair = EcdsaKeyPair::from_pkcs8(curve.signing(), key.pkcs8()).ok()?;
            Some(Self { pair: Arc::new(pair), curve })
        })
    }

    /// The key as PKCS#8, for `keys.json`.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(super) fn export(&self) -> Result<PrivateKey, Unusable> {
        let document = self.pair.to_pkcs8v1().map_err(|_| Unusable)?;
        Ok(PrivateKey::from_pkcs8(document.as_ref().to_vec()))
    }

    /// Whether a certificate (DER) certifies this key.
    #[must_use]
    pub fn is_of(&self, certificate: &[u8]) -> bool {
        X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
            *certificate.public_key().subject_public_key.data == *self.pair.public_key().as_ref()
        })
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, Unusable> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| Unusable)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl PartialEq for AgentKey {
    fn eq(&self, other: &Self) -> bool {
        self.pair.public_key().as_ref() == other.pair.public_key().as_ref()
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentKey({:?}, …)", self.curve)
    }
}

impl Curve {
    fn signing(self) -> &'static aws_lc_rs::signature::EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        }
    }

    fn scheme(self) -> SignatureScheme {
        match self {
            Self::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }
}

/// Signs TLS handshakes with the server.
impl SigningKey for AgentKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = || -> Box<dyn Signer> { Box::new(self.clone()) };
        offered.contains(&self.curve.scheme()).then(signer)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for AgentKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signature(message).map_err(|reason| rustls::Error::General(reason.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.curve.scheme()
    }
}

/// Signs certificate signing requests.
impl rcgen::SigningKey for AgentKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signature(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

impl PublicKeyData for AgentKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.curve {
            Curve::P256 => &PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &PKCS_ECDSA_P384_SHA384,
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn imported(pair: &KeyPair) -> Option<AgentKey> {
        AgentKey::import(&PrivateKey::from_pkcs8(pair.serialize_der()))
    }

    #[test]
    fn comes_back_from_pkcs8_as_the_same_key() {
        let key = AgentKey::generate().unwrap();
        let again = AgentKey::import(&key.export().unwrap()).unwrap();
        assert_eq!(again, key);
        assert_ne!(AgentKey::generate().unwrap(), key);
    }

    #[test]
    fn knows_its_own_certificate() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let certificate = CertificateParams::default().self_signed(&pair).unwrap();
            assert!(imported(&pair).unwrap().is_of(certificate.der()));
            assert!(!AgentKey::generate().unwrap().is_of(certificate.der()));
        }
        assert!(!AgentKey::generate().unwrap().is_of(b"not a certificate"));
    }

    #[test]
    fn keys_of_other_kinds_are_not_taken() {
        assert_eq!(imported(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()), None);
    }

    #[test]
    fn signs_for_tls_with_the_scheme_of_its_curve_alone() {
        let key = AgentKey::generate().unwrap();
        let chosen = |offered: &[SignatureScheme]| key.choose_scheme(offered).map(|signer| signer.scheme());
        let (rsa, p256) = (SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256);
        assert_eq!(chosen(&[rsa, p256]), Some(p256));
        assert_eq!(chosen(&[rsa, SignatureScheme::ECDSA_NISTP384_SHA384]), None);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", AgentKey::generate().unwrap()), "AgentKey(P256, …)");
    }
}
