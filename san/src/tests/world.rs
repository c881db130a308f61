//! Certificates of two trust domains, and policies that trust the first one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::super::{Peer, Policy, Refusal, read};

pub(super) struct World {
    chains: BTreeMap<&'static str, Vec<CertificateDer<'static>>>,
}

struct Authority {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl World {
    pub(super) fn new() -> Self {
        let root = Authority::new("example.org", DAY, None);
        let other = Authority::new("other.org", DAY, None);
        let expired = Authority::new("example.org", -HOUR, None);
        let intermediate = Authority::new("example.org", DAY, Some(&root));
        let (b, a, dns) = ("spiffe://example.org/b", "spiffe://example.org/a", "b.local");
        let mut chains = BTreeMap::new();
        let mut leaf = |name: &'static str, by: &Authority, names: &[&str], life: Duration| {
            chains.insert(name, vec![by.sign(names, life, ExtendedKeyUsagePurpose::ClientAuth)]);
        };
        leaf("b", &root, &[b], DAY);
        leaf("a", &root, &[a], DAY);
        leaf("other", &other, &["spiffe://other.org/b"], DAY);
        leaf("other by our CA", &root, &["spiffe://other.org/b"], DAY);
        leaf("b by other CA", &other, &[b], DAY);
        leaf("b with b.local", &root, &[b, dns], DAY);
        leaf("b.local only", &root, &[dns], DAY);
        leaf("b and a", &root, &[b, a], DAY);
        leaf("a and b", &root, &[a, b], DAY);
        leaf("expired b", &root, &[b], -HOUR);
        leaf("trust domain only", &root, &["spiffe://example.org"], DAY);
        leaf("by expired root", &expired, &[b], DAY);
        leaf("c by intermediate", &intermediate, &["spiffe://example.org/c"], DAY);
        chains.insert("c without its intermediate", chains["c by intermediate"].clone());
        let above = intermediate.der.clone();
        chains.entry("c by intermediate").and_modify(|chain| chain.push(above));
        chains.insert("b for servers", vec![root.sign(&[b], DAY, ExtendedKeyUsagePurpose::ServerAuth)]);
        chains.insert("none", Vec::new());
        for (name, authority) in [("root", root), ("intermediate", intermediate), ("expired root", expired)] {
            chains.insert(name, vec![authority.der]);
        }
        Self { chains }
    }

    pub(super) fn chain(&self, name: &str) -> &[CertificateDer<'static>] {
        &self.chains[name]
    }

    pub(super) fn pem(&self, name: &str) -> String {
        pem(&self.chains[name][0])
    }

    pub(super) fn ca(&self, matchers: Value) -> Value {
        json!({ "trusted_ca": { "inline_string": self.pem("root") }, "match_typed_subject_alt_names": matchers })
    }

    pub(super) fn spiffe(&self, matchers: Value) -> Value {
        let mut policy = validator("example.org", &self.pem("root"));
        policy["match_typed_subject_alt_names"] = matchers;
        policy
    }

    pub(super) fn check(&self, policy: &Value, peer: &str) -> Option<Refusal> {
        let policy = compiled(policy);
        policy.check(self.chain(peer), SystemTime::now(), Peer::Client).expect("a verdict").refusal
    }

    pub(super) fn accepts(&self, policy: &Value, peer: &str) -> bool {
        self.check(policy, peer).is_none()
    }
}

impl Authority {
    fn new(trust_domain: &str, life: Duration, parent: Option<&Self>) -> Self {
        let mut params = params(&[&format!("spiffe://{trust_domain}")], life);
        params.distinguished_name.push(DnType::CommonName, format!("{trust_domain} {}", parent.is_some()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = match parent {
            Some(parent) => params.signed_by(&key, &parent.issuer),
            None => params.self_signed(&key),
        };
        let der = certificate.expect("signed").der().clone();
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn sign(
        &self,
        names: &[&str],
        life: Duration,
        usage: ExtendedKeyUsagePurpose,
    ) -> CertificateDer<'static> {
        let mut params = params(names, life);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, &self.issuer).expect("signed").der().clone()
    }
}

fn params(names: &[&str], life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let name = |name: &&str| {
        let text = (*name).try_into().expect("ASCII");
        if name.contains(':') { SanType::URI(text) } else { SanType::DnsName(text) }
    };
    params.subject_alt_names = names.iter().map(name).collect();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - DAY;
    params.not_after = now + life;
    params
}

pub(super) fn compiled(policy: &Value) -> Policy {
    let reading = read::policy(policy, &|_| Err(std::io::ErrorKind::NotFound.into())).expect("read");
    Policy::compile(&reading.context).expect("compiles")
}

pub(super) fn validator(name: &str, pem: &str) -> Value {
    json!({ "custom_validator_config": { "name": "envoy.tls.cert_validator.spiffe", "typed_config": {
        "@type": VALIDATOR,
        "trust_domains": [{ "name": name, "trust_bundle": { "inline_string": pem } }],
    } } })
}

pub(super) fn uri(how: &str, text: &str) -> Value {
    json!({ "san_type": "URI", "matcher": { how: text } })
}

pub(super) fn dns(how: &str, text: &str) -> Value {
    json!({ "san_type": "DNS", "matcher": { how: text } })
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

pub(super) const VALIDATOR: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const DAY: Duration = Duration::DAY;
const HOUR: Duration = Duration::HOUR;
