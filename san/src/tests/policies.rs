//! Tests of reading policies, of errors, and of the merge.

use std::io;

use serde_json::{Value, json};

use super::super::read::{self, ReadError, Reading};
use super::super::{Peer, Policy, context::Context};
use super::world::{self, World};

#[test]
fn a_policy_is_found_in_whatever_holds_it() {
    let context = json!({ "match_typed_subject_alt_names": [world::uri("exact", "spiffe://td/a")] });
    let tls = json!({ "validation_context": context, "alpn_protocols": ["h2"] });
    let kind = |name: &str| format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{name}");
    let down = json!({ "@type": kind("DownstreamTlsContext"), "common_tls_context": tls });
    let up = json!({ "@type": kind("UpstreamTlsContext"), "common_tls_context": tls, "sni": "x" });
    for (policy, peer) in [
        (context.clone(), None),
        (tls.clone(), None),
        (json!({ "validationContext": context }), None),
        (down.clone(), Some(Peer::Client)),
        (up, Some(Peer::Server)),
        (json!({ "require_client_certificate": true, "common_tls_context": tls }), Some(Peer::Client)),
        (json!({ "name": "envoy.transport_sockets.tls", "typed_config": down }), Some(Peer::Client)),
        (json!({ "transport_socket": { "name": "x", "typed_config": down } }), Some(Peer::Client)),
        (json!({ "@type": kind("Secret"), "name": "x", "validation_context": context }), None),
        (
            json!({ "matchTypedSubjectAltNames": [{ "sanType": "URI", "matcher": { "exact": "spiffe://td/a" } }] }),
            None,
        ),
        (
            json!({ "match_typed_subject_alt_names": [{ "san_type": 3, "matcher": { "exact": "spiffe://td/a" } }] }),
            None,
        ),
    ] {
        let reading = read(&policy).expect("read");
        assert_eq!((reading.context.typed.len(), reading.peer, reading.secret), (1, peer, None), "{policy}");
    }
}

#[test]
fn what_sds_delivers_is_named() {
    let combined = json!({ "combined_validation_context": {
        "default_validation_context": { "allow_expired_certificate": true },
        "validation_context_sds_secret_config": { "name": "spiffe://td", "sds_config": { "ads": {} } },
    } });
    let reading = read(&combined).expect("read");
    assert_eq!(reading.secret.as_deref(), Some("spiffe://td"));
    assert!(reading.context.allow_expired);
    let only = json!({ "validation_context_sds_secret_config": { "name": "ROOTCA" } });
    assert_eq!(read(&only).expect("read").secret.as_deref(), Some("ROOTCA"));
    let context = json!({ "max_verify_depth": 3 });
    let (secret, other) =
        (json!({ "name": "spiffe://td", "validation_context": context }), json!({ "name": "x" }));
    for delivered in [
        context.clone(),
        secret.clone(),
        json!({ "resources": [other, secret] }),
        json!({ "resources": [secret] }),
    ] {
        let found = read::delivered(&delivered, Some("spiffe://td"), &missing).expect("read");
        assert_eq!(found.max_verify_depth, Some(3), "{delivered}");
    }
    let none = read::delivered(&json!({ "resources": [other, other] }), Some("spiffe://td"), &missing);
    assert!(matches!(none, Err(ReadError::Resource { found: 2, .. })));
}

/// As measured with Envoy: lists grow, fields that SDS sets win, and fields that it leaves out stay.
#[test]
fn what_sds_delivers_is_merged_into_the_default() {
    let world = World::new();
    let context = |policy: &Value| read(policy).expect("read").context;
    let a =
        context(&json!({ "match_typed_subject_alt_names": [world::uri("exact", "spiffe://example.org/a")] }));
    let merged = |default: &Context, delivered: &Context| {
        let policy = Policy::compile(&default.clone().merge(delivered.clone())).expect("compiles");
        let judge = |peer: &str| policy.check(world.chain(peer), std::time::SystemTime::now(), Peer::Client);
        ["a", "b", "other", "expired b"].map(|peer| judge(peer).expect("a verdict").refusal.is_none())
    };
    for roots in [world.ca(json!([])), world.spiffe(json!([]))].map(|policy| context(&policy)) {
        assert_eq!(merged(&a, &roots), [true, false, false, false]);
        // The policy gets wider; nothing is replaced.
        let b = context(
            &json!({ "match_typed_subject_alt_names": [world::uri("exact", "spiffe://example.org/b")] }),
        );
        let with_b = roots.clone().merge(b);
        assert_eq!(merged(&a, &with_b), [true, true, false, false]);
        let lenient = Context { allow_expired: true, ..roots.clone() };
        assert_eq!(merged(&Context::default(), &lenient), [true, true, false, true]);
        assert_eq!(
            merged(&Context { allow_expired: true, ..Context::default() }, &roots),
            [true, true, false, true]
        );
        let other = context(&json!({ "trusted_ca": { "inline_string": world.pem("other") } }));
        assert_eq!(merged(&other, &roots), [true, true, false, false]);
    }
}

#[test]
fn errors_say_where_and_what() {
    let world = World::new();
    let pem = world.pem("root");
    for (policy, part) in [
        (json!([]), "CertificateValidationContext: expected an object"),
        (json!({ "trusted_caa": {} }), "trusted_caa: not a field of CertificateValidationContext"),
        (
            json!({ "trusted_ca": { "inline_string": pem, "trustedCa": 1 } }),
            "trusted_ca.trustedCa: not a field of DataSource",
        ),
        (json!({ "trusted_ca": {}, "trustedCa": {} }), "trusted_ca: there twice"),
        (json!({ "trusted_ca": {} }), "trusted_ca: expected one of filename"),
        (json!({ "trusted_ca": { "filename": "/x.pem" } }), "trusted_ca.filename: cannot read \"/x.pem\""),
        (
            json!({ "trusted_ca": { "inline_bytes": "%" } }),
            "trusted_ca.inline_bytes: expected bytes in base64",
        ),
        (json!({ "trusted_ca": { "environment_variable": "CA" } }), "put its content into inline_string"),
        (json!({ "system_root_certs": {} }), "system_root_certs: not known here; give the roots"),
        (
            json!({ "match_typed_subject_alt_names": [{ "matcher": { "exact": "a" } }] }),
            "[0].san_type: expected EMAIL",
        ),
        (json!({ "match_typed_subject_alt_names": [{ "san_type": "URI" }] }), "[0]: expected a matcher"),
        (
            json!({ "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": 1 } }] }),
            "expected text",
        ),
        (json!({ "match_subject_alt_names": [{ "prefix": "" }] }), "[0].prefix: expected one of exact"),
        (
            json!({ "match_subject_alt_names": [{ "prefix": "a", "exact": "a" }] }),
            "[0]: expected one of exact",
        ),
        (json!({ "match_subject_alt_names": [{ "safe_regex": {} }] }), "expected text"),
        (json!({ "match_subject_alt_names": [{ "regex": "a" }] }), "[0].regex: not a field of StringMatcher"),
        (
            json!({ "custom_validator_config": { "name": "x", "typed_config": { "@type": "y" } } }),
            "no other validator is known",
        ),
        (json!({ "@type": "a.b/Listener" }), "@type: expected a TLS context"),
        (json!({ "common_tls_context": {} }), "there is no validation context"),
        (json!({ "max_verify_depth": -1 }), "max_verify_depth: expected a number"),
    ] {
        let error = read(&policy).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_envoy_refuses_to_load_is_refused() {
    let world = World::new();
    let uri = world::uri("exact", "spiffe://example.org/b");
    let twice = json!([{ "name": "td", "trust_bundle": { "inline_string": world.pem("root") } },
        { "name": "td", "trust_bundle": { "inline_string": world.pem("other") } }]);
    let mut domains = world.spiffe(json!([]));
    domains["custom_validator_config"]["typed_config"]["trust_domains"] = twice;
    let mut pin = world.ca(json!([]));
    pin["verify_certificate_hash"] = json!(["00"]);
    let mut folded = world.ca(json!([]));
    folded["match_subject_alt_names"] = json!([{ "safe_regex": { "regex": "a" }, "ignore_case": true }]);
    let mut regex = world.ca(json!([]));
    regex["match_subject_alt_names"] = json!([{ "safe_regex": { "regex": "(" } }]);
    for (policy, part) in [
        (json!({ "match_typed_subject_alt_names": [uri] }), "SAN matchers need a trusted_ca"),
        (json!({ "allow_expired_certificate": true }), "allow_expired_certificate needs"),
        (json!({ "crl": { "filename": "x" } }), "a crl needs"),
        (folded, "ignore_case has no effect"),
        (domains, "multiple trust bundles are given for trust domain \"td\""),
        (pin, "verify_certificate_hash: \"00\" is not a SHA-256"),
        (regex, "regular expression \"(\""),
        (json!({ "trusted_ca": { "inline_string": "" } }), "no PEM certificate in it"),
        (
            world::validator("td", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "cannot be read",
        ),
    ] {
        let error = Policy::compile(&read(&policy).expect("read").context).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

fn read(policy: &Value) -> Result<Reading, ReadError> {
    read::policy(policy, &missing)
}

fn missing(_: &str) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::NotFound.into())
}
