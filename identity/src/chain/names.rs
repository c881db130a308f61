//! Subject alternative names (RFC 5280 §4.2.1.6), read as Go reads them; what a name constraint is compared with.

use super::certificate::Malformed;
use super::der::{Reader, SEQUENCE};
use crate::Url;

/// The names of the kinds that Go knows.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
    pub(super) dns: Vec<&'a str>,
    pub(super) emails: Vec<&'a str>,
    /// Of four or sixteen bytes.
    pub(super) addresses: Vec<&'a [u8]>,
    pub(super) uris: Vec<Uri<'a>>,
}

/// A URI that Go's `url.Parse` takes.
#[derive(Debug)]
pub(super) struct Uri<'a> {
    pub(super) text: &'a str,
    /// With its port; empty where there is none.
    pub(super) host: String,
}

/// An email address (RFC 2821 §4.1.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub(super) local: Vec<u8>,
    /// In lower case.
    pub(super) domain: String,
}

impl<'a> Names<'a> {
    pub(super) fn parse(mut reader: Reader<'a>) -> Result<Self, Malformed> {
        let mut list = reader.within(SEQUENCE).ok_or(Malformed("invalid subject alternative names"))?;
        let mut names = Self::default();
        while !list.is_empty() {
            let name = list.any().ok_or(Malformed("invalid subject alternative name"))?;
            match name.tag {
                EMAIL => {
                    names.emails.push(ia5(name.content).ok_or(Malformed("SAN rfc822Name is malformed"))?);
                }
                DNS => names.dns.push(ia5(name.content).ok_or(Malformed("SAN dNSName is malformed"))?),
                URI => {
                    let text = ia5(name.content);
                    let text = text.ok_or(Malformed("SAN uniformResourceIdentifier is malformed"))?;
                    let host = Url::parse(text).map(|url| url.host).filter(|host| is_domain(host, false));
                    names.uris.push(Uri { text, host: host.ok_or(Malformed("cannot parse URI"))? });
                }
                IP if !matches!(name.content.len(), 4 | 16) => {
                    return Err(Malformed("cannot parse IP address"));
                }
                IP => names.addresses.push(name.content),
                _ => {}
            }
        }
        Ok(names)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.emails.is_empty() && self.addresses.is_empty() && self.uris.is_empty()
    }
}

pub(super) fn ia5(bytes: &[u8]) -> Option<&str> {
    if bytes.is_ascii() { std::str::from_utf8(bytes).ok() } else { None }
}

/// Whether it is like a domain name: no empty labels, no dot at its end, no blanks. An empty one is; a constraint may
/// begin with a dot.
pub(super) fn is_domain(text: &str, constraint: bool) -> bool {
    if text.is_empty() {
        return true;
    }
    let labels = if constraint { text.strip_prefix('.').unwrap_or(text) } else { text };
    let is_printable = |byte: u8| (33..=126).contains(&byte);
    if !labels.bytes().all(is_printable) || text.ends_with('.') {
        return false;
    }
    labels.split('.').all(|label| !label.is_empty())
}

impl Mailbox {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (local, rest) = match text.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted)?,
            None => dot_string(text)?,
        };
        let domain = rest.strip_prefix('@')?;
        let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| (33..=126).contains(&b));
        if !domain.is_empty() && !domain.split('.').all(is_label) {
            return None;
        }
        Some(Self { local, domain: domain.to_ascii_lowercase() })
    }
}

impl std::fmt::Display for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", String::from_utf8_lossy(&self.local), self.domain)
    }
}

/// What is in quotes, and what is behind them.
fn quoted_string(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut local = Vec::new();
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        local.push(match byte {
            b'"' => return Some((local, &text[at + 1..])),
            b'\\' => {
                bytes.next().map(|(_, byte)| byte).filter(|byte| !matches!(byte, 0 | 10 | 13 | 128..))?
            }
            0 | 9 | 10 | 13 | 128.. => return None,
            byte => byte,
        });
    }
    None
}

/// Atoms between dots, and what is behind them. An escape is taken here too, as RFC 3696 has it.
fn dot_string(text: &str) -> Option<(Vec<u8>, &str)> {
    let is_text = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
    let mut local = Vec::new();
    let mut bytes = text.bytes().enumerate();
    let mut end = text.len();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => local.push(bytes.next()?.1),
            byte if is_text(byte) => local.push(byte),
            _ => {
                end = at;
                break;
            }
        }
    }
    let has_twins = local.windows(2).any(|pair| pair == b"..");
    let fits = !local.is_empty() && !local.starts_with(b".") && !local.ends_with(b".") && !has_twins;
    fits.then(|| (local, &text[end..]))
}

const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;
