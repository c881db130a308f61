//! Every matcher agrees with its definition on every name. Any policy and any certificate give a verdict or an error.
//! Only certificates that the root has signed are accepted.
#![no_main]

use std::io;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use san::context::{StringMatcher, Test};
use san::matcher::Matcher;
use san::names::{Kind, Name, Names};
use san::{Peer, Policy, read};
use serde_json::{Value, json};

libfuzzer_sys::fuzz_target!(|input: Input<'_>| {
    let (matchers, names, raw) = input;
    let extension = extension(&names);
    let names: Vec<_> = Names::parse(&extension).expect("well-formed").collect();
    for (kind, how, fold, text) in matchers {
        // Shortened, because the definition below is slow.
        let text = &text[..text.floor_char_boundary(LONGEST)];
        let kind = [Kind::Email, Kind::Dns, Kind::Uri, Kind::Ip][usize::from(kind % 4)];
        let (test, model): (_, Model) = match how % 6 {
            0 if kind == Kind::Dns => (Test::Exact(text.into()), dns_name),
            0 => (Test::Exact(text.into()), |text, name| text == name),
            1 => (Test::Prefix(text.into()), |text, name| name.starts_with(text)),
            2 => (Test::Suffix(text.into()), |text, name| name.ends_with(text)),
            3 => (Test::Contains(text.into()), |text, name| {
                text.is_empty() || name.windows(text.len()).any(|part| part == text)
            }),
            4 => (Test::SafeRegex(escaped(text)), |text, name| text == name),
            // Any regular expression is compiled or refused.
            _ => (Test::SafeRegex(text.into()), |_, _| false),
        };
        let fold = fold && !matches!(test, Test::SafeRegex(_));
        let Ok(matcher) = Matcher::new(kind, &StringMatcher { test, ignore_case: fold }) else { continue };
        for name in names.iter().filter(|name| name.kind == kind) {
            let found = matcher.matches(name);
            if how % 6 < 5 && kind != Kind::Ip {
                let case = |text: &[u8]| if fold { text.to_ascii_lowercase() } else { text.to_vec() };
                assert_eq!(found, model(&case(text.as_bytes()), &case(name.bytes)), "{matcher} {name:?}");
            }
        }
        let others = names.iter().filter(|name| name.kind != kind);
        assert!(!others.copied().any(|name: Name<'_>| matcher.matches(&name)));
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let leaf = CertificateDer::from(raw);
    if let Ok(verdict) = OURS.check(&[leaf], at, Peer::Client)
        && verdict.refusal.is_none()
    {
        assert_eq!(signed(raw), signed(LEAF), "somebody else is accepted");
    }
    if let Ok(value) = serde_json::from_slice::<Value>(raw)
        && let Ok(reading) = read::policy(&value, &|_| Err(io::ErrorKind::NotFound.into()))
        && let Ok(policy) = Policy::compile(&reading.context.clone().merge(reading.context))
    {
        assert!(policy.warnings().iter().all(|warning| !warning.to_string().is_empty()));
        let _ = policy.check(&[CertificateDer::from(LEAF)], at, Peer::Server);
    }
});

/// The input: matchers, names with their types, and bytes that may be a certificate or a policy.
type Input<'a> = (Vec<Written<'a>>, Vec<(u8, &'a [u8])>, &'a [u8]);
/// A matcher: the type of names, the kind of match, whether case is ignored, and the text.
type Written<'a> = (u8, u8, bool, &'a str);

type Model = fn(&[u8], &[u8]) -> bool;

/// Envoy's rule for DNS names in other words: the only `*`, in the first label, can be replaced by a text that makes
/// the names equal.
fn dns_name(wanted: &[u8], in_certificate: &[u8]) -> bool {
    let (wanted, pattern) = (wanted.to_ascii_lowercase(), in_certificate.to_ascii_lowercase());
    let first = |name: &[u8]| name.iter().position(|byte| *byte == b'.');
    let stars = pattern.iter().filter(|byte| **byte == b'*').count();
    let star = pattern.iter().position(|byte| *byte == b'*');
    let literal = wanted == pattern;
    let (Some(end), Some(label), Some(star)) = (first(&pattern), first(&wanted), star) else {
        return literal;
    };
    if stars != 1 || star > end || pattern.starts_with(b"xn--") {
        return literal;
    }
    let expanded = |part: &[u8]| [&pattern[..star], part, &pattern[star + 1..]].concat();
    literal || (0..=label).any(|from| (from..=label).any(|to| expanded(&wanted[from..to]) == wanted))
}

/// A regular expression that matches only this text.
fn escaped(text: &str) -> String {
    let escape =
        |c: char| if c.is_ascii_punctuation() { format!("\\x{{{:x}}}", u32::from(c)) } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// The value of a subjectAltName extension.
fn extension(names: &[(u8, &[u8])]) -> Vec<u8> {
    let tags = [0x81, 0x82, 0x86, 0x87, 0x88, 0xa0];
    let element = |(tag, bytes): &(u8, &[u8])| element(tags[usize::from(*tag) % tags.len()], bytes);
    element_of(0x30, &names.iter().flat_map(element).collect::<Vec<_>>())
}

fn element(tag: u8, bytes: &[u8]) -> Vec<u8> {
    element_of(tag, &bytes[..bytes.len().min(LONGEST)])
}

fn element_of(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().to_be_bytes();
    let start = length.iter().position(|byte| *byte != 0).unwrap_or(7);
    let long = if bytes.len() < 0x80 { None } else { Some(0x80 | (8 - start) as u8) };
    [tag]
        .into_iter()
        .chain(long)
        .chain(length[start..].iter().copied())
        .chain(bytes.iter().copied())
        .collect()
}

/// The signed part of a certificate.
fn signed(der: &[u8]) -> Option<&[u8]> {
    let (content, _) =
        der.get(4..)?.split_at_checked(usize::from(u16::from_be_bytes([*der.get(6)?, *der.get(7)?])) + 4)?;
    Some(content)
}

/// A policy that trusts the root which has signed the leaf.
static OURS: LazyLock<Policy> = LazyLock::new(|| {
    let context = json!({
        "trusted_ca": { "inline_string": include_str!("../testdata/root.pem") },
        "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": "spiffe://td/web" } }],
    });
    let reading = read::policy(&context, &|_| Err(io::ErrorKind::NotFound.into())).expect("well-formed");
    Policy::compile(&reading.context).expect("compiles")
});

const LEAF: &[u8] = include_bytes!("../testdata/leaf.der");
const LONGEST: usize = 60;
