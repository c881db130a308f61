//! Signatures of TLS handshakes, by the key of a certificate as it is read here. TLS libraries read the certificate by other
//! rules and refuse some that Go takes: critical policies, version 1, RSA keys of 1024 bits.

use super::certificate::{Certificate, Malformed};
use super::signature::{Algorithm, Curve, Hash, PublicKey, SignatureError};

/// A version of TLS. The rules for signatures differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// TLS 1.2 (RFC 5246 §7.4.1.4.1).
    V12,
    /// TLS 1.3 (RFC 8446 §4.2.3): no PKCS #1 v1.5, and a scheme names its curve.
    V13,
}

/// Verifies that the key of `leaf` has signed `message`. `scheme` is TLS's number of the signature scheme.
///
/// # Errors
/// [`HandshakeError`].
pub fn verify_handshake(
    leaf: &[u8],
    tls: Tls,
    scheme: u16,
    message: &[u8],
    signature: &[u8],
) -> Result<(), HandshakeError> {
    let certificate = Certificate::parse(leaf)?;
    let key = certificate.key.as_ref().ok_or(HandshakeError::Scheme(scheme))?;
    let algorithm = algorithm(tls, scheme, key).ok_or(HandshakeError::Scheme(scheme))?;
    Ok(key.verify(algorithm, message, signature)?)
}

/// Why the signature of a handshake is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The certificate cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The scheme is unknown or insecure, or it does not fit the key.
    #[error("tls: signature scheme {0:#06x} does not fit the certificate's key")]
    Scheme(u16),
    /// It is not the key's.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

fn algorithm(tls: Tls, scheme: u16, key: &PublicKey<'_>) -> Option<Algorithm> {
    let curve = match key {
        PublicKey::Ecdsa { curve, .. } => Some(*curve),
        _ => None,
    };
    Some(match (tls, scheme) {
        (Tls::V12, 0x0401) => Algorithm::Rsa(Hash::Sha256),
        (Tls::V12, 0x0501) => Algorithm::Rsa(Hash::Sha384),
        (Tls::V12, 0x0601) => Algorithm::Rsa(Hash::Sha512),
        (Tls::V12, 0x0403) => Algorithm::Ecdsa(Hash::Sha256),
        (Tls::V12, 0x0503) => Algorithm::Ecdsa(Hash::Sha384),
        (Tls::V12, 0x0603) => Algorithm::Ecdsa(Hash::Sha512),
        (Tls::V13, 0x0403) if curve == Some(Curve::P256) => Algorithm::Ecdsa(Hash::Sha256),
        (Tls::V13, 0x0503) if curve == Some(Curve::P384) => Algorithm::Ecdsa(Hash::Sha384),
        (Tls::V13, 0x0603) if curve == Some(Curve::P521) => Algorithm::Ecdsa(Hash::Sha512),
        (_, 0x0804) => Algorithm::RsaPss(Hash::Sha256),
        (_, 0x0805) => Algorithm::RsaPss(Hash::Sha384),
        (_, 0x0806) => Algorithm::RsaPss(Hash::Sha512),
        (_, 0x0807) => Algorithm::Ed25519,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
    };
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(pkcs8: &[u8]) -> Vec<u8> {
        let key = KeyPair::try_from(pkcs8).unwrap();
        CertificateParams::default().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn ecdsa_by_its_curve() {
        let sign = |algorithm: &'static EcdsaSigningAlgorithm| {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
            let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
            (certificate(pkcs8.as_ref()), key.sign(&SystemRandom::new(), b"hello").unwrap())
        };
        let (p256, signature) = sign(&ECDSA_P256_SHA256_ASN1_SIGNING);
        for tls in [Tls::V12, Tls::V13] {
            assert_eq!(verify_handshake(&p256, tls, 0x0403, b"hello", signature.as_ref()), Ok(()));
            let other = verify_handshake(&p256, tls, 0x0403, b"hallo", signature.as_ref());
            assert_eq!(other, Err(HandshakeError::Signature(SignatureError::Ecdsa)));
            let scheme = verify_handshake(&p256, tls, 0x0401, b"hello", signature.as_ref());
            assert!(scheme.is_err(), "an RSA scheme does not fit");
        }
        let (p384, signature) = sign(&ECDSA_P384_SHA384_ASN1_SIGNING);
        assert_eq!(verify_handshake(&p384, Tls::V13, 0x0503, b"hello", signature.as_ref()), Ok(()));
        let scheme = verify_handshake(&p384, Tls::V13, 0x0403, b"hello", signature.as_ref());
        assert_eq!(scheme, Err(HandshakeError::Scheme(0x0403)));
        assert!(matches!(
            verify_handshake(b"rubbish", Tls::V13, 0x0403, b"", b""),
            Err(HandshakeError::Malformed(_))
        ));
    }

    #[test]
    fn rsa_and_ed25519() {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8 = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key).unwrap();
        let der = certificate(pkcs8.as_ref());
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), b"hello", &mut signature).unwrap();
        for tls in [Tls::V12, Tls::V13] {
            assert_eq!(verify_handshake(&der, tls, 0x0804, b"hello", &signature), Ok(()));
        }
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"hello", &mut signature).unwrap();
        assert_eq!(verify_handshake(&der, Tls::V12, 0x0401, b"hello", &signature), Ok(()));
        let old = verify_handshake(&der, Tls::V13, 0x0401, b"hello", &signature);
        assert_eq!(old, Err(HandshakeError::Scheme(0x0401)), "TLS 1.3 has no PKCS #1 v1.5");

        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let der = certificate(pkcs8.as_ref());
        assert_eq!(verify_handshake(&der, Tls::V13, 0x0807, b"hello", key.sign(b"hello").as_ref()), Ok(()));
    }
}
