//! Compiles one matcher of a policy, and tells whether a name matches it.

use std::fmt;

use regex::bytes::Regex;

use super::context::{StringMatcher, Test};
use super::dialect::{self, PatternError};
use super::names::{Address, Kind, Name, Names};

/// A compiled matcher. Matching borrows and allocates nothing.
#[derive(Debug, Clone)]
pub struct Matcher {
    kind: Kind,
    pattern: Pattern,
    /// The matcher as text, for messages.
    written: String,
}

#[derive(Debug, Clone)]
enum Pattern {
    /// `exact` for a DNS name: Envoy lets the name in the certificate have a wildcard.
    DnsName(Box<[u8]>),
    Exact(Box<[u8]>, Case),
    Prefix(Box<[u8]>, Case),
    Suffix(Box<[u8]>, Case),
    Contains(Box<[u8]>, Case),
    Regex(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Kept,
    /// The case of ASCII letters is ignored, as in Envoy.
    Ignored,
}

impl Matcher {
    /// Compiles a matcher for names of one type.
    ///
    /// # Errors
    /// [`PatternError`], if its regular expression cannot be used.
    pub fn new(kind: Kind, matcher: &StringMatcher) -> Result<Self, PatternError> {
        let case = if matcher.ignore_case { Case::Ignored } else { Case::Kept };
        let bytes = |text: &str| text.as_bytes().into();
        let (how, text) = (matcher.test.name(), matcher.test.text());
        let pattern = match &matcher.test {
            Test::Exact(name) if kind == Kind::Dns => Pattern::DnsName(bytes(name)),
            Test::Exact(text) => Pattern::Exact(bytes(text), case),
            Test::Prefix(text) => Pattern::Prefix(bytes(text), case),
            Test::Suffix(text) => Pattern::Suffix(bytes(text), case),
            Test::Contains(text) => Pattern::Contains(bytes(text), case),
            Test::SafeRegex(pattern) => Pattern::Regex(dialect::compile(pattern)?),
        };
        let ignoring = if matcher.ignore_case { ", ignore_case" } else { "" };
        Ok(Self { kind, pattern, written: format!("{} {how} {text:?}{ignoring}", kind.name()) })
    }

    /// The type of names that the matcher looks at.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this name matches.
    #[must_use]
    pub fn matches(&self, name: &Name<'_>) -> bool {
        if name.kind != self.kind {
            return false;
        }
        let mut buffer = Address::default();
        self.pattern.matches(name.text(&mut buffer))
    }

    /// The first of these names that matches.
    #[must_use]
    pub fn find<'a>(&self, mut names: Names<'a>) -> Option<Name<'a>> {
        names.find(|name| self.matches(name))
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Pattern {
    fn matches(&self, text: &[u8]) -> bool {
        let middle = |range: Option<&[u8]>, wanted: &[u8], case: Case| {
            range.is_some_and(|part| case.equal(part, wanted))
        };
        match self {
            Self::DnsName(name) => dns_name_matches(name, text),
            Self::Exact(wanted, case) => case.equal(text, wanted),
            Self::Prefix(wanted, case) => middle(text.get(..wanted.len()), wanted, *case),
            Self::Suffix(wanted, case) => {
                let start = text.len().checked_sub(wanted.len());
                middle(start.map(|start| &text[start..]), wanted, *case)
            }
            Self::Contains(wanted, case) => {
                wanted.is_empty() || text.windows(wanted.len()).any(|part| case.equal(part, wanted))
            }
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl Case {
    fn equal(self, left: &[u8], right: &[u8]) -> bool {
        match self {
            Self::Kept => left == right,
            Self::Ignored => left.eq_ignore_ascii_case(right),
        }
    }
}

/// Matches as Envoy's `dnsNameMatch`: the first label of `in_certificate` may have one `*`, which stands for a part
/// of a label (RFC 6125 §6.4.3). Case is ignored.
fn dns_name_matches(wanted: &[u8], in_certificate: &[u8]) -> bool {
    if wanted.eq_ignore_ascii_case(in_certificate) {
        return true;
    }
    let (Some((wanted_label, wanted_rest)), Some((label, rest))) =
        (split_label(wanted), split_label(in_certificate))
    else {
        return false;
    };
    let internationalized = label.len() >= 4 && label[..4].eq_ignore_ascii_case(b"xn--");
    !internationalized
        && !rest.contains(&b'*')
        && rest.eq_ignore_ascii_case(wanted_rest)
        && label_matches(wanted_label, label)
}

fn split_label(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let dot = name.iter().position(|byte| *byte == b'.')?;
    Some((&name[..dot], &name[dot + 1..]))
}

fn label_matches(wanted: &[u8], label: &[u8]) -> bool {
    if label == b"*" {
        return true;
    }
    let Some(star) = label.iter().position(|byte| *byte == b'*') else { return false };
    let (before, after) = (&label[..star], &label[star + 1..]);
    !after.contains(&b'*')
        && wanted.len() >= before.len() + after.len()
        && wanted[..before.len()].eq_ignore_ascii_case(before)
        && wanted[wanted.len() - after.len()..].eq_ignore_ascii_case(after)
}
