mod policies;
mod world;

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::context::{StringMatcher, Test};
use super::matcher::Matcher;
use super::names::{Kind, Name, Names};
use super::*;
use world::World;

/// The measured table: which peers a listener accepts that demands a certificate.
#[test]
fn the_table_of_who_is_accepted() {
    let world = World::new();
    let (uri, dns) = (world::uri("exact", "spiffe://example.org/b"), world::dns("exact", "b.local"));
    let columns = [
        world.ca(json!([uri])),
        world.spiffe(json!([uri])),
        world.ca(json!([])),
        world.spiffe(json!([])),
        world.ca(json!([dns])),
        world.spiffe(json!([dns])),
    ];
    for (peer, expected) in [
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
    ] {
        let verdicts: String =
            columns.iter().map(|policy| if world.accepts(policy, peer) { '+' } else { '-' }).collect();
        assert_eq!(verdicts, expected, "{peer}");
    }
}

#[test]
fn refusals_say_what_envoy_counts() {
    let world = World::new();
    let named = json!([world::uri("exact", "spiffe://example.org/b")]);
    let (ca, spiffe) = (world.ca(named.clone()), world.spiffe(named));
    let refusal = |policy: &Value, peer: &str| world.check(policy, peer).expect("refused");
    assert_eq!(refusal(&ca, "a"), Refusal::Names);
    assert_eq!(refusal(&ca, "none"), Refusal::NoCertificate);
    let strange = refusal(&ca, "b by other CA");
    assert!(matches!(strange, Refusal::Chain(identity::chain::ChainError::UnknownAuthority(_))));
    assert!(matches!(refusal(&ca, "expired b"), Refusal::Expired(_)));
    assert_eq!(refusal(&spiffe, "b.local only"), Refusal::NoSpiffeId);
    let other =
        Refusal::OtherTrustDomain { trust_domain: "other.org".into(), known: vec!["example.org".into()] };
    assert_eq!(refusal(&spiffe, "other by our CA"), other);
    assert_eq!(refusal(&spiffe, "trust domain only"), Refusal::NoSpiffeId);
    assert_eq!(Refusal::Names.stat(), "fail_verify_san");
    assert_eq!(other.stat(), "fail_verify_error");
}

#[test]
fn expired_certificates_where_they_are_allowed() {
    let world = World::new();
    for mut policy in [world.ca(json!([])), world.spiffe(json!([]))] {
        assert!(!world.accepts(&policy, "expired b"));
        policy["allow_expired_certificate"] = true.into();
        assert!(world.accepts(&policy, "expired b"));
        assert!(!world.accepts(&policy, "b by other CA"));
    }
}

#[test]
fn time_is_an_argument() {
    let world = World::new();
    let policy = world::compiled(&world.ca(json!([])));
    let hour = Duration::from_secs(3600);
    let at = |time| policy.check(world.chain("b"), time, Peer::Client).expect("read").refusal;
    assert_eq!(at(SystemTime::now()), None);
    assert!(matches!(at(SystemTime::now() + 48 * hour), Some(Refusal::Expired(_))));
    assert!(matches!(at(SystemTime::now() - 48 * hour), Some(Refusal::NotYet(_))));
}

#[test]
fn pins_bind_with_roots_and_are_nothing_to_the_spiffe_validator() {
    let world = World::new();
    let leaf = &world.chain("b")[0];
    let (_, parsed) = X509Certificate::from_der(leaf).expect("read");
    let hex: String = digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let colons =
        hex.as_bytes().chunks(2).map(|two| String::from_utf8_lossy(two)).collect::<Vec<_>>().join(":");
    let spki = STANDARD.encode(digest(&SHA256, parsed.public_key().raw));
    let zeros = "00".repeat(32);
    for (hashes, spkis, accepted) in [
        (json!([hex]), json!([]), true),
        (json!([colons]), json!([]), true),
        (json!([zeros]), json!([]), false),
        (json!([]), json!([spki]), true),
        (json!([zeros]), json!([spki]), true),
    ] {
        let mut policy = world.ca(json!([]));
        policy["verify_certificate_hash"] = hashes.clone();
        policy["verify_certificate_spki"] = spkis;
        assert_eq!(world.accepts(&policy, "b"), accepted, "{policy}");
        let mut spiffe = world.spiffe(json!([]));
        spiffe["verify_certificate_hash"] = hashes;
        assert!(world.accepts(&spiffe, "b"));
        let ignored = world::compiled(&spiffe).warnings().contains(&Warning::IgnoredPins);
        assert_eq!(ignored, spiffe["verify_certificate_hash"] != json!([]));
    }
    let pinned = json!({ "verify_certificate_hash": [hex] });
    assert!(world.accepts(&pinned, "b"), "without roots a pin is enough");
    assert!(!world.accepts(&pinned, "a"));
}

#[test]
fn chains_as_boringssl_builds_them() {
    let world = World::new();
    for (policy, expected) in [
        (world.ca(json!([])), [true, false]),
        (world.spiffe(json!([])), [true, false]),
        // An intermediate may end a path, but not for the SPIFFE validator.
        (json!({ "trusted_ca": { "inline_string": world.pem("intermediate") } }), [true, true]),
        (world::validator("example.org", &world.pem("intermediate")), [false, false]),
    ] {
        let found =
            ["c by intermediate", "c without its intermediate"].map(|peer| world.accepts(&policy, peer));
        assert_eq!(found, expected, "{policy}");
    }
    let itself = json!({ "trusted_ca": { "inline_string": world.pem("b") } });
    assert!(world.accepts(&itself, "b"), "a leaf in the bundle is trusted");
    let expired = json!({ "trusted_ca": { "inline_string": world.pem("expired root") } });
    assert_eq!(world.check(&expired, "by expired root"), Some(Refusal::NoRoot));
    let mut shallow = world.ca(json!([]));
    shallow["max_verify_depth"] = 1.into();
    assert!(world.accepts(&shallow, "b"));
    assert_eq!(world.check(&shallow, "c by intermediate"), Some(Refusal::Depth { depth: 2, most: 1 }));
}

#[test]
fn extended_key_usage_is_nothing_to_the_spiffe_validator() {
    let world = World::new();
    assert!(!world.accepts(&world.ca(json!([])), "b for servers"));
    assert!(world.accepts(&world.spiffe(json!([])), "b for servers"));
    let policy = world::compiled(&world.ca(json!([])));
    let of_server =
        policy.check(world.chain("b for servers"), SystemTime::now(), Peer::Server).expect("read");
    assert_eq!(of_server.refusal, None);
}

#[test]
fn a_ca_is_no_leaf() {
    let world = World::new();
    assert_eq!(world.check(&world.spiffe(json!([])), "intermediate"), Some(Refusal::Authority));
    // With `trusted_ca` it is one like any other, but its key may not sign in TLS.
    assert_eq!(world.check(&world.ca(json!([])), "intermediate"), Some(Refusal::KeyUsage));
}

#[test]
fn warnings_of_what_envoy_takes_without_a_word() {
    let world = World::new();
    let dns = json!([world::dns("exact", "b.local")]);
    let warned = |policy: &Value, wanted: &Warning| {
        let policy = world::compiled(policy);
        assert!(policy.warnings().contains(wanted), "{wanted:?} in {:?}", policy.warnings());
        assert!(policy.warnings().iter().all(|warning| !warning.to_string().contains("  ")));
    };
    let only = Warning::OnlyIgnoredMatchers { trust_domains: vec!["example.org".into()] };
    warned(&world.spiffe(dns.clone()), &only);
    let both = json!([world::dns("exact", "b.local"), world::uri("prefix", "spiffe://")]);
    warned(&world.spiffe(both), &Warning::IgnoredMatchers);
    warned(&world.spiffe(json!([])), &Warning::NoMatchers);
    let scheme = world::validator("spiffe://example.org", &world.pem("root"));
    warned(&scheme, &Warning::TrustDomainName("spiffe://example.org".into()));
    assert!(!world.accepts(&scheme, "b"));
    let none = json!({ "custom_validator_config": { "name": "envoy.tls.cert_validator.spiffe", "typed_config": {
        "@type": world::VALIDATOR,
    } } });
    warned(&none, &Warning::NoTrustDomains);
    assert!(!world.accepts(&none, "b"));
    let uri = "spiffe://other.org/b";
    warned(&world.spiffe(json!([world::uri("exact", uri)])), &Warning::Unreachable { uri: uri.into() });
    let mut anyone = world.ca(json!([]));
    anyone["trust_chain_verification"] = "ACCEPT_UNTRUSTED".into();
    warned(&anyone, &Warning::AnyoneAccepted);
    assert!(world.accepts(&anyone, "other"));
    assert!(!world.accepts(&anyone, "none"));
    // The warning is about the SPIFFE validator only.
    assert!(!world::compiled(&world.ca(dns)).warnings().contains(&only));
}

#[test]
fn every_way_to_match() {
    let matches = |kind, test, ignore_case, name: &[u8]| {
        let matcher = Matcher::new(kind, &StringMatcher { test, ignore_case }).expect("compiles");
        matcher.matches(&Name { kind, bytes: name })
    };
    let text = |make: fn(String) -> Test, text: &str| make(text.to_owned());
    for (test, ignore_case, expected) in [
        (text(Test::Exact, "spiffe://td/Web"), false, [true, false, false]),
        (text(Test::Exact, "spiffe://td/web"), false, [false, false, false]),
        (text(Test::Exact, "spiffe://td/web"), true, [true, false, false]),
        (text(Test::Prefix, "spiffe://td/"), false, [true, true, false]),
        (text(Test::Prefix, "SPIFFE://TD/"), true, [true, true, false]),
        (text(Test::Suffix, "/Web"), false, [true, false, false]),
        (text(Test::Suffix, "/wEB"), true, [true, false, false]),
        (text(Test::Contains, "td"), false, [true, true, false]),
        (text(Test::Contains, "/WE"), true, [true, true, false]),
        (text(Test::SafeRegex, "spiffe://td/[A-Z][a-z]+"), false, [true, false, false]),
        (text(Test::SafeRegex, "spiffe://td/W"), false, [false, false, false]),
        (text(Test::SafeRegex, "(?i)spiffe://td/web|x"), false, [true, false, false]),
    ] {
        let names: [&[u8]; 3] = [b"spiffe://td/Web", b"spiffe://td/Web-2", b""];
        let found = names.map(|name| matches(Kind::Uri, test.clone(), ignore_case, name));
        assert_eq!(found, expected, "{test:?} {ignore_case}");
    }
    assert!(matches(Kind::Ip, text(Test::Exact, "10.0.0.1"), false, &[10, 0, 0, 1]));
    assert!(matches(
        Kind::Ip,
        text(Test::Prefix, "fd00::"),
        false,
        &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
    ));
    assert!(!matches(Kind::Ip, text(Test::Contains, "."), false, &[10, 0]));
    assert!(matches(Kind::Email, text(Test::Suffix, "@b.local"), false, b"a@b.local"));
}

/// RFC 6125 as in Envoy: the wildcard is in the certificate, and stands for a label or a part of it.
#[test]
fn dns_names_are_matched_with_the_certificates_wildcards() {
    for (wanted, in_certificate, expected) in [
        ("api.example.org", "api.example.org", true),
        ("API.example.org", "api.EXAMPLE.org", true),
        ("api.example.org", "*.example.org", true),
        ("api.example.org", "a*.example.org", true),
        ("api.example.org", "*i.Example.org", true),
        ("api.example.org", "a*i.example.org", true),
        ("api.example.org", "ap*pi.example.org", false),
        ("api.example.org", "a*p*.example.org", false),
        ("a.b.example.org", "*.example.org", false),
        ("example.org", "*.example.org", false),
        ("example.org", "*.org", true),
        ("org", "*", false),
        ("api.example.org", "api.*.org", false),
        ("*.example.org", "api.example.org", false),
        ("*.example.org", "*.example.org", true),
        ("xn--api.example.org", "xn--*.example.org", false),
        ("", "", true),
    ] {
        let test = Test::Exact(wanted.to_owned());
        let matcher = Matcher::new(Kind::Dns, &StringMatcher { test, ignore_case: false }).expect("compiles");
        let name = Name { kind: Kind::Dns, bytes: in_certificate.as_bytes() };
        assert_eq!(matcher.matches(&name), expected, "{wanted} {in_certificate}");
    }
}

#[test]
fn expressions_that_re2_reads_otherwise_are_refused_by_name() {
    for pattern in [
        "(",
        "a)|(b",
        "(?x)a",
        "[a&&b]",
        "[a--b]",
        "[a[b]]",
        r"\p{Greek}",
        r"[\pL]",
        r"\bx{start}\b{start}",
        "a**",
        "a{1001}",
        "(a{50}){50}",
        r"\u0041",
        r"(?=a)",
        r"\1",
        "(?R)a",
    ] {
        let error = dialect::compile(pattern).expect_err(pattern).to_string();
        assert!(error.contains(&format!("{pattern:?}")), "{error}");
    }
    for pattern in
        ["spiffe://td/(a|b)", r"spiffe://td/[\w.-]+", r"(?i)a", "(?U)a+", r"a{2,1000}", r"[^/]*", r"\x{41}"]
    {
        assert!(dialect::compile(pattern).is_ok(), "{pattern}");
    }
}

#[test]
fn malformed_names_are_none() {
    for der in
        [&[][..], &[0x30], &[0x30, 5, 0x82, 1], &[0x30, 3, 0x82, 1, 0x61, 0], &[0x30, 0x81, 3, 0x82, 1, 0x61]]
    {
        assert!(Names::parse(der).is_none(), "{der:?}");
    }
    let names = Names::parse(&[0x30, 9, 0x82, 1, 0x61, 0x88, 1, 1, 0x86, 1, 0x62]).expect("read");
    let found: Vec<_> = names.map(|name| (name.kind, name.bytes)).collect();
    assert_eq!(found, [(Kind::Dns, &b"a"[..]), (Kind::Uri, b"b")]);
}

proptest! {
    #[test]
    fn names_are_found_in_whatever_extension(der in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(names) = Names::parse(&der) {
            for name in names {
                prop_assert!(name.bytes.len() < der.len());
            }
        }
    }

    /// The definition of a match, on text.
    #[test]
    fn literal_matchers_are_the_definition(wanted in "[aAb.*]{1,3}", name in "[aAb.*]{0,6}", fold in any::<bool>()) {
        let (folded, plain) = (|text: &str| text.to_ascii_lowercase(), |text: &str| text.to_owned());
        let case = |text: &str| if fold { folded(text) } else { plain(text) };
        let (w, n) = (case(&wanted), case(&name));
        for (test, expected) in [
            (Test::Exact(wanted.clone()), w == n),
            (Test::Prefix(wanted.clone()), n.starts_with(&w)),
            (Test::Suffix(wanted.clone()), n.ends_with(&w)),
            (Test::Contains(wanted.clone()), n.contains(&w)),
        ] {
            let matcher = Matcher::new(Kind::Uri, &StringMatcher { test, ignore_case: fold }).expect("compiles");
            let found = matcher.matches(&Name { kind: Kind::Uri, bytes: name.as_bytes() });
            prop_assert_eq!(found, expected, "{}", matcher);
        }
    }
}
