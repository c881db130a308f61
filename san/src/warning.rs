//! Properties of a policy that Envoy accepts silently and that may surprise its operator.

use std::fmt;

use super::context::{Context, Test};
use super::names::Kind;
use super::{Policy, Trust};

/// A property of a policy that may surprise its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// SPIFFE validator: it ignores all matchers, because none is of type URI. Every workload of the trust domains is
    /// accepted.
    OnlyIgnoredMatchers {
        /// The trust domains of the policy.
        trust_domains: Vec<String>,
    },
    /// SPIFFE validator: it ignores some matchers, which are of other types than URI.
    IgnoredMatchers,
    /// `match_subject_alt_names` is ignored, because there is `match_typed_subject_alt_names`.
    IgnoredDeprecated,
    /// There are no matchers: every certificate of the roots is accepted.
    NoMatchers,
    /// SPIFFE validator: the name of a trust domain is invalid, so that no SPIFFE ID can belong to it.
    TrustDomainName(String),
    /// SPIFFE validator: there are no trust domains, so that every peer is refused.
    NoTrustDomains,
    /// SPIFFE validator: no certificate of this trust domain's bundle is self-issued, so that every peer of it is
    /// refused.
    NoSelfSigned(String),
    /// SPIFFE validator: pins are ignored.
    IgnoredPins,
    /// SPIFFE validator: `trusted_ca` is ignored.
    IgnoredTrustedCa,
    /// SPIFFE validator: `trust_chain_verification` is ignored.
    IgnoredTrustChainVerification,
    /// SPIFFE validator: a matcher asks for an exact URI in a trust domain that has no bundle.
    Unreachable {
        /// The URI.
        uri: String,
    },
    /// SPIFFE validator: clients must present a certificate, even if `require_client_certificate` is false.
    ClientCertificateDemanded,
    /// `allow_expired_certificate`: expired certificates are accepted.
    ExpiredAccepted,
    /// `ACCEPT_UNTRUSTED`: every certificate is accepted.
    AnyoneAccepted,
    /// There is a CRL, which this crate does not check.
    Crl,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyIgnoredMatchers { trust_domains } => write!(
                f,
                "the SPIFFE validator ignores all SAN matchers but those of type URI, and there is none: every workload of \
                 {trust_domains:?} is accepted. Match the peer's SPIFFE ID (san_type URI), or have the agent send plain \
                 roots (disable_spiffe_cert_validation)"
            ),
            Self::IgnoredMatchers => {
                f.write_str("the SPIFFE validator ignores the SAN matchers that are not of type URI")
            }
            Self::IgnoredDeprecated => {
                f.write_str("match_subject_alt_names is ignored beside match_typed_subject_alt_names")
            }
            Self::NoMatchers => f.write_str("no SAN matcher: whoever has a certificate of these roots is accepted"),
            Self::TrustDomainName(name) => write!(
                f,
                "trust domain {name:?} is not a trust domain's name (no scheme, no slash, no capitals): Envoy takes it, and \
                 refuses every peer"
            ),
            Self::NoTrustDomains => f.write_str("the SPIFFE validator has no trust domains: every peer is refused"),
            Self::NoSelfSigned(name) => write!(
                f,
                "no certificate of trust domain {name:?} signs itself: the SPIFFE validator refuses every peer of it"
            ),
            Self::IgnoredPins => {
                f.write_str("the SPIFFE validator ignores verify_certificate_hash and verify_certificate_spki")
            }
            Self::IgnoredTrustedCa => f.write_str("the SPIFFE validator ignores trusted_ca"),
            Self::IgnoredTrustChainVerification => {
                f.write_str("the SPIFFE validator ignores trust_chain_verification")
            }
            Self::Unreachable { uri } => {
                write!(f, "{uri:?} is of a trust domain without a bundle: nobody can have it here")
            }
            Self::ClientCertificateDemanded => f.write_str(
                "with the SPIFFE validator a client must show a certificate, even where require_client_certificate is false",
            ),
            Self::ExpiredAccepted => f.write_str("allow_expired_certificate: a certificate never stops to be accepted"),
            Self::AnyoneAccepted => {
                f.write_str("trust_chain_verification ACCEPT_UNTRUSTED: every certificate is accepted")
            }
            Self::Crl => f.write_str("revocation is not checked here: Envoy refuses what the CRL lists"),
        }
    }
}

pub(super) fn of(context: &Context, policy: &Policy) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |when: bool, warning: Warning| {
        if when {
            warnings.push(warning);
        }
    };
    let mut crl = context.crl;
    match &policy.trust {
        Trust::Nothing => {}
        Trust::Ca(roots) => crl |= roots.crl,
        Trust::Spiffe(domains) => {
            crl |= domains.iter().any(|(_, roots)| roots.crl);
            let names = || domains.iter().map(|(name, _)| name.clone()).collect();
            let ignored = policy.matchers.iter().filter(|matcher| !policy.asks(matcher)).count();
            let asked = policy.matchers.len() - ignored;
            let only = Warning::OnlyIgnoredMatchers { trust_domains: names() };
            warn(ignored > 0 && asked == 0, only);
            // An untyped matcher applies to all types. That other types than URI are ignored is expected.
            warn(context.untyped.is_empty() && ignored > 0 && asked > 0, Warning::IgnoredMatchers);
            warn(domains.is_empty(), Warning::NoTrustDomains);
            for (name, roots) in domains {
                let bad = identity::TrustDomain::parse(name).is_err() || name.contains("://");
                warn(bad, Warning::TrustDomainName(name.clone()));
                warn(roots.without_self_issued(), Warning::NoSelfSigned(name.clone()));
            }
            for (kind, matcher) in &context.typed {
                if let (Kind::Uri, Test::Exact(uri)) = (kind, &matcher.test) {
                    let reachable = domains.iter().any(|(name, _)| {
                        let rest = uri.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(&**name));
                        rest.is_some_and(|rest| rest.starts_with('/'))
                    });
                    // A peer's second URI could still match, but an X.509-SVID has only one.
                    warn(!reachable && !matcher.ignore_case, Warning::Unreachable { uri: uri.clone() });
                }
            }
            warn(!context.hashes.is_empty() || !context.spkis.is_empty(), Warning::IgnoredPins);
            warn(context.trusted_ca.is_some(), Warning::IgnoredTrustedCa);
            warn(context.accept_untrusted, Warning::IgnoredTrustChainVerification);
            warn(true, Warning::ClientCertificateDemanded);
        }
    }
    let trusting = !matches!(policy.trust, Trust::Nothing);
    let pinned = !policy.hashes.is_empty() || !policy.spkis.is_empty();
    warn(trusting && policy.matchers.is_empty() && !pinned, Warning::NoMatchers);
    warn(!context.typed.is_empty() && !context.untyped.is_empty(), Warning::IgnoredDeprecated);
    warn(context.allow_expired, Warning::ExpiredAccepted);
    warn(context.accept_untrusted && !matches!(policy.trust, Trust::Spiffe(_)), Warning::AnyoneAccepted);
    warn(crl, Warning::Crl);
    warnings
}
