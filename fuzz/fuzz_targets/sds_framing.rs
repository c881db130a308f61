//! However a client's bytes are cut into DATA frames, the requests read are the same, and they are what prost reads of the
//! same messages whole; nothing panics, and no message is longer than the limit.
#![no_main]

use bytes::Bytes;
use prost::Message as _;
use sds::framing::{Intake, RequestError};
use sds::wire::DiscoveryRequest;

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, bool, Vec<u8>)| {
    let (cuts, skip_node, bytes) = input;
    let whole = requests([&*bytes], skip_node);
    assert_eq!(whole, requests(pieces(&bytes, &cuts), skip_node));
    assert_eq!(whole, requests(bytes.chunks(1), skip_node));
    let (read, _) = whole;
    for (message, ours) in messages(&bytes).zip(read) {
        // Where both read it: the sift is stricter (groups) and more lenient (what it passes over is not looked at).
        if let Ok(theirs) = DiscoveryRequest::decode(message) {
            let node = ours.node.clone().filter(|_| !skip_node);
            assert_eq!(plain(&ours), plain(&theirs));
            if let (Some(ours), Some(theirs)) = (node, &theirs.node) {
                assert_eq!(ours.user_agent_build_version, theirs.user_agent_build_version);
            }
        }
    }
});

/// The requests, and what ended the reading.
fn requests<'a>(
    frames: impl IntoIterator<Item = &'a [u8]>,
    skip_node: bool,
) -> (Vec<DiscoveryRequest>, Option<RequestError>) {
    let (mut intake, mut requests) = (Intake::default(), Vec::new());
    for frame in frames {
        let mut rest = Bytes::copy_from_slice(frame);
        while !rest.is_empty() {
            match intake.feed(&mut rest, skip_node) {
                Ok(request) => requests.extend(request),
                Err(reason) => return (requests, Some(reason)),
            }
        }
    }
    (requests, None)
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

/// The messages as their heads announce them.
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

fn plain(request: &DiscoveryRequest) -> DiscoveryRequest {
    DiscoveryRequest { node: None, ..request.clone() }
}
