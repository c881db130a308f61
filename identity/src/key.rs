//! Private keys, zeroized when dropped.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use zeroize::Zeroizing;

/// A private key in PKCS#8 DER. It is moved or shared, never copied: clones refer to one buffer, which is zeroized
/// when the last one is dropped.
#[derive(Clone)]
pub struct PrivateKey(Bytes);

impl PrivateKey {
    /// Takes over a PKCS#8 DER buffer.
    #[must_use]
    pub fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(secret_bytes(der))
    }

    /// The key in PKCS#8 DER.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.0
    }

    /// The key in PKCS#8 DER, sharing the buffer.
    #[must_use]
    pub fn shared(&self) -> Bytes {
        self.0.clone()
    }

    /// The key as `PRIVATE KEY` PEM, in a buffer that is zeroized, too.
    #[must_use]
    pub fn pem(&self) -> Zeroizing<String> {
        // The capacity is enough for all of it, because growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() * 3 / 2 + 128));
        text.push_str("-----BEGIN PRIVATE KEY-----\n");
        for line in self.0.chunks(48) {
            STANDARD.encode_string(line, &mut text);
            text.push('\n');
        }
        text.push_str("-----END PRIVATE KEY-----\n");
        text
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// Bytes that are zeroized when the last reference is dropped.
fn secret_bytes(buffer: Vec<u8>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_what_the_pem_crate_reads() {
        let der: Vec<u8> = (0..=200).collect();
        let text = PrivateKey::from_pkcs8(der.clone()).pem();
        let block = pem::parse(text.as_bytes()).unwrap();
        assert_eq!((block.tag(), block.contents()), ("PRIVATE KEY", &der[..]));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", PrivateKey::from_pkcs8(vec![7; 9])), "PrivateKey(…)");
    }
}
