//! Envoy's `CertificateValidationContext`, with the fields that a verdict depends on, and the merge of two such
//! contexts.

use super::names::Kind;

/// The message. The files that it names have been read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// `trusted_ca`: the roots in PEM.
    pub trusted_ca: Option<Source>,
    /// `custom_validator_config`: the trust domains of the SPIFFE validator, which replaces `trusted_ca`.
    pub spiffe: Option<Vec<TrustDomain>>,
    /// `match_typed_subject_alt_names`: matchers for names of one type each.
    pub typed: Vec<(Kind, StringMatcher)>,
    /// `match_subject_alt_names`, deprecated: each matcher applies to names of every type.
    pub untyped: Vec<StringMatcher>,
    /// `verify_certificate_hash`.
    pub hashes: Vec<String>,
    /// `verify_certificate_spki`.
    pub spkis: Vec<String>,
    /// `allow_expired_certificate`.
    pub allow_expired: bool,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`.
    pub accept_untrusted: bool,
    /// `max_verify_depth`.
    pub max_verify_depth: Option<u32>,
    /// Whether there is a `crl`. This crate does not check revocation.
    pub crl: bool,
}

impl Context {
    /// The context that Envoy uses when `self` is `default_validation_context` and SDS delivers `delivered`: single
    /// fields that `delivered` sets win, and lists are concatenated.
    #[must_use]
    pub fn merge(mut self, delivered: Self) -> Self {
        self.typed.extend(delivered.typed);
        self.untyped.extend(delivered.untyped);
        self.hashes.extend(delivered.hashes);
        self.spkis.extend(delivered.spkis);
        Self {
            trusted_ca: delivered.trusted_ca.or(self.trusted_ca),
            spiffe: delivered.spiffe.or(self.spiffe),
            // A scalar that is not set is false, and false overrides nothing.
            allow_expired: self.allow_expired || delivered.allow_expired,
            accept_untrusted: self.accept_untrusted || delivered.accept_untrusted,
            max_verify_depth: delivered.max_verify_depth.or(self.max_verify_depth),
            crl: self.crl || delivered.crl,
            typed: self.typed,
            untyped: self.untyped,
            hashes: self.hashes,
            spkis: self.spkis,
        }
    }
}

/// One of the SPIFFE validator's `trust_domains`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain {
    /// The trust domain's name without `spiffe://`.
    pub name: String,
    /// The roots of the trust domain in PEM.
    pub bundle: Source,
}

/// The content of a `DataSource`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The name of the file, or the field that holds the content.
    pub origin: String,
    /// The bytes of the file or field, not parsed yet.
    pub bytes: Vec<u8>,
}

/// A `StringMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringMatcher {
    /// The test that a name must pass.
    pub test: Test,
    /// `ignore_case`. Envoy refuses it with `safe_regex`.
    pub ignore_case: bool,
}

/// A `match_pattern` of a `StringMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// `exact`.
    Exact(String),
    /// `prefix`.
    Prefix(String),
    /// `suffix`.
    Suffix(String),
    /// `contains`.
    Contains(String),
    /// `safe_regex`: an expression that must match the whole name.
    SafeRegex(String),
}

impl Test {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Exact(_) => "exact",
            Self::Prefix(_) => "prefix",
            Self::Suffix(_) => "suffix",
            Self::Contains(_) => "contains",
            Self::SafeRegex(_) => "safe_regex",
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Exact(text)
            | Self::Prefix(text)
            | Self::Suffix(text)
            | Self::Contains(text)
            | Self::SafeRegex(text) => text,
        }
    }
}
