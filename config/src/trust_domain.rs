//! Checks trust domain names as strictly as SPIRE: upper case is refused.

use thiserror::Error;

/// Why a text is no trust domain, in go-spiffe's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TrustDomainError {
    #[error("trust domain is missing")]
    Missing,
    #[error("scheme is missing or invalid")]
    WrongScheme,
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    BadCharacter,
    #[error("path segment characters are limited to letters, numbers, dots, dashes, and underscores")]
    BadPathCharacter,
    #[error("path cannot contain empty segments")]
    EmptySegment,
    #[error("path cannot contain dot segments")]
    DotSegment,
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
}

/// The name of the trust domain in `td`, `spiffe://td` or any SPIFFE ID of the trust domain.
pub(crate) fn parse(text: &str) -> Result<&str, TrustDomainError> {
    if text.is_empty() {
        return Err(TrustDomainError::Missing);
    }
    if text.contains(":/") {
        return parse_id(text);
    }
    check_name(text)
}

/// The trust domain of a SPIFFE ID, which must be valid as a whole.
pub(crate) fn parse_id(text: &str) -> Result<&str, TrustDomainError> {
    let rest = text.strip_prefix("spiffe://").ok_or(TrustDomainError::WrongScheme)?;
    let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    check_name(name)?;
    check_path(path)?;
    Ok(name)
}

fn check_name(name: &str) -> Result<&str, TrustDomainError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match name {
        "" => Err(TrustDomainError::Missing),
        name if name.bytes().all(allowed) => Ok(name),
        _ => Err(TrustDomainError::BadCharacter),
    }
}

fn check_path(path: &str) -> Result<(), TrustDomainError> {
    let Some(path) = path.strip_prefix('/') else { return Ok(()) };
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" if segments.peek().is_none() => return Err(TrustDomainError::TrailingSlash),
            "" => return Err(TrustDomainError::EmptySegment),
            "." | ".." => return Err(TrustDomainError::DotSegment),
            _ => {}
        }
        if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            return Err(TrustDomainError::BadPathCharacter);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{TrustDomainError, parse};

    #[test]
    fn is_as_strict_as_spire() {
        for (text, expected) in [
            ("example.org", Ok("example.org")),
            ("am-multi-account-mesh", Ok("am-multi-account-mesh")),
            ("a_b.0", Ok("a_b.0")),
            ("spiffe://td", Ok("td")),
            ("spiffe://td/a/b", Ok("td")),
            ("", Err(TrustDomainError::Missing)),
            ("spiffe://", Err(TrustDomainError::Missing)),
            ("Example.org", Err(TrustDomainError::BadCharacter)),
            ("td:80", Err(TrustDomainError::BadCharacter)),
            ("http://td", Err(TrustDomainError::WrongScheme)),
            ("spiffe://td/", Err(TrustDomainError::TrailingSlash)),
            ("spiffe://td//a", Err(TrustDomainError::EmptySegment)),
            ("spiffe://td/../a", Err(TrustDomainError::DotSegment)),
            ("spiffe://td/a b", Err(TrustDomainError::BadPathCharacter)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
