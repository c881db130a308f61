//! Authorities that are no longer trusted, and whether one of them has signed an SVID.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Bundle, X509Svid};

/// Authorities that are tainted, or were removed from their bundle, as a set of key identifiers. The
/// SubjectKeyIdentifier of an authority is the AuthorityKeyIdentifier of what it signs (RFC 5280 §4.2.1.1); SPIRE
/// names authorities by it, too. An authority without one cannot be told from others and is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distrusted(BTreeSet<Vec<u8>>);

impl Distrusted {
    /// The tainted authorities of a bundle.
    #[must_use]
    pub fn tainted(bundle: &Bundle) -> Self {
        let tainted = bundle.x509_authorities.iter().filter(|authority| authority.tainted);
        Self(tainted.filter_map(|authority| subject_key(&authority.der)).collect())
    }

    /// The authorities of `before` that `after` does not have.
    #[must_use]
    pub fn removed(before: &Bundle, after: &Bundle) -> Self {
        let keys = |bundle: &Bundle| -> BTreeSet<Vec<u8>> {
            bundle.x509_authorities.iter().filter_map(|authority| subject_key(&authority.der)).collect()
        };
        Self(&keys(before) - &keys(after))
    }

    /// The authorities of this set that are not in `others`.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self(&self.0 - &others.0)
    }

    /// The authorities of both sets.
    #[must_use]
    pub fn with(&self, others: &Self) -> Self {
        Self(&self.0 | &others.0)
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the authorities has signed the leaf of an SVID or one of its intermediates.
    #[must_use]
    pub fn has_signed<K>(&self, svid: &X509Svid<K>) -> bool {
        !self.is_empty()
            && svid.chain.iter().filter_map(authority_key).any(|signed_by| self.0.contains(&signed_by))
    }
}

/// Writes the key identifiers as SPIRE logs them: in hexadecimal, separated by commas.
impl fmt::Display for Distrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, key) in self.0.iter().enumerate() {
            f.write_str(if place == 0 { "" } else { "," })?;
            key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

fn subject_key(der: &Bytes) -> Option<Vec<u8>> {
    key_identifier(der, |extension| match extension {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
        _ => None,
    })
}

fn authority_key(der: &Bytes) -> Option<Vec<u8>> {
    key_identifier(der, |extension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(key) => Some(key.key_identifier.as_ref()?.0.to_vec()),
        _ => None,
    })
}

fn key_identifier(der: &[u8], find: impl Fn(&ParsedExtension<'_>) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.extensions().iter().find_map(|extension| find(extension.parsed_extension()))
}

#[cfg(test)]
mod tests;
