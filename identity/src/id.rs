//! SPIFFE IDs and trust domains (SPIFFE-ID §2). As in SPIRE, upper case is refused and not converted.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A trust domain's name, e.g. `am-multi-account-mesh`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads `example.org` or `spiffe://example.org`. Upper case is refused, as SPIRE does.
    ///
    /// # Errors
    /// [`IdError`] when the text is not a trust domain.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let name = text.strip_prefix(SCHEME).unwrap_or(text);
        if name.contains('/') {
            return Err(IdError::PathInTrustDomain(text.to_owned()));
        }
        check_case(name)?;
        let parsed = spiffe::TrustDomain::new(name)?;
        Ok(Self(parsed.as_str().into()))
    }

    /// The name without a scheme.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The trust domain's own SPIFFE ID, `spiffe://example.org`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }

    /// The ID of a SPIRE server, `spiffe://example.org/spire/server`.
    #[must_use]
    pub fn server_id(&self) -> SpiffeId {
        let text: Arc<str> = format!("{SCHEME}{}/spire/server", self.0).into();
        SpiffeId { path_at: SCHEME.len() + self.0.len(), text }
    }
}

/// Lets maps by trust domain be searched by name.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        self.name()
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A SPIFFE ID, e.g. `spiffe://example.org/web`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`; the trust domain is between the scheme and the path.
    path_at: usize,
}

impl SpiffeId {
    /// Parses a SPIFFE ID.
    ///
    /// # Errors
    /// [`IdError`] when a rule of SPIFFE-ID §2 is broken; upper case in the trust domain is refused.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| IdError::Scheme(text.to_owned()))?;
        check_case(rest.split('/').next().unwrap_or_default())?;
        let parsed = spiffe::SpiffeId::new(text)?;
        Ok(Self { path_at: SCHEME.len() + parsed.trust_domain_name().len(), text: parsed.to_string().into() })
    }

    /// Joins a trust domain and a path, which is empty or begins with a slash.
    ///
    /// # Errors
    /// As [`SpiffeId::parse`].
    pub fn from_parts(trust_domain: &str, path: &str) -> Result<Self, IdError> {
        Self::parse(&format!("{SCHEME}{trust_domain}{path}"))
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path with its leading slash; empty for the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// The name of the trust domain.
    #[must_use]
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// Whether the ID belongs to this trust domain.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.name()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a SPIFFE ID or a trust domain.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IdError {
    /// The text does not begin with `spiffe://`.
    #[error("scheme is missing or invalid: {0:?} must begin with \"spiffe://\"")]
    Scheme(String),
    /// A trust domain was expected, and the text has a path.
    #[error("trust domain must not have a path: {0:?}")]
    PathInTrustDomain(String),
    /// The trust domain has upper-case characters. SPIRE refuses them, although the specification would convert them.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores: {0:?}"
    )]
    Case(String),
    /// The text breaks another rule of the specification.
    #[error(transparent)]
    Rule(#[from] spiffe::SpiffeIdError),
}

impl IdError {
    /// The reason in the words of go-spiffe, which do not repeat the text.
    #[must_use]
    pub fn as_go_spiffe_says(&self) -> String {
        match self {
            Self::Scheme(_) => "scheme is missing or invalid".to_owned(),
            Self::Case(_) | Self::Rule(spiffe::SpiffeIdError::BadTrustDomainChar) => TRUST_DOMAIN.to_owned(),
            other => other.to_string(),
        }
    }
}

fn check_case(trust_domain: &str) -> Result<(), IdError> {
    if trust_domain.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(IdError::Case(trust_domain.to_owned()));
    }
    Ok(())
}

const SCHEME: &str = "spiffe://";
const TRUST_DOMAIN: &str =
    "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_id() {
        let id = SpiffeId::parse("spiffe://am-multi-account-mesh/ns/a").unwrap();
        assert_eq!((id.trust_domain_name(), id.path()), ("am-multi-account-mesh", "/ns/a"));
        assert_eq!(
            TrustDomain::parse("spiffe://td").unwrap().server_id().as_str(),
            "spiffe://td/spire/server"
        );
        assert_eq!(TrustDomain::parse("td").unwrap().server_id().path(), "/spire/server");
        let bare = SpiffeId::parse("spiffe://td").unwrap();
        assert_eq!((bare.trust_domain_name(), bare.path()), ("td", ""));
    }

    #[test]
    fn refusals() {
        for bad in
            ["", "td", "spiffe://", "spiffe://TD/a", "spiffe://td/", "spiffe://td//a", "spiffe://td/a/../b"]
        {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "TD", "td/a", "spiffe://td/a", "t d", "td:80", "u@td"] {
            assert!(TrustDomain::parse(bad).is_err(), "{bad}");
        }
    }
}
