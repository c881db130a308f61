//! Signatures of JSON Web Signatures (RFC 7518 §3.3 to §3.5), by a public key as it is read here.
//!
//! Go's go-jose takes two things that are refused here: an ECDSA algorithm with a key on another curve than its own, and
//! PSS with a salt of another length than the hash's (RFC 7518 forbids both). Limits of RSA keys are those of `signature`.

use aws_lc_rs::signature::{self as aws, EcdsaVerificationAlgorithm, UnparsedPublicKey};

use super::der::{Reader, SEQUENCE};
use super::signature::{Algorithm, Curve, Hash, PublicKey};

/// An algorithm of a signed token (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JwsAlgorithm {
    Es256,
    Es384,
    Es512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
}

impl JwsAlgorithm {
    /// The algorithms of JWT-SVIDs with their names, in the order in which SPIRE lists them.
    pub(crate) const ALL: [(&'static str, Self); 9] = [
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("ES512", Self::Es512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
    ];

    /// Whether `signature` over `message` is that of a key, a SubjectPublicKeyInfo in DER. A key of another kind has
    /// signed nothing.
    pub(crate) fn is_signed_by(self, spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let Some(key) = read(spki) else { return false };
        match (&key, self.scheme()) {
            (PublicKey::Ecdsa { curve, point }, Scheme::Ecdsa(wanted, verifier)) => {
                *curve == wanted
                    && UnparsedPublicKey::new(verifier, &**point).verify(message, signature).is_ok()
            }
            (PublicKey::Rsa { .. }, Scheme::Rsa(algorithm)) => {
                key.verify(algorithm, message, signature).is_ok()
            }
            _ => false,
        }
    }

    fn scheme(self) -> Scheme {
        match self {
            Self::Es256 => Scheme::Ecdsa(Curve::P256, &aws::ECDSA_P256_SHA256_FIXED),
            Self::Es384 => Scheme::Ecdsa(Curve::P384, &aws::ECDSA_P384_SHA384_FIXED),
            Self::Es512 => Scheme::Ecdsa(Curve::P521, &aws::ECDSA_P521_SHA512_FIXED),
            Self::Rs256 => Scheme::Rsa(Algorithm::Rsa(Hash::Sha256)),
            Self::Rs384 => Scheme::Rsa(Algorithm::Rsa(Hash::Sha384)),
            Self::Rs512 => Scheme::Rsa(Algorithm::Rsa(Hash::Sha512)),
            Self::Ps256 => Scheme::Rsa(Algorithm::RsaPss(Hash::Sha256)),
            Self::Ps384 => Scheme::Rsa(Algorithm::RsaPss(Hash::Sha384)),
            Self::Ps512 => Scheme::Rsa(Algorithm::RsaPss(Hash::Sha512)),
        }
    }
}

/// Whether these bytes are a public key that Go can read.
pub(crate) fn is_public_key(spki: &[u8]) -> bool {
    read(spki).is_some()
}

fn read(spki: &[u8]) -> Option<PublicKey<'_>> {
    PublicKey::parse(Reader::new(spki).within(SEQUENCE)?).ok()?
}

/// What verifies a signature.
enum Scheme {
    /// The signature is r and s, each as long as the curve's field.
    Ecdsa(Curve, &'static EcdsaVerificationAlgorithm),
    Rsa(Algorithm),
}
