//! Requests are cut out of DATA frames, and reduced to the fields that are read.

use bytes::{BufMut, Bytes};
use envoy_types::pb::envoy::config::core::v3::{BuildVersion, Extension, Node, node};
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc::Status;
use proptest::prelude::*;
use prost::Message as _;

use crate::framing::{Intake, Message, RequestError};
use crate::node::NodeFacts;
use crate::wire::{DeltaDiscoveryRequest, DiscoveryRequest, Protocol, Rejection};

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.put_u32(message.len().try_into().unwrap());
    bytes.extend(message);
    bytes
}

/// Reads all messages of these DATA frames.
fn messages<'a>(
    frames: impl IntoIterator<Item = &'a [u8]>,
    skip_node: bool,
) -> Result<Vec<Message>, RequestError> {
    messages_by(Protocol::Sotw, frames, skip_node)
}

fn messages_by<'a>(
    protocol: Protocol,
    frames: impl IntoIterator<Item = &'a [u8]>,
    skip_node: bool,
) -> Result<Vec<Message>, RequestError> {
    let mut intake = Intake::new(protocol);
    let mut messages = Vec::new();
    for frame in frames {
        let mut rest = Bytes::copy_from_slice(frame);
        while !rest.is_empty() {
            messages.extend(intake.feed(&mut rest, skip_node)?);
        }
    }
    if intake.is_between() { Ok(messages) } else { Err(RequestError::Truncated) }
}

fn one(message: &[u8]) -> Result<Message, RequestError> {
    let message = messages([&*framed(message)], false)?.remove(0);
    message.request()?;
    Ok(message)
}

fn recording(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/testdata/envoy-1.40.0.{name}.bin", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn a_recorded_envoy_is_understood() {
    for name in ["first-request", "ack"] {
        let bytes = recording(name);
        let ours = one(&bytes).unwrap();
        let ours = ours.request().unwrap();
        let theirs = discovery::DiscoveryRequest::decode(&*bytes).unwrap();
        assert_eq!(ours.resource_names, theirs.resource_names);
        assert_eq!(ours.version_info, theirs.version_info);
        assert_eq!(ours.response_nonce, theirs.response_nonce);
        assert_eq!(ours.type_url, theirs.type_url);
        let version = ours.node.unwrap().user_agent_build_version.unwrap().version.unwrap();
        assert_eq!((version.major_number, version.minor_number), (1, 40));
    }
}

#[test]
fn nothing_is_kept_of_the_node_of_a_known_client() {
    let without = messages([&*framed(&recording("ack"))], true).unwrap().remove(0);
    let with = one(&recording("ack")).unwrap();
    let (without, with) = (without.request().unwrap(), with.request().unwrap());
    assert!(with.node.is_some());
    assert_eq!(without, DiscoveryRequest { node: None, ..with });
}

#[test]
fn messages_that_no_client_may_send() {
    let refused = |bytes: &[u8]| messages([bytes], false).unwrap_err();
    assert_eq!(refused(&[1, 0, 0, 0, 0]), RequestError::Compressed);
    assert_eq!(refused(&[2]), RequestError::Flag(2));
    assert_eq!(refused(&[0, 0, 64, 0, 1]), RequestError::TooLong { len: 4 * 1024 * 1024 + 1 });
    assert_eq!(refused(&framed(b"\x0a\x01x")[..6]), RequestError::Truncated);
    // An incomplete prefix is no message.
    assert_eq!(messages([&framed(b"x")[..3]], false).unwrap(), []);
    let version_info = "x".repeat(64 * 1024);
    let too_much = discovery::DiscoveryRequest { version_info, ..Default::default() };
    assert_eq!(one(&too_much.encode_to_vec()).unwrap_err(), RequestError::TooMuch);
    for malformed in [
        &b"\x1a\x05abc"[..],                             // a name longer than the message
        b"\x12\x02\x12\x05\x00\x00\x00\x00\x00",         // a field longer than the node
        b"\x12\x01\x80\x00",                             // a key that ends in another message
        b"\x00\x00",                                     // field number 0
        b"\x0b\x0c",                                     // a group
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", // a varint of more than 64 bits
        b"\x1a\x02\xff\xff",                             // a name that is not UTF-8
        b"\x09\x00",                                     // eight bytes of which one is there
        b"\x1a",                                         // a key alone
    ] {
        assert!(matches!(one(malformed), Err(RequestError::Malformed(_))), "{malformed:?}");
    }
}

#[test]
fn metadata_of_any_size_costs_nothing_and_hides_nothing() {
    let value = |kind| Value { kind: Some(kind) };
    let mut fields: std::collections::HashMap<String, Value> =
        (0..20_000).map(|n| (format!("label-{n}"), value(Kind::StringValue("x".into())))).collect();
    fields.insert("disable_spiffe_cert_validation".into(), value(Kind::StringValue("true".into())));
    let node = Node { metadata: Some(Struct { fields }), ..Node::default() };
    let request = discovery::DiscoveryRequest { node: Some(node), ..Default::default() };
    let message = one(&request.encode_to_vec()).unwrap();
    let node = message.request().unwrap().node.unwrap();
    assert_eq!(node.metadata.unwrap().fields.len(), 1);
}

#[test]
fn a_message_without_content() {
    assert_eq!(one(&[]).unwrap().request().unwrap(), DiscoveryRequest::default());
}

fn metadata() -> impl Strategy<Value = Struct> {
    let kind = prop_oneof![
        any::<bool>().prop_map(Kind::BoolValue),
        "true|false|t|0|yes|.{80}".prop_map(Kind::StringValue),
        any::<f64>().prop_map(Kind::NumberValue),
    ];
    let key = "disable_spiffe_cert_validation|[a-z]{0,9}|[a-z]{300}";
    let entry = (key, kind).prop_map(|(key, kind)| (key, Value { kind: Some(kind) }));
    prop::collection::hash_map(any::<u8>(), entry, 0..4)
        .prop_map(|fields| Struct { fields: fields.into_values().collect() })
}

prop_compose! {
    fn node()(
        metadata in prop::option::of(metadata()),
        version in prop::option::of((0u32..3, 0u32..40)),
        extensions in 0usize..20,
    ) -> Node {
        let version = version.map(|(major_number, minor_number)| {
            let version = Some(SemanticVersion { major_number, minor_number, patch: 1 });
            node::UserAgentVersionType::UserAgentBuildVersion(BuildVersion { version, metadata: None })
        });
        Node {
            id: "envoy".into(),
            metadata,
            user_agent_name: "envoy".into(),
            user_agent_version_type: version,
            extensions: vec![Extension { name: "x".repeat(100), ..Default::default() }; extensions],
            ..Default::default()
        }
    }
}

prop_compose! {
    fn request()(
        node in prop::option::of(node()),
        names in prop::collection::vec("[a-z:/]{0,40}", 0..4),
        texts in ("[a-z]{0,9}", "[a-z]{0,9}", "[a-z]{0,9}"),
        rejection in prop::option::of(".{0,40}"),
    ) -> discovery::DiscoveryRequest {
        let error_detail = rejection.map(|message| Status { code: 13, message, details: vec![] });
        discovery::DiscoveryRequest {
            version_info: texts.0, response_nonce: texts.1, type_url: texts.2,
            resource_names: names, node, error_detail, ..Default::default()
        }
    }
}

prop_compose! {
    fn delta_request()(
        like in request(),
        versions in prop::collection::hash_map("[a-z:/]{0,40}", "[0-9a-f]{0,16}", 0..4),
        unsubscribe in prop::collection::vec("[a-z:/*]{0,40}", 0..4),
    ) -> discovery::DeltaDiscoveryRequest {
        discovery::DeltaDiscoveryRequest {
            node: like.node, type_url: like.type_url, resource_names_subscribe: like.resource_names,
            resource_names_unsubscribe: unsubscribe, initial_resource_versions: versions,
            response_nonce: like.response_nonce, error_detail: like.error_detail, ..Default::default()
        }
    }
}

/// Splits a request into the facts of its node and the rest.
fn split(mut request: DiscoveryRequest<'_>) -> (DiscoveryRequest<'_>, NodeFacts) {
    let mut facts = NodeFacts::default();
    facts.latch(request.node.take().as_ref());
    (request, facts)
}

/// The fields that should be read of Envoy's own request: without `sift`, its node decoded by prost.
fn expected(request: &discovery::DiscoveryRequest) -> (DiscoveryRequest<'_>, NodeFacts) {
    let error = request.error_detail.as_ref();
    split(DiscoveryRequest {
        version_info: &request.version_info,
        node: request.node.as_ref().map(|node| crate::wire::Node::decode(&*node.encode_to_vec()).unwrap()),
        resource_names: request.resource_names.iter().map(|name| &**name).collect(),
        type_url: &request.type_url,
        response_nonce: &request.response_nonce,
        error_detail: error.map(|status| Rejection { code: status.code, message: status.message.clone() }),
    })
}

fn expected_delta(request: &discovery::DeltaDiscoveryRequest) -> (DeltaDiscoveryRequest<'_>, NodeFacts) {
    let node = request.node.as_ref().map(|node| crate::wire::Node::decode(&*node.encode_to_vec()).unwrap());
    let mut facts = NodeFacts::default();
    facts.latch(node.as_ref());
    let versions = request.initial_resource_versions.iter();
    let mut versions: Vec<_> = versions.map(|(name, version)| (&**name, &**version)).collect();
    versions.sort_unstable();
    let error = request.error_detail.as_ref();
    let request = DeltaDiscoveryRequest {
        node: None,
        type_url: &request.type_url,
        subscribe: request.resource_names_subscribe.iter().map(|name| &**name).collect(),
        unsubscribe: request.resource_names_unsubscribe.iter().map(|name| &**name).collect(),
        initial_resource_versions: versions,
        response_nonce: &request.response_nonce,
        error_detail: error.map(|status| Rejection { code: status.code, message: status.message.clone() }),
    };
    (request, facts)
}

fn split_delta(message: &Message) -> (DeltaDiscoveryRequest<'_>, NodeFacts) {
    let mut request = message.delta_request().unwrap();
    let mut facts = NodeFacts::default();
    facts.latch(request.node.take().as_ref());
    request.initial_resource_versions.sort_unstable();
    (request, facts)
}

proptest! {
    /// The same for requests of delta streams.
    #[test]
    fn frames_of_delta_requests_are_cut_anywhere(
        sent in prop::collection::vec(delta_request(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|request| framed(&request.encode_to_vec())).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let frames = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        let got = messages_by(Protocol::Delta, frames, false).unwrap();
        let got: Vec<_> = got.iter().map(split_delta).collect();
        prop_assert_eq!(got, sent.iter().map(expected_delta).collect::<Vec<_>>());
    }

    /// The requests are the same, however their bytes are cut into frames.
    #[test]
    fn frames_are_cut_anywhere(
        sent in prop::collection::vec(request(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(|request| framed(&request.encode_to_vec())).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let got = messages(cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]), false).unwrap();
        let got: Vec<_> = got.iter().map(|message| split(message.request().unwrap())).collect();
        prop_assert_eq!(got, sent.iter().map(expected).collect::<Vec<_>>());
    }
}
