//! A response that must be sent.

use std::borrow::Cow;
use std::sync::Arc;

use crate::secret::{Digest, Encoded};
use crate::wire::Protocol;

/// One response. Its resources are shared with all other streams that send them.
#[derive(Debug)]
pub struct Push {
    pub(crate) protocol: Protocol,
    pub(crate) version: Hex<16>,
    /// The resources that are sent, by ascending name.
    pub resources: Vec<Arc<Encoded>>,
    /// The names of resources that the client must forget, ascending. Only a delta stream has them.
    pub removed: Vec<Box<str>>,
    /// The type URL, as in the request.
    pub type_url: Cow<'static, str>,
    pub(crate) nonce: Hex<8>,
}

impl Push {
    /// A digest of the public content of everything that the client now has; empty with FetchSecrets.
    #[must_use]
    pub fn version_info(&self) -> &str {
        self.version.as_str()
    }

    /// The nonce, which the client's answer must repeat; empty with FetchSecrets.
    #[must_use]
    pub fn nonce(&self) -> &str {
        self.nonce.as_str()
    }
}

/// A number as hexadecimal digits, or nothing. Each push has two; `format!` takes ten times as long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hex<const DIGITS: usize>(Option<[u8; DIGITS]>);

impl<const DIGITS: usize> Hex<DIGITS> {
    /// The lowest `DIGITS` digits of `number`.
    pub(crate) fn of(number: u64) -> Self {
        let digit = |place| b"0123456789abcdef"[(number >> (4 * (DIGITS - 1 - place))) as usize & 0xf];
        Self(Some(std::array::from_fn(digit)))
    }

    /// Digits that a client sent; `None` if there are more or fewer.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(|digits| Self(Some(digits)))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], <[u8; DIGITS]>::as_slice)
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl Hex<16> {
    /// The beginning of a digest.
    pub(crate) fn of_digest(digest: &Digest) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        Self::of(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}
