//! The hot paths that are counted: `instructions` counts their instructions, `heap` their allocations.
//!
//! A scenario prepares its data and returns one operation. To add a scenario, write its function and a line in [`ALL`].

use std::hint::black_box;
use std::sync::Arc;

use cache::Snapshot;
use sds::framing::Intake;

use crate::connection::Exchange;
use crate::{Rotating, caller, entry, framed, peer, update};

/// One operation, which can be run any number of times.
pub type Operation = Box<dyn FnMut()>;

/// A hot path.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The name in the files of recorded figures.
    pub name: &'static str,
    /// Prepares the data and makes the operation.
    pub prepare: fn() -> Operation,
    /// The most allocations of one operation.
    pub allocations: u64,
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario { name: "match_one_of_10000", prepare: match_one, allocations: 1 },
    Scenario { name: "match_none_of_10000", prepare: match_none, allocations: 0 },
    Scenario { name: "san_names_100_matchers", prepare: san_names, allocations: 0 },
    Scenario { name: "decode_request_of_envoy", prepare: decode_first, allocations: 4 },
    Scenario { name: "decode_ack_of_envoy", prepare: decode_ack, allocations: 2 },
    Scenario { name: "push_and_ack", prepare: push, allocations: 4 },
    Scenario { name: "connection_push_and_ack", prepare: exchange, allocations: 1 },
];

/// Matches a pod against 10,000 entries of its namespace. The only allocation is the list of the IDs.
fn match_one() -> Operation {
    let snapshot = snapshot();
    let caller = caller(5_000);
    assert_eq!(snapshot.entries_of(&caller).len(), 1);
    Box::new(move || {
        black_box(snapshot.matching(black_box(&caller)));
    })
}

/// Matches a pod that no entry matches, without allocations.
fn match_none() -> Operation {
    let snapshot = snapshot();
    let caller = caller(1_000_000);
    assert!(snapshot.matching(&caller).is_empty());
    Box::new(move || {
        black_box(snapshot.matching(black_box(&caller)));
    })
}

fn snapshot() -> Snapshot {
    Snapshot::new(1, (0..10_000).map(|n| Arc::new(entry(n))))
}

fn san_names() -> Operation {
    let policy = peer::policy(100);
    let names = peer::names();
    Box::new(move || assert!(policy.accepts_names(black_box(names))))
}

/// Decodes the first message of a stream: 61 KB, of which 200 bytes are kept.
fn decode_first() -> Operation {
    decode(include_bytes!("../../../sds/testdata/envoy-1.40.0.first-request.bin"), false)
}

/// Decodes every other message of a stream.
fn decode_ack() -> Operation {
    decode(include_bytes!("../../../sds/testdata/envoy-1.40.0.ack.bin"), true)
}

fn decode(message: &'static [u8], skip_node: bool) -> Operation {
    let framed = framed(message);
    Box::new(move || {
        let message = Intake::default().feed(black_box(&mut framed.clone()), skip_node).expect("recorded");
        black_box(message.expect("whole").request()).expect("recorded");
    })
}

/// Pushes a new SVID to one stream, up to the bytes that are sent, and reads its ACK. The SVID is encoded already,
/// because other streams got it before.
fn push() -> Operation {
    let updates = [update(1), update(2)];
    let secrets = Arc::default();
    let others = updates.each_ref().map(|update| Rotating::new(&secrets, update));
    let mut stream = Rotating::new(&secrets, &updates[0]);
    let mut turn = 0;
    Box::new(move || {
        black_box(&others);
        turn += 1;
        stream.push(&updates[turn % 2]).for_each(|bytes| drop(black_box(bytes)));
    })
}

/// Measures HTTP/2 alone: an ACK without its node, which would only be copied, and a secret.
fn exchange() -> Operation {
    let mut exchange = Exchange::new(104, vec![1; 1500].into());
    // In addition to the answer and its frame header there are a few WINDOW_UPDATE frames.
    Box::new(move || assert!((1509..1540).contains(&exchange.step())))
}
