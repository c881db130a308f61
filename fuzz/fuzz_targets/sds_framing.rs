//! The same requests are read, however a client's bytes are cut into DATA frames, and they equal what prost decodes of
//! the complete messages. Nothing panics, and no message is longer than the limit.
#![no_main]

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use sds::framing::{Intake, Message, RequestError};
use sds::wire::{Node, Protocol, Rejection};

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, bool, Vec<u8>)| {
    let (cuts, skip_node, bytes) = input;
    for protocol in [Protocol::Delta, Protocol::Sotw] {
        // A length may be written in more bytes than it needs, and a message that comes in pieces is written anew.
        let meaning = |(messages, error)| (meanings(protocol, messages), error);
        let whole = meaning(read(protocol, [&*bytes], skip_node));
        assert_eq!(whole, meaning(read(protocol, pieces(&bytes, &cuts), skip_node)));
        assert_eq!(whole, meaning(read(protocol, bytes.chunks(1), skip_node)));
    }
    let deltas = read(Protocol::Delta, [&*bytes], skip_node);
    for (message, ours) in messages(&bytes).zip(deltas.0) {
        if let Ok(theirs) = DeltaDiscoveryRequest::decode(message) {
            let ours = ours.delta_request().expect("prost reads it");
            assert_eq!(ours.subscribe, theirs.subscribe);
            assert_eq!(ours.unsubscribe, theirs.unsubscribe);
            assert_eq!(ours.type_url, theirs.type_url);
            assert_eq!(ours.response_nonce, theirs.response_nonce);
            assert_eq!(ours.error_detail, theirs.error_detail);
            let versions: HashMap<_, _> = ours.initial_resource_versions.into_iter().collect();
            let theirs = theirs.initial_resource_versions.iter();
            assert_eq!(versions, theirs.map(|version| (&*version.name, &*version.version)).collect());
        }
    }
    let whole = read(Protocol::Sotw, [&*bytes], skip_node);
    for (message, ours) in messages(&bytes).zip(whole.0) {
        // Compared only if both decode it: our decoder is stricter (groups) and more lenient (it does not check the
        // parts that it skips).
        if let Ok(theirs) = DiscoveryRequest::decode(message) {
            let ours = ours.request().expect("prost reads it");
            assert_eq!(ours.version_info, theirs.version_info);
            assert_eq!(ours.resource_names, theirs.resource_names);
            assert_eq!(ours.type_url, theirs.type_url);
            assert_eq!(ours.response_nonce, theirs.response_nonce);
            assert_eq!(ours.error_detail, theirs.error_detail);
            if let (Some(ours), Some(theirs), false) = (ours.node, theirs.node, skip_node) {
                assert_eq!(ours.user_agent_build_version, theirs.user_agent_build_version);
            }
        }
    }
});

/// `envoy.service.discovery.v3.DiscoveryRequest`, for prost to decode.
#[derive(prost::Message)]
struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    version_info: String,
    #[prost(message, optional, tag = "2")]
    node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    response_nonce: String,
    #[prost(message, optional, tag = "6")]
    error_detail: Option<Rejection>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`, without its node.
#[derive(prost::Message)]
struct DeltaDiscoveryRequest {
    #[prost(string, tag = "2")]
    type_url: String,
    #[prost(string, repeated, tag = "3")]
    subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    unsubscribe: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    initial_resource_versions: Vec<ResourceVersion>,
    #[prost(string, tag = "6")]
    response_nonce: String,
    #[prost(message, optional, tag = "7")]
    error_detail: Option<Rejection>,
}

/// An entry of the map `initial_resource_versions`. prost's maps are not decoded as such, because they do not look at the wire
/// type of their field: a fixed64 of that number would be an entry.
#[derive(prost::Message)]
struct ResourceVersion {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// The messages that our decoder reads, and the error that ended it.
fn read<'a>(
    protocol: Protocol,
    frames: impl IntoIterator<Item = &'a [u8]>,
    skip_node: bool,
) -> (Vec<Message>, Option<RequestError>) {
    let (mut intake, mut messages) = (Intake::new(protocol), Vec::new());
    for frame in frames {
        let mut rest = Bytes::copy_from_slice(frame);
        while !rest.is_empty() {
            match intake.feed(&mut rest, skip_node) {
                Ok(message) => messages.extend(message),
                Err(reason) => return (messages, Some(reason)),
            }
        }
    }
    (messages, None)
}

/// What our decoder makes of the messages.
fn meanings(protocol: Protocol, messages: Vec<Message>) -> Vec<String> {
    let meaning = |message: Message| match protocol {
        Protocol::Delta => format!("{:?}", message.delta_request()),
        Protocol::Sotw => format!("{:?}", message.request()),
    };
    messages.into_iter().map(meaning).collect()
}

fn pieces<'a>(bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let (mut rest, mut pieces) = (bytes, Vec::new());
    for cut in cuts {
        let (piece, after) = rest.split_at(rest.len().min(usize::from(*cut)));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// Cuts the bytes into messages by their length prefixes.
fn messages(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, after) = rest.split_at_checked(5)?;
        let len = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
        let (message, after) = after.split_at_checked(len)?;
        rest = after;
        Some(message)
    })
}
