//! Whether a certificate is for a host, as Go's `Certificate.VerifyHostname` says it: by subject alternative names alone.

use std::net::IpAddr;

use super::certificate::{Certificate, Malformed};

/// Verifies that a certificate is for this host name or address. An address may stand in brackets.
///
/// # Errors
/// [`HostError`].
pub fn verify_host(leaf: &[u8], host: &str) -> Result<(), HostError> {
    let names = Certificate::parse(leaf)?.extensions.names;
    let inner =
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).filter(|inner| !inner.is_empty());
    let fits = match inner.unwrap_or(host).parse::<IpAddr>() {
        Ok(address) => names.addresses.iter().any(|bytes| is_address(bytes, address)),
        Err(_) => names.dns.iter().any(|pattern| is_name(pattern, host)),
    };
    if fits {
        return Ok(());
    }
    let listed = names.dns.iter().map(ToString::to_string);
    let valid =
        listed.chain(names.addresses.iter().filter_map(|bytes| address(bytes)).map(|ip| ip.to_string()));
    Err(HostError::Other { host: host.to_owned(), valid: valid.collect::<Vec<_>>().join(", ") })
}

/// Why a certificate is not for a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is for others.
    #[error("x509: certificate is valid for {}, not {host}", if valid.is_empty() { "no name" } else { valid })]
    Other {
        /// The host that was asked for.
        host: String,
        /// The names that it has, separated by commas.
        valid: String,
    },
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// Whether two addresses are the same; IPv4 may be written as IPv6.
fn is_address(bytes: &[u8], wanted: IpAddr) -> bool {
    address(bytes).is_some_and(|found| found.to_canonical() == wanted.to_canonical())
}

fn is_name(pattern: &str, host: &str) -> bool {
    if !is_valid(host, false) || !is_valid(pattern, true) {
        let is_nothing = |name: &str| name.is_empty() || name == ".";
        return !is_nothing(pattern) && !is_nothing(host) && pattern.eq_ignore_ascii_case(host);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let (patterns, hosts) = (pattern.split('.'), host.split('.'));
    patterns.clone().count() == hosts.clone().count()
        && patterns.zip(hosts).enumerate().all(|(place, (pattern, host))| {
            (place == 0 && pattern == "*") || pattern.eq_ignore_ascii_case(host)
        })
}

/// Whether it looks like a host name. A pattern may begin with a label that is a star, and has no dot at its end.
fn is_valid(name: &str, is_pattern: bool) -> bool {
    let name = if is_pattern { name } else { name.strip_suffix('.').unwrap_or(name) };
    if name.is_empty() || name == "*" {
        return false;
    }
    let is_label = |(place, label): (usize, &str)| {
        let is_letter = |(at, byte): (usize, u8)| {
            byte.is_ascii_alphanumeric() || byte == b'_' || (byte == b'-' && at != 0)
        };
        !label.is_empty()
            && ((is_pattern && place == 0 && label == "*") || label.bytes().enumerate().all(is_letter))
    };
    name.split('.').enumerate().all(is_label)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::Value;

    use super::*;

    /// The table that Go made (`tests/peers/go/hosts`).
    #[test]
    fn hosts_are_judged_as_by_go() {
        let table: Value = serde_json::from_str(include_str!("../../testdata/hosts.json")).unwrap();
        let rows = table["rows"].as_array().unwrap();
        assert!(rows.len() >= 60, "{}", rows.len());
        for row in rows {
            let certificate = usize::try_from(row["certificate"].as_u64().unwrap()).unwrap();
            let der = STANDARD.decode(table["certificates"][certificate].as_str().unwrap()).unwrap();
            let judged = verify_host(&der, row["host"].as_str().unwrap());
            assert_eq!(judged.is_ok(), row["fits"].as_bool().unwrap(), "{row}: {judged:?}");
        }
    }
}
