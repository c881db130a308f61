//! Decides which peers an Envoy accepts under a validation context, and why. It needs no Envoy.
//!
//! - [`context`]: Envoy's message, and the merge of the listener's context with the one that SDS delivers;
//! - [`read`]: that message from JSON (the caller converts YAML);
//! - [`names`], [`matcher`]: subject alternative names and matching them, without copies; `dialect`: RE2;
//! - `roots`: whether a chain leads to a root; `refusal`: why a peer is refused; `warning`: surprises in a policy.
//!
//! [`Policy`] is a compiled context. It follows Envoy 1.40 with its two validators. Their main difference is that the
//! SPIFFE validator looks at URIs only: with it, a policy that asks only for DNS names admits the whole trust domain.

pub mod context;
mod dialect;
pub mod matcher;
pub mod names;
pub mod read;
mod refusal;
mod roots;
mod warning;

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use context::{Context, StringMatcher, Test};
pub use dialect::PatternError;
use matcher::Matcher;
use names::{Kind, Names};
pub use refusal::Refusal;
use roots::{Roots, Rules};
pub use warning::Warning;

/// The side whose certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A client: the policy belongs to a listener.
    Client,
    /// A server: the policy belongs to a cluster.
    Server,
}

/// A compiled validation context.
#[derive(Debug)]
pub struct Policy {
    trust: Trust,
    matchers: Vec<Matcher>,
    hashes: Vec<[u8; SHA256_OUTPUT_LEN]>,
    spkis: Vec<[u8; SHA256_OUTPUT_LEN]>,
    allow_expired: bool,
    accept_untrusted: bool,
    max_depth: Option<u32>,
    warnings: Vec<Warning>,
}

/// The validator and its roots.
#[derive(Debug)]
enum Trust {
    Nothing,
    Ca(Roots),
    Spiffe(Vec<(String, Roots)>),
}

/// Envoy's verdict on a peer.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// Why the peer is refused; `None` if it is accepted.
    pub refusal: Option<Refusal>,
    /// The outcome of each of [`Policy::matchers`], in the same order.
    pub matches: Vec<Match<'a>>,
}

/// The outcome of one matcher for the names of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match<'a> {
    /// It matches a name; this is the first.
    Name(names::Name<'a>),
    /// It matches no name.
    Nothing,
    /// The validator ignores this matcher.
    Ignored,
}

/// Why a policy cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Envoy refuses the policy, for this reason.
    #[error("Envoy refuses this policy: {0}")]
    Refused(&'static str),
    /// Envoy refuses the policy, because a trust domain has more than one bundle.
    #[error("Envoy refuses this policy: multiple trust bundles are given for trust domain {0:?}")]
    TrustDomainTwice(String),
    /// The roots cannot be parsed.
    #[error("Envoy refuses this policy: cannot load the trusted CA from {origin}: {reason}")]
    Bundle {
        /// The file or field of the roots.
        origin: String,
        /// What is wrong with them.
        reason: String,
    },
    /// A pin is not a SHA-256 digest.
    #[error("Envoy refuses this policy: {field}: {value:?} is not a SHA-256 in {encoding}")]
    Pin {
        /// The field of the pin.
        field: &'static str,
        /// The pin as it is written.
        value: String,
        /// The encoding that it should have.
        encoding: &'static str,
    },
    /// A regular expression cannot be used.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Why there is no verdict on a peer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The leaf certificate cannot be parsed.
    #[error("the certificate cannot be read: it is not X.509 in DER or PEM")]
    Certificate,
}

impl Policy {
    /// Compiles a context. A context that Envoy would refuse to load is an error.
    ///
    /// # Errors
    /// The first reason that is found.
    pub fn compile(context: &Context) -> Result<Self, PolicyError> {
        let mut tests = context.typed.iter().map(|(_, matcher)| matcher).chain(&context.untyped);
        if tests.any(|matcher| matcher.ignore_case && matches!(matcher.test, Test::SafeRegex(_))) {
            return Err(PolicyError::Refused(REGEX_CASE));
        }
        let trust = Trust::compile(context)?;
        if matches!(trust, Trust::Nothing) {
            if !context.typed.is_empty() || !context.untyped.is_empty() {
                return Err(PolicyError::Refused(NAMES_WITHOUT_ROOTS));
            }
            if context.allow_expired {
                return Err(PolicyError::Refused(TIME_WITHOUT_ROOTS));
            }
            if context.crl {
                return Err(PolicyError::Refused(CRL_WITHOUT_ROOTS));
            }
        }
        let typed = context.typed.iter().map(|(kind, matcher)| Matcher::new(*kind, matcher));
        let of_all = |matcher: &StringMatcher| UNTYPED.map(|kind| Matcher::new(kind, matcher));
        // Envoy ignores the deprecated list if there is the typed one.
        let untyped = context.untyped.iter().filter(|_| context.typed.is_empty()).flat_map(of_all);
        let matchers = typed.chain(untyped).collect::<Result<Vec<_>, _>>()?;
        // The SPIFFE validator does not even read pins.
        let pinned = !matches!(trust, Trust::Spiffe(_));
        let hashes =
            if pinned { context.hashes.iter().map(|hash| hash_pin(hash)).collect() } else { Ok(Vec::new()) };
        let spkis =
            if pinned { context.spkis.iter().map(|spki| spki_pin(spki)).collect() } else { Ok(Vec::new()) };
        let mut policy = Self {
            trust,
            matchers,
            hashes: hashes?,
            spkis: spkis?,
            allow_expired: context.allow_expired,
            accept_untrusted: context.accept_untrusted,
            max_depth: context.max_verify_depth,
            warnings: Vec::new(),
        };
        policy.warnings = warning::of(context, &policy);
        Ok(policy)
    }

    /// Properties of this policy that may surprise its operator, for any peer.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The matchers of the policy, each for names of one type.
    #[must_use]
    pub fn matchers(&self) -> &[Matcher] {
        &self.matchers
    }

    /// Whether the policy's validator uses this matcher.
    #[must_use]
    pub fn asks(&self, matcher: &Matcher) -> bool {
        matcher.kind() == Kind::Uri || !matches!(self.trust, Trust::Spiffe(_))
    }

    /// Whether the names are accepted. The chain is not considered. Nothing is allocated.
    #[must_use]
    pub fn accepts_names(&self, names: Names<'_>) -> bool {
        let mut asked = self.matchers.iter().filter(|matcher| self.asks(matcher)).peekable();
        asked.peek().is_none() || asked.any(|matcher| matcher.find(names).is_some())
    }

    /// Envoy's verdict on the peer with this chain, leaf first, at this time.
    ///
    /// # Errors
    /// [`PeerError`], if the verdict cannot be determined.
    pub fn check<'a>(
        &self,
        chain: &'a [CertificateDer<'_>],
        at: SystemTime,
        peer: Peer,
    ) -> Result<Verdict<'a>, PeerError> {
        let Some(leaf) = chain.first() else {
            // A listener is assumed to demand a certificate.
            return Ok(Verdict { refusal: Some(Refusal::NoCertificate), matches: Vec::new() });
        };
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| PeerError::Certificate)?;
        let names = Names::of(&parsed);
        let matches = self.matchers.iter().map(|matcher| match matcher.find(names) {
            _ if !self.asks(matcher) => Match::Ignored,
            Some(name) => Match::Name(name),
            None => Match::Nothing,
        });
        let matches = matches.collect();
        let refusal = match self.refusal(chain, &parsed, names, at, peer) {
            // With ACCEPT_UNTRUSTED, Envoy only logs the refusal. TLS itself needs a key that may sign.
            Some(_) if self.accept_untrusted && !matches!(self.trust, Trust::Spiffe(_)) => {
                refusal::key_usage(&parsed, peer).err()
            }
            refusal => refusal,
        };
        Ok(Verdict { refusal, matches })
    }

    fn refusal(
        &self,
        chain: &[CertificateDer<'_>],
        leaf: &X509Certificate<'_>,
        names: Names<'_>,
        at: SystemTime,
        peer: Peer,
    ) -> Option<Refusal> {
        let at = (!self.allow_expired).then_some(at);
        let rules = Rules { at, max_depth: self.max_depth, partial: true, usage: Some(peer) };
        match &self.trust {
            Trust::Nothing => {}
            Trust::Ca(roots) => {
                let led = in_time(leaf, at)
                    .and_then(|()| roots.check(chain, &rules))
                    .and_then(|()| refusal::key_usage(leaf, peer));
                if let Err(refusal) = led {
                    return Some(refusal);
                }
            }
            Trust::Spiffe(domains) => {
                let led = refusal::spiffe_leaf(leaf).and_then(|()| {
                    let roots = bundle_of(names, domains)?;
                    in_time(leaf, at)?;
                    roots.check(chain, &Rules { partial: false, usage: None, max_depth: None, ..rules })
                });
                if let Err(refusal) = led {
                    return Some(refusal);
                }
            }
        }
        if !self.accepts_names(names) {
            return Some(Refusal::Names);
        }
        self.pins(chain, leaf)
    }

    /// Checks the pins. One match of either kind is enough; a policy without roots must have a pin.
    fn pins(&self, chain: &[CertificateDer<'_>], leaf: &X509Certificate<'_>) -> Option<Refusal> {
        if self.hashes.is_empty() && self.spkis.is_empty() {
            return matches!(self.trust, Trust::Nothing).then_some(Refusal::NothingToVerify);
        }
        let is = |pins: &[[u8; SHA256_OUTPUT_LEN]], of: &[u8]| {
            let digest = digest(&SHA256, of);
            pins.iter().any(|pin| pin == digest.as_ref())
        };
        let pinned = is(&self.hashes, &chain[0]) || is(&self.spkis, leaf.public_key().raw);
        (!pinned).then_some(Refusal::Pins)
    }
}

impl Trust {
    fn compile(context: &Context) -> Result<Self, PolicyError> {
        if let Some(trust_domains) = &context.spiffe {
            let mut domains: Vec<(String, Roots)> = Vec::new();
            for domain in trust_domains {
                if domains.iter().any(|(name, _)| *name == domain.name) {
                    return Err(PolicyError::TrustDomainTwice(domain.name.clone()));
                }
                domains.push((domain.name.clone(), Roots::read(&domain.bundle)?));
            }
            return Ok(Self::Spiffe(domains));
        }
        context.trusted_ca.as_ref().map_or(Ok(Self::Nothing), |source| Ok(Self::Ca(Roots::read(source)?)))
    }
}

fn in_time(leaf: &X509Certificate<'_>, at: Option<SystemTime>) -> Result<(), Refusal> {
    let (not_before, not_after) = roots::validity(leaf);
    roots::valid(not_before, not_after, at)
}

/// The roots for a peer. Only its first URI counts.
fn bundle_of<'p>(mut names: Names<'_>, domains: &'p [(String, Roots)]) -> Result<&'p Roots, Refusal> {
    let uri = names.find(|name| name.kind == Kind::Uri).ok_or(Refusal::NoSpiffeId)?;
    let name = uri.bytes.strip_prefix(b"spiffe://").and_then(|rest| {
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        Some(&rest[..slash])
    });
    let name = name.filter(|name| !name.is_empty()).ok_or(Refusal::NoSpiffeId)?;
    let found = domains.iter().find(|(domain, _)| domain.as_bytes() == name);
    found.map(|(_, roots)| roots).ok_or_else(|| Refusal::OtherTrustDomain {
        trust_domain: String::from_utf8_lossy(name).into_owned(),
        known: domains.iter().map(|(domain, _)| domain.clone()).collect(),
    })
}

/// Parses a pin in hexadecimal, with colons or without.
fn hash_pin(value: &str) -> Result<[u8; SHA256_OUTPUT_LEN], PolicyError> {
    let bad = || PolicyError::Pin {
        field: "verify_certificate_hash",
        value: value.to_owned(),
        encoding: "hexadecimal, with colons between the bytes or without",
    };
    let digits: Vec<u8> = if value.len() == COLONS {
        value.bytes().filter(|byte| *byte != b':').collect()
    } else {
        value.bytes().collect()
    };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes: Option<Vec<u8>> = match digits.as_chunks() {
        (pairs, []) => pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect(),
        _ => None,
    };
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)
}

fn spki_pin(value: &str) -> Result<[u8; SHA256_OUTPUT_LEN], PolicyError> {
    let bad =
        || PolicyError::Pin { field: "verify_certificate_spki", value: value.to_owned(), encoding: "base64" };
    STANDARD.decode(value).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(bad)
}

/// The length of a SHA-256 in hexadecimal with colons.
const COLONS: usize = 95;
/// The types of names that an untyped matcher applies to.
const UNTYPED: [Kind; 4] = [Kind::Dns, Kind::Uri, Kind::Email, Kind::Ip];
const REGEX_CASE: &str = "ignore_case has no effect for safe_regex: write (?i) into the expression";
const NAMES_WITHOUT_ROOTS: &str = "SAN matchers need a trusted_ca or a custom_validator_config";
const TIME_WITHOUT_ROOTS: &str = "allow_expired_certificate needs a trusted_ca or a custom_validator_config: without, time is never looked at";
const CRL_WITHOUT_ROOTS: &str = "a crl needs a trusted_ca or a custom_validator_config";

#[cfg(test)]
mod tests;
