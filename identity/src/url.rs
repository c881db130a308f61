//! URLs as Go's `net/url` reads them: what it takes is taken, and no more. The Go programs around SPIRE find with it the host in a
//! SPIFFE ID, which name constraints are about, and the proxy in an environment variable.

use std::net::Ipv6Addr;

/// The parts of a URL that somebody here asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// In lower case; empty where there is none.
    pub scheme: String,
    /// Who asks.
    pub user: Option<User>,
    /// With its port; empty where there is none.
    pub host: String,
}

/// The user information, without its escapes.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Before the colon.
    pub name: Vec<u8>,
    /// Behind the colon.
    pub password: Vec<u8>,
}

impl Url {
    /// Reads a URL, absolute or relative. `None` where Go finds an error.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        if text.bytes().any(|byte| byte.is_ascii_control()) || !is_escaped(fragment) {
            return None;
        }
        let (scheme, rest) = scheme(text)?;
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        let without_host = || Self { scheme: scheme.to_ascii_lowercase(), user: None, host: String::new() };
        if !rest.starts_with('/') {
            let first = rest.split('/').next().unwrap_or_default();
            let is_path = !first.contains(':') && is_escaped(rest);
            return (!scheme.is_empty() || is_path).then(without_host);
        }
        let authority = rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///"));
        let Some(authority) = authority else { return is_escaped(rest).then(without_host) };
        let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
        if !is_escaped(path) {
            return None;
        }
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(User::parse(user)?), host),
            None => (None, authority),
        };
        let host = host_and_port(&scheme.to_ascii_lowercase(), host)?;
        Some(Self { user, host, ..without_host() })
    }

    /// The host without brackets, and its port, which is empty where there is none.
    #[must_use]
    pub fn host_and_port(&self) -> (&str, &str) {
        let host = &*self.host;
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, port),
            _ => (host, ""),
        };
        (name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port)
    }
}

impl User {
    fn parse(text: &str) -> Option<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:%@".contains(&byte);
        if !text.bytes().all(is_allowed) {
            return None;
        }
        let (name, password) = text.split_once(':').unwrap_or((text, ""));
        Some(Self { name: unescaped(name)?, password: unescaped(password)? })
    }
}

/// The scheme, which may be missing, and what is behind it.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '+' | '-' | '.'));
    match end {
        Some(0) if text.starts_with(':') => None,
        Some(end) if text[end..].starts_with(':') && text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            Some((&text[..end], &text[end + 1..]))
        }
        _ => Some(("", text)),
    }
}

fn host_and_port(scheme: &str, host: &str) -> Option<String> {
    match host.rfind('[') {
        Some(0) => {
            let (literal, port) = host[1..].rsplit_once(']')?;
            let literal = match literal.split_once("%25") {
                Some((address, zone)) => format!("{}%{}", unescaped_host(address)?, zone_id(zone)?),
                None => unescaped_host(literal)?,
            };
            let address = literal.split_once('%').map_or(&*literal, |(address, _)| address);
            address.parse::<Ipv6Addr>().ok()?;
            is_optional_port(port).then(|| format!("[{literal}]{port}"))
        }
        Some(_) => None,
        None => {
            let is_strict = matches!(scheme, "http" | "https");
            let colon = if is_strict { host.find(':') } else { host.rfind(':') };
            if !colon.is_none_or(|colon| is_optional_port(&host[colon..])) {
                return None;
            }
            unescaped_host(host)
        }
    }
}

fn is_optional_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether every percent sign begins an escape.
fn is_escaped(text: &str) -> bool {
    text.split('%').skip(1).all(|part| escape(part).is_some())
}

/// The byte of the two digits at the front.
fn escape(digits: &str) -> Option<u8> {
    let digits = digits.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(escape(part)?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

/// A host without its escapes, which may stand for bytes beyond ASCII and for the percent sign. What is no UTF-8 becomes
/// `\u{fffd}`: no domain has it.
fn unescaped_host(host: &str) -> Option<String> {
    let allows = |part: &str| matches!(escape(part), Some(b'%' | 0x80..));
    if !host.split('%').skip(1).all(allows) || !host.bytes().all(is_host) {
        return None;
    }
    unescaped(host).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A zone of an IPv6 address (RFC 6874): what a host may have, written out or escaped, and blanks.
fn zone_id(zone: &str) -> Option<String> {
    let allows = |byte: u8| byte == b' ' || byte.is_ascii_graphic() && is_host(byte);
    let is_allowed = |part: &str| escape(part).is_some_and(allows);
    let fits = !zone.is_empty() && zone.bytes().all(is_host) && zone.split('%').skip(1).all(is_allowed);
    unescaped(zone).filter(|_| fits).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn is_host(byte: u8) -> bool {
    !b" \\^`{|}".contains(&byte)
}
