//! Foreign bundles without X.509 authorities, without JWT authorities, with keys of several kinds, and with one of them
//! twice. finial and the real agent, both at one server, give the same of each.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{SpiffeCertValidatorConfig, secret};
use harness::{Sds, Sidecar, build_finial, jwt_bundles, sds_request, x509_bundles, x509_svid};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};

use super::super::attesting::served;
use super::super::levels::{Level, Programs};
use super::super::mesh::Mesh;
use super::super::real::complaints;
use super::super::spire_server::{Options, SpireServer};

pub(super) async fn alike(programs: Programs) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cross = programs.build_cross(folder.path()).await;
    let server =
        SpireServer::start_of(&programs.server, &Options { cache: Some("1s"), ..Options::default() }).await;
    let (one, other) = (authority(), authority());
    let bundles = [
        ("spiffe://only-x509.test", json!({ "keys": [one] })),
        ("spiffe://only-jwt.test", json!({ "keys": [key("a", &rcgen::PKCS_ECDSA_P256_SHA256)] })),
        (
            "spiffe://kinds.test",
            json!({ "spiffe_sequence": 7, "spiffe_refresh_hint": 300, "keys": [
                key("p521", &rcgen::PKCS_ECDSA_P521_SHA512), one, key("p384", &rcgen::PKCS_ECDSA_P384_SHA384), other,
            ] }),
        ),
        ("spiffe://twice.test", json!({ "keys": [one, one, other] })),
        ("spiffe://nothing.test", json!({ "keys": [] })),
    ];
    let mut flags = Vec::new();
    for (domain, bundle) in &bundles {
        server.set_bundle_as("spiffe", domain, &bundle.to_string()).await;
        flags.extend(["-federatesWith", *domain]);
    }
    let finial = Level::start(&build_finial(), &server, &cross, &flags).await;
    let real = Level::start(&programs.agent, &server, &cross, &flags).await;
    let (ours, theirs) = (given(&finial).await, given(&real).await);
    assert_eq!(ours, theirs);
    eprintln!("{} bundles are given alike", ours.len());
    let mut domains = Vec::new();
    for level in [&finial, &real] {
        let everybody = format!("unix:uid:{}", nix::unistd::getuid());
        server.register_with("everybody", &level.parent, &everybody, &flags).await;
        served(&level.agent, &server.id("everybody")).await;
        domains.push((in_all(level).await, rejects_all(&programs, level).await));
    }
    // The real agent gives domains without X.509 authorities, too. For their sake Envoy rejects the whole secret.
    let usable = ["example.org", "kinds.test", "only-x509.test", "twice.test"];
    assert_eq!(domains[0], (usable.map(str::to_owned).to_vec(), false));
    assert!(domains[1].1, "{:?}", domains[1].0);
    // It names them, and says nothing else.
    let said = complaints(&finial.agent);
    let named = said.lines().map(|line| line.contains("Bundle has no X.509 authorities"));
    assert_eq!(named.collect::<Vec<_>>(), [true, true], "{said}");
}

/// The trust domains in the secret `ALL` of this process.
async fn in_all(level: &Level) -> Vec<String> {
    let mut sds = Sds::open(&level.agent.socket(), sds_request(&["ALL"])).await.expect("served");
    let secret = sds.secrets(&["ALL"]).await.expect("served").remove(0);
    let Some(secret::Type::ValidationContext(context)) = secret.r#type else { panic!("another kind") };
    let validator = context.custom_validator_config.and_then(|one| one.typed_config).expect("a validator");
    let config = SpiffeCertValidatorConfig::decode(validator.value.as_slice()).expect("of SPIFFE");
    config.trust_domains.into_iter().map(|domain| domain.name).collect()
}

/// Whether an Envoy rejects the secret `ALL`. It has the identity of everybody, which the agent holds. What Envoy counts as
/// rejected is the one of both secrets that came last, because it uses them together.
async fn rejects_all(programs: &Programs, level: &Level) -> bool {
    let mesh = Mesh::new(&programs.envoy, &level.agent);
    let sidecar = Sidecar {
        callers: &["frontend"],
        authorities: Some("ALL"),
        impatient: true,
        ..mesh.sidecar("everybody")
    };
    let envoy = mesh.start(sidecar).await;
    let judged = async || {
        let mut rejections = 0;
        for name in ["ALL", "spiffe_example.org/everybody"] {
            let taken = envoy.stat(&format!("sds.{name}.update_success")).await;
            let rejected = envoy.stat(&format!("sds.{name}.update_rejected")).await;
            if taken + rejected == 0 {
                return None;
            }
            rejections += rejected;
        }
        Some(rejections > 0)
    };
    envoy.until("has judged both secrets", judged).await
}

/// The first message of each stream of bundles: what there is of each trust domain, as text.
async fn given(level: &Level) -> Vec<(String, String)> {
    let socket = level.agent.socket();
    let mut x509 = x509_bundles(&socket).await.expect("served");
    let mut jwt = jwt_bundles(&socket).await.expect("served");
    let mut svids = x509_svid(&socket).await.expect("served");
    let x509 = x509.message().await.expect("served").expect("a message").bundles;
    let jwt = jwt.message().await.expect("served").expect("a message").bundles;
    let federated = svids.message().await.expect("served").expect("a message").federated_bundles;
    let x509 = x509.into_iter().map(|(domain, ders)| (format!("X.509 of {domain}"), STANDARD.encode(ders)));
    let jwt = jwt.into_iter().map(|(domain, set)| (format!("JWT of {domain}"), sorted(&set)));
    let federated = federated
        .into_iter()
        .map(|(domain, ders)| (format!("with the SVID: {domain}"), STANDARD.encode(ders)));
    x509.chain(jwt).chain(federated).collect()
}

/// A JWK set, ordered by its keys. The real agent's order is another one each time.
fn sorted(set: &[u8]) -> String {
    let mut set: Value = serde_json::from_slice(set).expect("JSON");
    if let Some(keys) = set["keys"].as_array_mut() {
        keys.sort_by_key(ToString::to_string);
    }
    set.to_string()
}

/// An X.509 authority as it is in a SPIFFE bundle.
fn authority() -> Value {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signed");
    let mut jwk = jwk(&key, "P-256");
    jwk["use"] = "x509-svid".into();
    jwk["x5c"] = json!([STANDARD.encode(certificate.der())]);
    jwk
}

/// A JWT authority as it is in a SPIFFE bundle.
fn key(id: &str, algorithm: &'static SignatureAlgorithm) -> Value {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let curve = match key.public_key_raw().len() {
        65 => "P-256",
        97 => "P-384",
        _ => "P-521",
    };
    let mut jwk = jwk(&key, curve);
    jwk["use"] = "jwt-svid".into();
    jwk["kid"] = id.into();
    jwk
}

/// The public key. Its bytes are a tag and both coordinates (SEC 1, uncompressed).
fn jwk(key: &KeyPair, curve: &str) -> Value {
    let point = &key.public_key_raw()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
}
