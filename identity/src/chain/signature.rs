//! Public keys and signatures of certificates: what Go's crypto/x509 verifies, by aws-lc.
//!
//! Go verifies three things that aws-lc-rs does not offer: ECDSA on P-224; RSA of less than 2048 bits with PSS, or with
//! SHA-384; RSA of more than 8192 bits. A chain with such a signature is refused here.

use std::borrow::Cow;

use aws_lc_rs::signature::{
    self as aws, EcdsaVerificationAlgorithm, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};

use super::certificate::{Certificate, Malformed};
use super::der::{self, NULL, Reader, SEQUENCE, constructed};

/// A public key of a kind that Go knows.
#[derive(Debug)]
pub(super) enum PublicKey<'a> {
    /// PKCS #1.
    Rsa {
        der: Cow<'a, [u8]>,
        bits: usize,
    },
    /// An uncompressed point.
    Ecdsa {
        curve: Curve,
        point: Cow<'a, [u8]>,
    },
    Ed25519(Cow<'a, [u8]>),
    /// One that is not used for certificates: DSA, X25519.
    Other,
}

/// A NIST curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P224,
    P256,
    P384,
    P521,
}

/// How a certificate says that it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rsa(Hash),
    RsaPss(Hash),
    Ecdsa(Hash),
    Ed25519,
    Dsa(Hash),
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// Why a candidate has not signed a certificate, in Go's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// By its basic constraints or its key usage.
    #[error("x509: invalid signature: parent certificate cannot sign this kind of certificate")]
    Parent,
    /// MD5 or SHA-1.
    #[error("x509: cannot verify signature: insecure algorithm {0}")]
    Insecure(&'static str),
    /// Unknown, or not to be had.
    #[error("x509: cannot verify signature: algorithm unimplemented")]
    Unimplemented,
    /// The candidate's key is of another kind.
    #[error("x509: signature algorithm specifies an {0} public key, but have public key of type {1}")]
    KeyKind(&'static str, &'static str),
    /// An RSA key of less than 1024 bits.
    #[error("crypto/rsa: {0}-bit keys are insecure (see https://go.dev/pkg/crypto/rsa#hdr-Minimum_key_size)")]
    Short(usize),
    /// Not by this RSA key.
    #[error("crypto/rsa: verification error")]
    Rsa,
    /// Not by this ECDSA key.
    #[error("x509: ECDSA verification failure")]
    Ecdsa,
    /// Not by this Ed25519 key.
    #[error("x509: Ed25519 verification failure")]
    Ed25519,
}

/// Whether `parent`'s key has signed `child`, and may sign certificates.
pub(super) fn check(child: &Certificate<'_>, parent: &Certificate<'_>) -> Result<(), SignatureError> {
    let may_sign = match &parent.extensions.basic_constraints {
        Some(constraints) => constraints.is_ca,
        None => parent.version != 3,
    };
    let usage = parent.extensions.key_usage;
    if !may_sign || (usage.any && !usage.cert_sign) {
        return Err(SignatureError::Parent);
    }
    let key = parent.key.as_ref().ok_or(SignatureError::Unimplemented)?;
    child.algorithm.check_strength()?;
    key.verify(child.algorithm, child.tbs, &child.signature)
}

impl PublicKey<'_> {
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let (verifier, key, wrong) = match (self, algorithm) {
            (Self::Rsa { bits, .. }, Algorithm::Rsa(_) | Algorithm::RsaPss(_)) if *bits < 1024 => {
                return Err(SignatureError::Short(*bits));
            }
            (Self::Rsa { der, bits }, Algorithm::Rsa(hash)) => (rsa(hash, *bits), der, SignatureError::Rsa),
            (Self::Rsa { der, .. }, Algorithm::RsaPss(hash)) => (pss(hash), der, SignatureError::Rsa),
            (Self::Ecdsa { curve, point }, Algorithm::Ecdsa(hash)) => {
                let verifier = ecdsa(*curve, hash).map(|verifier| verifier as &dyn VerificationAlgorithm);
                (verifier, point, SignatureError::Ecdsa)
            }
            (Self::Ed25519(key), Algorithm::Ed25519) => {
                (Some(&aws::ED25519 as &dyn VerificationAlgorithm), key, SignatureError::Ed25519)
            }
            (Self::Other, _) => return Err(SignatureError::Unimplemented),
            _ => return Err(SignatureError::KeyKind(algorithm.key_kind(), self.kind())),
        };
        if let Self::Rsa { bits, .. } = self
            && (*bits > 8192 || matches!(algorithm, Algorithm::RsaPss(_)) && *bits < 2048)
        {
            return Err(SignatureError::Unimplemented);
        }
        let verifier = verifier.ok_or(SignatureError::Unimplemented)?;
        UnparsedPublicKey::new(verifier, &**key).verify(message, signature).map_err(|_| wrong)
    }

    /// Go's name of the type.
    fn kind(&self) -> &'static str {
        match self {
            Self::Rsa { .. } => "*rsa.PublicKey",
            Self::Ecdsa { .. } => "*ecdsa.PublicKey",
            Self::Ed25519(_) => "ed25519.PublicKey",
            Self::Other => "",
        }
    }
}

fn rsa(hash: Hash, bits: usize) -> Option<&'static dyn VerificationAlgorithm> {
    match hash {
        Hash::Sha256 => Some(&aws::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
        Hash::Sha384 if bits >= 2048 => Some(&aws::RSA_PKCS1_2048_8192_SHA384),
        Hash::Sha512 => Some(&aws::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
        _ => None,
    }
}

fn pss(hash: Hash) -> Option<&'static dyn VerificationAlgorithm> {
    match hash {
        Hash::Sha256 => Some(&aws::RSA_PSS_2048_8192_SHA256),
        Hash::Sha384 => Some(&aws::RSA_PSS_2048_8192_SHA384),
        Hash::Sha512 => Some(&aws::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

fn ecdsa(curve: Curve, hash: Hash) -> Option<&'static EcdsaVerificationAlgorithm> {
    Some(match (curve, hash) {
        (Curve::P256, Hash::Sha256) => &aws::ECDSA_P256_SHA256_ASN1,
        (Curve::P256, Hash::Sha384) => &aws::ECDSA_P256_SHA384_ASN1,
        (Curve::P256, Hash::Sha512) => &aws::ECDSA_P256_SHA512_ASN1,
        (Curve::P384, Hash::Sha256) => &aws::ECDSA_P384_SHA256_ASN1,
        (Curve::P384, Hash::Sha384) => &aws::ECDSA_P384_SHA384_ASN1,
        (Curve::P384, Hash::Sha512) => &aws::ECDSA_P384_SHA512_ASN1,
        (Curve::P521, Hash::Sha256) => &aws::ECDSA_P521_SHA256_ASN1,
        (Curve::P521, Hash::Sha384) => &aws::ECDSA_P521_SHA384_ASN1,
        (Curve::P521, Hash::Sha512) => &aws::ECDSA_P521_SHA512_ASN1,
        _ => return None,
    })
}

impl Algorithm {
    pub(super) fn parse(mut identifier: Reader<'_>) -> Result<Self, Malformed> {
        let oid = identifier.oid().ok_or(Malformed("malformed OID"))?;
        let parameters = if identifier.is_empty() {
            None
        } else {
            Some(identifier.any().ok_or(Malformed("malformed parameters"))?.raw)
        };
        if oid == RSA_PSS {
            let hash = parameters.and_then(|parameters| pss_hash(Reader::new(parameters)));
            return Ok(hash.map_or(Self::Unknown, Self::RsaPss));
        }
        if oid == ED25519 && parameters.is_some() {
            return Ok(Self::Unknown);
        }
        let found = ALGORITHMS.iter().find(|(known, _)| *known == oid);
        Ok(found.map_or(Self::Unknown, |(_, algorithm)| *algorithm))
    }

    fn check_strength(self) -> Result<(), SignatureError> {
        match self {
            Self::Rsa(Hash::Md5) => Err(SignatureError::Insecure("MD5-RSA")),
            Self::Rsa(Hash::Sha1) => Err(SignatureError::Insecure("SHA1-RSA")),
            Self::Ecdsa(Hash::Sha1) => Err(SignatureError::Insecure("ECDSA-SHA1")),
            Self::Dsa(Hash::Sha1) => Err(SignatureError::Insecure("DSA-SHA1")),
            Self::Unknown => Err(SignatureError::Unimplemented),
            _ => Ok(()),
        }
    }

    fn key_kind(self) -> &'static str {
        match self {
            Self::Rsa(_) | Self::RsaPss(_) => "RSA",
            Self::Ecdsa(_) => "ECDSA",
            Self::Ed25519 => "Ed25519",
            Self::Dsa(_) => "DSA",
            Self::Unknown => "",
        }
    }
}

/// The hash of RSASSA-PSS parameters (RFC 4055 §3.1), where all of them fit together: the same hash for the mask, its length
/// for the salt, the usual trailer.
fn pss_hash(mut parameters: Reader<'_>) -> Option<Hash> {
    let mut fields = parameters.within(SEQUENCE)?;
    let hash = hash_identifier(fields.within(constructed(0))?)?;
    let mut mask = fields.within(constructed(1))?.within(SEQUENCE)?;
    let same = mask.oid()? == MGF1 && hash_identifier(mask)? == hash;
    let salt = fields.within(constructed(2))?.int64(der::INTEGER)?;
    let trailer = match fields.optional(constructed(3))? {
        Some(mut trailer) => trailer.int64(der::INTEGER)?,
        None => 1,
    };
    let (hash, length) = match hash {
        SHA256 => (Hash::Sha256, 32),
        SHA384 => (Hash::Sha384, 48),
        SHA512 => (Hash::Sha512, 64),
        _ => return None,
    };
    (same && trailer == 1 && salt == length).then_some(hash)
}

/// The identifier of a hash, of which the parameters are absent or NULL.
fn hash_identifier<'a>(mut fields: Reader<'a>) -> Option<&'a [u8]> {
    let mut identifier = fields.within(SEQUENCE)?;
    let oid = identifier.oid()?;
    (identifier.is_empty() || identifier.any()?.raw == NULL).then_some(oid)
}

impl<'a> PublicKey<'a> {
    /// Reads a SubjectPublicKeyInfo; `None` when its kind is not known.
    pub(super) fn parse(mut info: Reader<'a>) -> Result<Option<Self>, Malformed> {
        let malformed = Malformed("malformed public key algorithm identifier");
        let mut identifier = info.within(SEQUENCE).ok_or(malformed)?;
        let oid = identifier.oid().ok_or(Malformed("malformed OID"))?;
        let parameters = if identifier.is_empty() {
            &[]
        } else {
            identifier.any().ok_or(Malformed("malformed parameters"))?.raw
        };
        let key = info.bits().ok_or(Malformed("malformed subjectPublicKey"))?.right_aligned();
        match oid {
            RSA => Self::rsa(key, parameters).map(Some),
            EC => Self::ec(key, Reader::new(parameters)).map(Some),
            ED25519 if !parameters.is_empty() => {
                Err(Malformed("Ed25519 key encoded with illegal parameters"))
            }
            ED25519 if key.len() != 32 => Err(Malformed("wrong Ed25519 public key size")),
            ED25519 => Ok(Some(Self::Ed25519(key))),
            X25519 | DSA => Ok(Some(Self::Other)),
            _ => Ok(None),
        }
    }

    fn rsa(der: Cow<'a, [u8]>, parameters: &[u8]) -> Result<Self, Malformed> {
        if parameters != NULL {
            return Err(Malformed("RSA key missing NULL parameters"));
        }
        let mut fields = Reader::new(&der).within(SEQUENCE).ok_or(Malformed("invalid RSA public key"))?;
        let modulus = fields.integer().ok_or(Malformed("invalid RSA modulus"))?;
        let exponent = fields.int64(der::INTEGER).ok_or(Malformed("invalid RSA public exponent"))?;
        let bits = match modulus.iter().position(|byte| *byte != 0) {
            Some(zeros) if modulus[0] & 0x80 == 0 => {
                (modulus.len() - zeros) * 8 - modulus[zeros].leading_zeros() as usize
            }
            _ => return Err(Malformed("RSA modulus is not a positive number")),
        };
        if exponent <= 0 {
            return Err(Malformed("RSA public exponent is not a positive number"));
        }
        Ok(Self::Rsa { der, bits })
    }

    fn ec(point: Cow<'a, [u8]>, mut parameters: Reader<'_>) -> Result<Self, Malformed> {
        let curve = parameters.oid().ok_or(Malformed("invalid ECDSA parameters"))?;
        let curves = [
            (P224, Curve::P224, 57),
            (P256, Curve::P256, 65),
            (P384, Curve::P384, 97),
            (P521, Curve::P521, 133),
        ];
        let known = curves.into_iter().find(|(oid, ..)| *oid == curve);
        let (_, curve, length) = known.ok_or(Malformed("unsupported elliptic curve"))?;
        let verifier = ecdsa(curve, Hash::Sha256);
        let on_curve = verifier.is_none_or(|verifier| ParsedPublicKey::new(verifier, &*point).is_ok());
        if point.len() != length || point[0] != 4 || !on_curve {
            return Err(Malformed("invalid point encoding"));
        }
        Ok(Self::Ecdsa { curve, point })
    }
}

/// The algorithms whose parameters do not matter.
const ALGORITHMS: [(&[u8], Algorithm); 13] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4], Algorithm::Rsa(Hash::Md5)),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], Algorithm::Rsa(Hash::Sha1)),
    (&[0x2b, 0x0e, 3, 2, 0x1d], Algorithm::Rsa(Hash::Sha1)),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], Algorithm::Rsa(Hash::Sha256)),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12], Algorithm::Rsa(Hash::Sha384)),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13], Algorithm::Rsa(Hash::Sha512)),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3], Algorithm::Dsa(Hash::Sha1)),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 2], Algorithm::Dsa(Hash::Sha256)),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1], Algorithm::Ecdsa(Hash::Sha1)),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], Algorithm::Ecdsa(Hash::Sha256)),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], Algorithm::Ecdsa(Hash::Sha384)),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4], Algorithm::Ecdsa(Hash::Sha512)),
    (ED25519, Algorithm::Ed25519),
];

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const DSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const X25519: &[u8] = &[0x2b, 0x65, 0x6e];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];
const P224: &[u8] = &[0x2b, 0x81, 4, 0, 0x21];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 4, 0, 0x23];
