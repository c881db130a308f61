//! A public key taken apart, as a JSON Web Key has it.

use super::der::{Reader, SEQUENCE};
use super::signature::{Curve, PublicKey};

/// The numbers of a public key, big-endian.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Jwk {
    /// Without leading zeros.
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// As long as the curve's field.
    Ec {
        curve: Curve,
        x: Vec<u8>,
        y: Vec<u8>,
    },
    Ed25519(Vec<u8>),
}

impl Jwk {
    /// Reads a SubjectPublicKeyInfo in DER. `None` for what cannot be read and for other kinds of keys.
    pub(crate) fn of_spki(der: &[u8]) -> Option<Self> {
        let info = Reader::new(der).within(SEQUENCE)?;
        match PublicKey::parse(info).ok()?? {
            PublicKey::Rsa { der, .. } => {
                let mut fields = Reader::new(&der).within(SEQUENCE)?;
                let mut number = || fields.integer().map(without_zeros);
                Some(Self::Rsa { modulus: number()?, exponent: number()? })
            }
            PublicKey::Ecdsa { curve, point } => {
                let (_, coordinates) = point.split_first()?;
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                Some(Self::Ec { curve, x: x.to_vec(), y: y.to_vec() })
            }
            PublicKey::Ed25519(key) => Some(Self::Ed25519(key.into_owned())),
            PublicKey::Other => None,
        }
    }
}

fn without_zeros(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number[zeros..].to_vec()
}
