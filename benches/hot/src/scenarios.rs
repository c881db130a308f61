//! The hot paths that are counted: in instructions by `instructions`, in allocations by `heap`.
//!
//! A scenario prepares what it needs and gives back one operation. To add one, write its function and a line in [`ALL`].

use std::hint::black_box;
use std::sync::Arc;

use cache::Snapshot;
use sds::framing::Intake;

use crate::connection::Exchange;
use crate::{Rotating, caller, entry, framed, peer, update};

/// One operation, to be run as often as one likes.
pub type Operation = Box<dyn FnMut()>;

/// A hot path.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name in the files of figures.
    pub name: &'static str,
    /// Makes the operation.
    pub prepare: fn() -> Operation,
    /// How many allocations one operation may make.
    pub allocations: u64,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario { name: "match_one_of_10000", prepare: match_one, allocations: 1 },
    Scenario { name: "match_none_of_10000", prepare: match_none, allocations: 0 },
    Scenario { name: "san_names_100_matchers", prepare: san_names, allocations: 0 },
    Scenario { name: "decode_request_of_envoy", prepare: decode_first, allocations: 4 },
    Scenario { name: "decode_ack_of_envoy", prepare: decode_ack, allocations: 2 },
    Scenario { name: "push_and_ack", prepare: push, allocations: 4 },
    Scenario { name: "connection_push_and_ack", prepare: exchange, allocations: 1 },
];

/// A pod among 10,000 entries of its namespace: the one list of IDs is what it gets.
fn match_one() -> Operation {
    let snapshot = snapshot();
    let caller = caller(5_000);
    assert_eq!(snapshot.entries_of(&caller).len(), 1);
    Box::new(move || {
        black_box(snapshot.matching(black_box(&caller)));
    })
}

/// A stranger: nothing at all.
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

/// As the first message of a stream comes: 61 KB of which 200 bytes are kept.
fn decode_first() -> Operation {
    decode(include_bytes!("../../../sds/testdata/envoy-1.40.0.first-request.bin"), false)
}

/// As every other comes.
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

/// A new SVID for one stream, to the bytes that are sent, and its ACK. Others have been sent it already, so it is encoded.
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

/// What HTTP/2 itself takes: an ACK without its node, of which only copying would be counted, and a secret.
fn exchange() -> Operation {
    let mut exchange = Exchange::new(104, vec![1; 1500].into());
    // Beside the answer and its head there is a WINDOW_UPDATE or two now and then.
    Box::new(move || assert!((1509..1540).contains(&exchange.step())))
}
