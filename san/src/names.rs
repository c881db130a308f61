//! A certificate's subject alternative names, by reference.

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
    /// `URI`: a SPIFFE ID is one.
    Uri,
    /// `IP_ADDRESS`, matched as text.
    Ip,
}

impl Kind {
    /// As in `san_type`.
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

/// One name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its text as it stands in the certificate; the bytes of an address.
    pub bytes: &'a [u8],
}

impl<'a> Name<'a> {
    /// What Envoy compares; an address is written into `buffer` for that.
    pub(super) fn text<'b>(&self, buffer: &'b mut Address) -> &'b [u8]
    where
        'a: 'b,
    {
        if self.kind != Kind::Ip {
            return self.bytes;
        }
        // An address of any other length is no text to Envoy.
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

/// Room for an address as text, on the stack: matching allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Address {
    // The longest is that of an IPv4-mapped one: 45.
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

/// The names of one certificate, in its order. Types that Envoy cannot match are passed over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names<'a> {
    rest: &'a [u8],
}

impl<'a> Names<'a> {
    /// Of this certificate. There are none when the extension is malformed or there twice: so it is for BoringSSL.
    #[must_use]
    pub fn of(certificate: &X509Certificate<'a>) -> Self {
        let mut found = certificate.extensions().iter().filter(|extension| extension.oid.as_bytes() == SAN);
        match (found.next(), found.next()) {
            (Some(extension), None) => Self::parse(extension.value).unwrap_or_default(),
            _ => Self::default(),
        }
    }

    /// Reads the value of the extension (RFC 5280, §4.2.1.6).
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

/// Tag, content and what follows, of an element in DER with a tag of one byte.
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
            // The shortest form is the only one.
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
