//! Envoy's `CertificateValidationContext`, as far as a verdict depends on it, and how two of them are merged.

use super::names::Kind;

/// The message. `filename`s are read already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// `trusted_ca`: the roots, PEM.
    pub trusted_ca: Option<Source>,
    /// `custom_validator_config`: the SPIFFE validator. It replaces `trusted_ca`.
    pub spiffe: Option<Vec<TrustDomain>>,
    /// `match_typed_subject_alt_names`.
    pub typed: Vec<(Kind, StringMatcher)>,
    /// `match_subject_alt_names`, deprecated: each stands for every type of name.
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
    /// Whether there is a `crl`, which is not looked at here.
    pub crl: bool,
}

impl Context {
    /// The context that Envoy uses when `self` is `default_validation_context` and SDS delivers `delivered`: what
    /// the latter sets wins, and lists grow.
    #[must_use]
    pub fn merge(mut self, delivered: Self) -> Self {
        self.typed.extend(delivered.typed);
        self.untyped.extend(delivered.untyped);
        self.hashes.extend(delivered.hashes);
        self.spkis.extend(delivered.spkis);
        Self {
            trusted_ca: delivered.trusted_ca.or(self.trusted_ca),
            spiffe: delivered.spiffe.or(self.spiffe),
            // A scalar that is not set is false, and that overrides nothing.
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
    /// Without `spiffe://`.
    pub name: String,
    /// Its roots, PEM.
    pub bundle: Source,
}

/// A `DataSource`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file, or which field it stood in.
    pub origin: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// A `StringMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StringMatcher {
    /// What it asks.
    pub test: Test,
    /// `ignore_case`: not with `safe_regex`.
    pub ignore_case: bool,
}

/// A `match_pattern`.
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
    /// `safe_regex`: all of the name.
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
