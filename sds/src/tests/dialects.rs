//! The names that meshes ask for, and what they get. docs/sds-names.md has the same rows.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use prost::Message as _;
use tls::secret::Type;

use super::{DB, WEB, identity, names, svid, update, wall, with_foreign};
use crate::Options;
use crate::machine::{Machine, Next};
use crate::wire::{
    BuildVersion, DiscoveryRequest, Kind, Metadata, MetadataEntry, Node, Protocol, SemanticVersion, Value,
};

/// What a resource is.
#[derive(Debug, PartialEq, Eq)]
enum Is {
    /// A certificate and its key.
    Certificate,
    /// Roots for Envoy's SPIFFE validator, of these trust domains.
    Validator(&'static [&'static str]),
    /// Plain roots.
    Roots,
    /// Nothing yet; the stream waits.
    Held,
    /// The stream ends with this text.
    Refused(&'static str),
}

/// Settings that documentation of meshes asks for.
fn istio_of_spire() -> Options {
    // SPIRE's and Istio's guides for both together.
    Options {
        default_bundle_name: "null".into(),
        default_all_bundles_name: "ROOTCA".into(),
        ..Options::default()
    }
}

fn node(minor: u32, disable: Option<Kind>) -> Node {
    let version = Some(SemanticVersion { major_number: 1, minor_number: minor });
    let field = disable.map(|kind| MetadataEntry {
        key: "disable_spiffe_cert_validation".into(),
        value: Some(Value { kind: Some(kind) }),
    });
    Node {
        metadata: Some(Metadata { fields: field.into_iter().collect() }),
        user_agent_build_version: Some(BuildVersion { version }),
    }
}

#[test]
fn meshes_get_what_they_ask_for() {
    let (plain, istio) = (Options::default, istio_of_spire);
    let off = || Options { disable_spiffe_cert_validation: true, ..Options::default() };
    let new = || node(40, None);
    let consul = "spiffe://td/ns/default/dc/dc1/svc/web";
    let needs_validator = "unable to use \"SPIFFE validator\" on Envoy below 1.17";
    let rows = [
        ("SPIRE: the SPIFFE ID", WEB, plain(), new(), Is::Certificate),
        ("SPIRE: the trust domain", "spiffe://td", plain(), new(), Is::Validator(&["td"])),
        ("SPIRE: a federated trust domain", "spiffe://other", plain(), new(), Is::Validator(&["other"])),
        ("SPIRE: all bundles", "ALL", plain(), new(), Is::Validator(&["another", "other", "td"])),
        ("App Mesh: the SPIFFE ID", DB, plain(), new(), Is::Certificate),
        ("App Mesh: the trust domain", "spiffe://td", off(), new(), Is::Roots),
        ("Istio: its own certificate", "default", plain(), new(), Is::Certificate),
        ("Istio: its roots", "ROOTCA", plain(), new(), Is::Validator(&["td"])),
        ("Istio with federation", "ROOTCA", istio(), new(), Is::Validator(&["another", "other", "td"])),
        ("Istio: the host's CA file", "file-root:system", plain(), new(), Is::Roots),
        ("Istio: files of the pod", "file-cert:/a~/b", plain(), new(), Is::Held),
        ("Istio: another file as roots", "file-root:/etc/shadow", plain(), new(), Is::Held),
        ("Consul: the SPIFFE ID of a service", consul, plain(), new(), Is::Certificate),
        ("Kuma: its own names", "identity_cert:secret:default", plain(), new(), Is::Held),
        ("Envoy before 1.18", "spiffe://td", plain(), node(17, None), Is::Roots),
        ("Envoy before 1.18: all", "ALL", plain(), node(17, None), Is::Refused(needs_validator)),
        ("off in the node", "ROOTCA", plain(), node(40, Some(Kind::Bool(true))), Is::Roots),
        (
            "on in the node",
            "ROOTCA",
            off(),
            node(40, Some(Kind::Text("false".into()))),
            Is::Validator(&["td"]),
        ),
    ];
    for (row, name, options, node, expected) in rows {
        let mut machine = Machine::new(Protocol::Sotw, Arc::new(options), Arc::default(), 7);
        machine.request(DiscoveryRequest { node: Some(node), ..names(&[name]) }).unwrap();
        let identities =
            [(1, WEB), (2, DB), (3, consul)].map(|(place, id)| identity(place, id, svid(id, place, 60)));
        machine.update(with_foreign(&update(identities.into(), 1)));
        let mut next = machine.next(Duration::ZERO, wall());
        machine.roots(Arc::new(vec![bytes::Bytes::from_static(b"root")]));
        if matches!(next, Ok(Next::Wait(_))) {
            next = machine.next(Duration::ZERO, wall());
        }
        let is = match next {
            Ok(Next::Push(push)) => {
                let any =
                    envoy_types::pb::google::protobuf::Any::decode(&*push.resources[0].resource).unwrap();
                let secret = tls::Secret::decode(&*any.value).unwrap();
                assert_eq!(secret.name, name, "{row}");
                assert!(is_of(secret.r#type.unwrap(), &expected), "{row}");
                continue;
            }
            Ok(Next::Wait(_)) => Is::Held,
            Err(refusal) if expected == Is::Refused(needs_validator) => {
                assert_eq!(refusal.to_string(), needs_validator, "{row}");
                continue;
            }
            Err(refusal) => panic!("{row}: {refusal}"),
        };
        assert_eq!(is, expected, "{row}");
    }
}

fn is_of(secret: Type, expected: &Is) -> bool {
    match (secret, expected) {
        (Type::TlsCertificate(_), Is::Certificate) => true,
        (Type::ValidationContext(context), Is::Validator(domains)) => {
            let config = context.custom_validator_config.and_then(|config| config.typed_config).unwrap();
            let config = tls::SpiffeCertValidatorConfig::decode(&*config.value).unwrap();
            let found: Vec<_> = config.trust_domains.iter().map(|domain| &*domain.name).collect();
            context.trusted_ca.is_none() && found == *domains
        }
        (Type::ValidationContext(context), Is::Roots) => {
            context.trusted_ca.is_some() && context.custom_validator_config.is_none()
        }
        _ => false,
    }
}
