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
    /// As it is written, with its escapes. Without a slash in front it is what Go calls opaque.
    pub path: String,
    /// As it is written; empty where there is none.
    pub query: String,
    /// As it is written; empty where there is none.
    pub fragment: String,
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
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let without_host = || Self {
            scheme: scheme.to_ascii_lowercase(),
            user: None,
            host: String::new(),
            path: rest.to_owned(),
            query: query.to_owned(),
            fragment: fragment.to_owned(),
        };
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
        Some(Self { user, host, path: path.to_owned(), ..without_host() })
    }

    /// The path without its escapes; `None` if it is no UTF-8 then.
    #[must_use]
    pub fn unescaped_path(&self) -> Option<String> {
        String::from_utf8(unescaped(&self.path)?).ok()
    }

    /// The parameters of the query without their escapes, in order. What Go finds malformed (a semicolon, an escape
    /// that is none) is left out, as there.
    #[must_use]
    pub fn parameters(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let plain = |text: &str| unescaped(&text.replace('+', " "));
        let parameter = |text: &str| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            plain(key).zip(plain(value)).filter(|_| !text.contains(';'))
        };
        self.query.split('&').filter(|text| !text.is_empty()).filter_map(parameter).collect()
    }

    /// Makes the query of these parameters, sorted by key, as Go's `url.Values` does.
    pub fn set_parameters(&mut self, mut parameters: Vec<(Vec<u8>, Vec<u8>)>) {
        parameters.sort_by(|(a, _), (b, _)| a.cmp(b));
        let texts = parameters.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value)));
        self.query = texts.collect::<Vec<_>>().join("&");
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

fn escaped(bytes: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b' ' => "+".to_owned(),
        b'-' | b'_' | b'.' | b'~' => char::from(*byte).into(),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte).into(),
        byte => format!("%{byte:02X}"),
    };
    bytes.iter().map(one).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<[String; 5]> {
        let Url { scheme, host, path, query, fragment, .. } = Url::parse(text)?;
        Some([scheme, host, path, query, fragment])
    }

    #[test]
    fn a_url_has_its_parts() {
        for (text, expected) in [
            ("HTTPS://Host:8443/a%20b/c?d=e&f#g", ["https", "Host:8443", "/a%20b/c", "d=e&f", "g"]),
            ("https://host", ["https", "host", "", "", ""]),
            ("https://host?a", ["https", "host", "", "a", ""]),
            ("unix:///run/a.sock", ["unix", "", "/run/a.sock", "", ""]),
            ("unix:a.sock", ["unix", "", "a.sock", "", ""]),
            ("/path?x", ["", "", "/path", "x", ""]),
        ] {
            assert_eq!(parts(text), Some(expected.map(str::to_owned)), "{text}");
        }
        for text in ["https://host/%zz", "https://host:port/", "http://h/a\nb", ":", "1:2"] {
            assert_eq!(parts(text), None, "{text}");
        }
        assert_eq!(Url::parse("unix:///a%20b").unwrap().unescaped_path().unwrap(), "/a b");
        assert_eq!(Url::parse("unix:///%ff").unwrap().unescaped_path(), None);
    }

    #[test]
    fn parameters_are_read_and_written_as_by_go() {
        for (text, expected) in [
            ("", ""),
            ("b=2&a=1&b=1", "a=1&b=2&b=1"),
            ("a+b=c%20d&e", "a+b=c+d&e="),
            ("=x&&%3D=%26", "=x&%3D=%26"),
            ("a;b=1&c=%zz&%=1&d=1", "d=1"),
            ("t=2026-01-01T00:00:00Z&u=\u{e4}~", "t=2026-01-01T00%3A00%3A00Z&u=%C3%A4~"),
        ] {
            let mut url = Url::parse(&format!("http://h/?{text}")).unwrap();
            url.set_parameters(url.parameters());
            assert_eq!(url.query, expected, "{text}");
        }
    }
}
