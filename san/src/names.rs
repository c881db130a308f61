//! The subject alternative names of a certificate, read without copies.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::prelude::X509Certificate;

/// The types of names that Envoy can match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `EMAIL`.
    Email,
    /// `DNS`.
    Dns,
    /// `URI`, the type of SPIFFE IDs.
    Uri,
    /// `IP_ADDRESS`, matched as text.
    Ip,
}

impl Kind {
    /// The name of the type in `san_type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Dns => "DNS",
            Self::Uri => "URI",
            Self::Ip => "IP_ADDRESS",
        }
    }
}

/// One subject alternative name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// The type of the name.
    pub kind: Kind,
    /// The text as it is in the certificate; for an IP address, its 4 or 16 bytes.
    pub bytes: &'a [u8],
}

impl<'a> Name<'a> {
    /// The text that Envoy compares. An address is written into `buffer`.
    pub(super) fn text<'b>(&self, buffer: &'b mut Address) -> &'b [u8]
    where
        'a: 'b,
    {
        if self.kind != Kind::Ip {
            return self.bytes;
        }
        // Envoy has no text for an address of another length.
        let _ = if let Ok(octets) = <[u8; 4]>::try_from(self.bytes) {
            write!(buffer, "{}", Ipv4Addr::from(octets))
        } else if let Ok(octets) = <[u8; 16]>::try_from(self.bytes) {
            write!(buffer, "{}", Ipv6Addr::from(octets))
        } else {
            Ok(())
        };
        buffer.text()
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = Address::default();
        write!(f, "{:?}", String::from_utf8_lossy(self.text(&mut buffer)))
    }
}

/// A buffer for an address as text. It is on the stack, so that matching allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Address {
    // The longest text is that of an IPv4-mapped address: 45 bytes.
    bytes: [[u8; 16]; 3],
    length: usize,
}

impl Address {
    fn text(&self) -> &[u8] {
        &self.bytes.as_flattened()[..self.length]
    }
}

impl fmt::Write for Address {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.as_flattened_mut().get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Iterates over the names of one certificate, in its order. Types that Envoy cannot match are skipped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names<'a> {
    rest: &'a [u8],
}

impl<'a> Names<'a> {
    /// The names of this certificate. As in BoringSSL, there are none if the extension is malformed or occurs twice.
    #[must_use]
    pub fn of(certificate: &X509Certificate<'a>) -> Self {
        let mut found = certificate.extensions().iter().filter(|extension| extension.oid.as_bytes() == SAN);
        match (found.next(), found.next()) {
            (Some(extension), None) => Self::parse(extension.value).unwrap_or_default(),
            _ => Self::default(),
        }
    }

    /// Parses the value of the extension (RFC 5280 §4.2.1.6). `None` if it is malformed.
    #[must_use]
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let (SEQUENCE, content, []) = element(der)? else { return None };
        let mut rest = content;
        while !rest.is_empty() {
            rest = element(rest)?.2;
        }
        Some(Self { rest: content })
    }
}

impl<'a> Iterator for Names<'a> {
    type Item = Name<'a>;

    fn next(&mut self) -> Option<Name<'a>> {
        loop {
            let (tag, bytes, rest) = element(self.rest)?;
            self.rest = rest;
            let kind = match tag {
                0x81 => Kind::Email,
                0x82 => Kind::Dns,
                0x86 => Kind::Uri,
                0x87 => Kind::Ip,
                _ => continue,
            };
            return Some(Name { kind, bytes });
        }
    }
}

/// Splits an element in DER, whose tag has one byte, into tag, content and the bytes after it.
pub(super) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            // DER allows only the shortest form of a length.
            let shortest = if first == 0x81 { length >= 0x80 } else { bytes[0] != 0 };
            (shortest.then_some(length)?, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

const SEQUENCE: u8 = 0x30;
/// `id-ce-subjectAltName`, 2.5.29.17.
const SAN: &[u8] = &[0x55, 0x1d, 0x11];
