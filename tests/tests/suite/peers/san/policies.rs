//! The policies by name: both validators, every kind of matcher, and all else that a verdict depends on.

use std::slice::from_ref;

use aws_lc_rs::digest::{SHA256, digest};
use san::{Policy, read};
use serde_json::{Value, json};

use super::peers::Peers;

/// A listener's policy.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// The validation part of its `CommonTlsContext`.
    pub(super) tls: Value,
    /// The secret that it gets by SDS, if it names one.
    pub(super) secret: Option<Value>,
}

impl Column {
    pub(super) fn plain(name: &'static str, context: Value) -> Self {
        Self { name, tls: json!({ "validation_context": context }), secret: None }
    }

    fn combined(name: &'static str, default: Value, delivered: Value) -> Self {
        let tls = json!({ "combined_validation_context": {
            "default_validation_context": default,
            "validation_context_sds_secret_config": { "name": name },
        } });
        Self { name, tls, secret: Some(json!({ "name": name, "validation_context": delivered })) }
    }

    /// This policy in the checker, read from the same text.
    pub(super) fn policy(&self) -> Policy {
        let files: read::Files<'_> = &|_| Err(std::io::ErrorKind::NotFound.into());
        let reading =
            read::policy(&self.tls, files).unwrap_or_else(|reason| panic!("{}: {reason}", self.name));
        let mut context = reading.context;
        if let Some(secret) = &self.secret {
            assert_eq!(reading.secret.as_deref(), Some(self.name));
            context = context.merge(read::delivered(secret, Some(self.name), files).expect("read"));
        }
        Policy::compile(&context).unwrap_or_else(|reason| panic!("{}: {reason}", self.name))
    }
}

#[derive(Clone, Copy)]
pub(super) enum Roots {
    Ca,
    Spiffe,
}

impl Roots {
    pub(super) fn of(self, peers: &Peers) -> Value {
        match self {
            Self::Ca => ca(&peers.pem("root")),
            Self::Spiffe => spiffe(&[("example.org", &peers.pem("root"))]),
        }
    }

    fn with(self, peers: &Peers, field: &str, value: Value) -> Value {
        let mut context = self.of(peers);
        context[field] = value;
        context
    }

    fn matching(self, peers: &Peers, matchers: &[Value]) -> Value {
        self.with(peers, TYPED, json!(matchers))
    }
}

pub(super) fn columns(peers: &Peers) -> Vec<Column> {
    let (uri, dns) = (san("URI", json!({ "exact": B })), san("DNS", json!({ "exact": "b.local" })));
    let (ca, spiffe) = (Roots::Ca, Roots::Spiffe);
    let both = &[uri.clone(), dns.clone()];
    let lists = |roots: Roots| {
        let mut context = roots.matching(peers, &[san("URI", json!({ "suffix": "/a" }))]);
        context[UNTYPED] = json!([{ "exact": B }]);
        context
    };
    let mut columns = vec![
        Column::plain("CA, URI", ca.matching(peers, from_ref(&uri))),
        Column::plain("SPIFFE, URI", spiffe.matching(peers, from_ref(&uri))),
        Column::plain("CA, none", ca.of(peers)),
        Column::plain("SPIFFE, none", spiffe.of(peers)),
        Column::plain("CA, DNS", ca.matching(peers, from_ref(&dns))),
        Column::plain("SPIFFE, DNS", spiffe.matching(peers, &[dns])),
        Column::plain("CA, URI and DNS", ca.matching(peers, both)),
        Column::plain("SPIFFE, URI and DNS", spiffe.matching(peers, both)),
        Column::plain("CA, both lists", lists(ca)),
        Column::plain("SPIFFE, both lists", lists(spiffe)),
        Column::plain("CA, deprecated", ca.with(peers, UNTYPED, json!([{ "exact": B }]))),
        Column::plain("SPIFFE, deprecated", spiffe.with(peers, UNTYPED, json!([{ "exact": B }]))),
        Column::plain("CA, deprecated DNS", ca.with(peers, UNTYPED, json!([{ "exact": "b.local" }]))),
        Column::plain("SPIFFE, deprecated DNS", spiffe.with(peers, UNTYPED, json!([{ "exact": "b.local" }]))),
    ];
    for (name, kind, matcher) in MATCHERS {
        let matcher: Value = serde_json::from_str(matcher).expect("JSON");
        let roots = if name.starts_with("SPIFFE") { spiffe } else { ca };
        columns.push(Column::plain(name, roots.matching(peers, &[san(kind, matcher)])));
    }
    columns.extend(other_fields(peers));
    columns.extend(merged(peers));
    columns
}

fn other_fields(peers: &Peers) -> Vec<Column> {
    let pem = |name: &str| peers.pem(name);
    let root = pem("root");
    let two = [("example.org", &*root), ("other.org", &pem("other root"))];
    let expired = |roots: Roots| roots.with(peers, "allow_expired_certificate", true.into());
    vec![
        Column::plain("CA, expired allowed", expired(Roots::Ca)),
        Column::plain("SPIFFE, expired allowed", expired(Roots::Spiffe)),
        Column::plain("CA, depth 0", Roots::Ca.with(peers, "max_verify_depth", 0.into())),
        Column::plain("SPIFFE, depth 0", Roots::Spiffe.with(peers, "max_verify_depth", 0.into())),
        Column::plain("CA, depth 1", Roots::Ca.with(peers, "max_verify_depth", 1.into())),
        Column::plain("SPIFFE, depth 1", Roots::Spiffe.with(peers, "max_verify_depth", 1.into())),
        Column::plain(
            "CA, untrusted",
            Roots::Ca.with(peers, "trust_chain_verification", "ACCEPT_UNTRUSTED".into()),
        ),
        Column::plain(
            "SPIFFE, untrusted",
            Roots::Spiffe.with(peers, "trust_chain_verification", "ACCEPT_UNTRUSTED".into()),
        ),
        Column::plain("CA, pin", Roots::Ca.with(peers, "verify_certificate_hash", json!([pin(peers, "b")]))),
        Column::plain(
            "SPIFFE, pin",
            Roots::Spiffe.with(peers, "verify_certificate_hash", json!([pin(peers, "b")])),
        ),
        Column::plain("pin alone", json!({ "verify_certificate_hash": [pin(peers, "b")] })),
        Column::plain("CA, intermediate", ca(&pem("intermediate"))),
        Column::plain("SPIFFE, intermediate", spiffe(&[("example.org", &pem("intermediate"))])),
        Column::plain(
            "SPIFFE, root and intermediate",
            spiffe(&[("example.org", &(root.clone() + &pem("intermediate")))]),
        ),
        Column::plain("CA, leaf", ca(&pem("b"))),
        Column::plain("SPIFFE, leaf", spiffe(&[("example.org", &pem("b"))])),
        Column::plain("CA, expired root", ca(&pem("expired root"))),
        Column::plain("SPIFFE, expired root", spiffe(&[("example.org", &pem("expired root"))])),
        Column::plain("CA, two roots", ca(&(root.clone() + &pem("other root")))),
        Column::plain("SPIFFE, two domains", spiffe(&two)),
        Column::plain("SPIFFE, scheme in the name", spiffe(&[("spiffe://example.org", &root)])),
        Column::plain("SPIFFE, no domains", spiffe(&[])),
    ]
}

fn merged(peers: &Peers) -> Vec<Column> {
    let exact = |id: &str| json!({ TYPED: [san("URI", json!({ "exact": id }))] });
    let a = exact("spiffe://example.org/a");
    let widened = |roots: Roots| roots.matching(peers, &[san("URI", json!({ "exact": B }))]);
    let other = ca(&peers.pem("other root"));
    let lenient = json!({ "allow_expired_certificate": true });
    let pinned = json!({ "verify_certificate_hash": [pin(peers, "b")] });
    let mut both = Roots::Spiffe.of(peers);
    both["trusted_ca"] = other["trusted_ca"].clone();
    vec![
        Column::combined("CA, A in the default", a.clone(), Roots::Ca.of(peers)),
        Column::combined("SPIFFE, A in the default", a.clone(), Roots::Spiffe.of(peers)),
        Column::combined("CA, A widened by B", a.clone(), widened(Roots::Ca)),
        Column::combined("SPIFFE, A widened by B", a, widened(Roots::Spiffe)),
        Column::combined("CA over another CA", other.clone(), Roots::Ca.of(peers)),
        Column::combined("SPIFFE over another CA", other, Roots::Spiffe.of(peers)),
        Column::combined("SPIFFE with another CA", json!({}), both),
        Column::combined("CA, lenient default", lenient.clone(), Roots::Ca.of(peers)),
        Column::combined("SPIFFE, lenient default", lenient, Roots::Spiffe.of(peers)),
        Column::combined("CA, pinned default", pinned.clone(), Roots::Ca.of(peers)),
        Column::combined("SPIFFE, pinned default", pinned, Roots::Spiffe.of(peers)),
    ]
}

/// Policies that Envoy does not load.
pub(super) fn refused(peers: &Peers) -> Vec<(&'static str, Value)> {
    let uri = san("URI", json!({ "exact": B }));
    let regex = |pattern: &str| {
        Roots::Ca.matching(peers, &[san("URI", json!({ "safe_regex": { "regex": pattern } }))])
    };
    let root = peers.pem("root");
    vec![
        ("names without roots", json!({ TYPED: [uri] })),
        ("time without roots", json!({ "allow_expired_certificate": true })),
        (
            "a regular expression without case",
            Roots::Ca.with(peers, UNTYPED, json!([{ "safe_regex": { "regex": "a" }, "ignore_case": true }])),
        ),
        ("a domain twice", spiffe(&[("td", &root), ("td", &root)])),
        ("no PEM", ca("nothing")),
        ("no PEM in a bundle", spiffe(&[("td", "nothing")])),
        ("a broken certificate", ca("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
        ("a bad pin", Roots::Ca.with(peers, "verify_certificate_hash", json!(["00"]))),
        ("a bad expression", regex("(")),
        ("a repetition too many", regex("a{1001}")),
        ("a repetition of a repetition", regex("a**")),
        ("an empty prefix", Roots::Ca.matching(peers, &[san("URI", json!({ "prefix": "" }))])),
        ("no type", Roots::Ca.with(peers, TYPED, json!([{ "matcher": { "exact": "a" } }]))),
        ("an unknown field", Roots::Ca.with(peers, "trusted_caa", json!({}))),
    ]
}

fn ca(pem: &str) -> Value {
    json!({ "trusted_ca": { "inline_string": pem } })
}

fn spiffe(domains: &[(&str, &str)]) -> Value {
    let domain =
        |(name, pem): &(&str, &str)| json!({ "name": name, "trust_bundle": { "inline_string": pem } });
    json!({ "custom_validator_config": { "name": "envoy.tls.cert_validator.spiffe", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        "trust_domains": domains.iter().map(domain).collect::<Vec<_>>(),
    } } })
}

fn san(kind: &str, matcher: Value) -> Value {
    json!({ "san_type": kind, "matcher": matcher })
}

fn pin(peers: &Peers, name: &str) -> String {
    let digest = digest(&SHA256, &peers.chain(name)[0]);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The matchers, made for the peers "b", "B in capitals", "wildcard" and so on: name, SAN type and matcher.
const MATCHERS: &[(&str, &str, &str)] = &[
    ("URI exact, no case", "URI", r#"{ "exact": "SPIFFE://example.org/b", "ignore_case": true }"#),
    ("URI prefix", "URI", r#"{ "prefix": "spiffe://example.org/" }"#),
    ("URI prefix, no case", "URI", r#"{ "prefix": "SPIFFE://EXAMPLE.ORG/b", "ignore_case": true }"#),
    ("URI suffix", "URI", r#"{ "suffix": "/b" }"#),
    ("URI suffix, no case", "URI", r#"{ "suffix": "/B", "ignore_case": true }"#),
    ("URI contains", "URI", r#"{ "contains": "other" }"#),
    ("URI contains, no case", "URI", r#"{ "contains": "G/B", "ignore_case": true }"#),
    ("URI safe_regex", "URI", r#"{ "safe_regex": { "regex": "spiffe://[a-z.]+/b" } }"#),
    ("URI safe_regex, all of it", "URI", r#"{ "safe_regex": { "regex": "spiffe://example.org/" } }"#),
    (
        "URI safe_regex, alternatives",
        "URI",
        r#"{ "safe_regex": { "regex": "https.*|spiffe://example.org/a" } }"#,
    ),
    ("URI safe_regex, (?i)", "URI", r#"{ "safe_regex": { "regex": "(?i)spiffe://example.org/b" } }"#),
    ("SPIFFE, URI prefix", "URI", r#"{ "prefix": "spiffe://example.org/" }"#),
    ("SPIFFE, URI suffix", "URI", r#"{ "suffix": "/b" }"#),
    ("SPIFFE, URI contains", "URI", r#"{ "contains": "g/a" }"#),
    ("SPIFFE, URI safe_regex", "URI", r#"{ "safe_regex": { "regex": ".*/[ab]" } }"#),
    ("SPIFFE, DNS prefix", "DNS", r#"{ "prefix": "b." }"#),
    ("DNS exact, no case", "DNS", r#"{ "exact": "B.Local", "ignore_case": true }"#),
    ("DNS exact, capitals", "DNS", r#"{ "exact": "B.LOCAL" }"#),
    ("DNS exact, a wildcard's name", "DNS", r#"{ "exact": "c.local" }"#),
    ("DNS exact, a wildcard", "DNS", r#"{ "exact": "*.local" }"#),
    ("DNS exact, two labels", "DNS", r#"{ "exact": "c.b.local" }"#),
    ("DNS exact, part of a label", "DNS", r#"{ "exact": "b-1.local" }"#),
    ("DNS prefix", "DNS", r#"{ "prefix": "b." }"#),
    ("DNS suffix", "DNS", r#"{ "suffix": ".local" }"#),
    ("DNS contains", "DNS", r#"{ "contains": "*.b" }"#),
    ("DNS contains, no case", "DNS", r#"{ "contains": "b.l", "ignore_case": true }"#),
    ("DNS safe_regex", "DNS", r#"{ "safe_regex": { "regex": "[b*]\\.local" } }"#),
    ("EMAIL exact", "EMAIL", r#"{ "exact": "ops@b.local" }"#),
    ("EMAIL suffix", "EMAIL", r#"{ "suffix": "@b.local" }"#),
    ("IP_ADDRESS exact", "IP_ADDRESS", r#"{ "exact": "10.0.0.1" }"#),
    ("IP_ADDRESS prefix", "IP_ADDRESS", r#"{ "prefix": "10.1" }"#),
];

/// The recorded verdicts of Envoy that the test compares with, in the order of [`TABLE_COLUMNS`].
pub(super) const TABLE: &[(&str, &str)] = &[
    ("b", "++++-+"),
    ("a", "--++-+"),
    ("other", "------"),
    ("other by our CA", "--+---"),
    ("b by other CA", "------"),
    ("b with b.local", "++++++"),
    ("b.local only", "--+-+-"),
    ("b and a", "++++-+"),
    ("a and b", "++++-+"),
    ("expired b", "------"),
    ("none", "------"),
];
pub(super) const TABLE_COLUMNS: &[&str] =
    &["CA, URI", "SPIFFE, URI", "CA, none", "SPIFFE, none", "CA, DNS", "SPIFFE, DNS"];

const B: &str = "spiffe://example.org/b";
const TYPED: &str = "match_typed_subject_alt_names";
const UNTYPED: &str = "match_subject_alt_names";
