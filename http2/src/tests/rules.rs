//! What a client must not do, rule by rule, and how the server reacts (RFC 9113 §5 to §8).

use super::*;
use crate::Reason;

/// Checks that `bytes` end the connection, and that the server's last frame is GOAWAY with `reason`.
async fn ends(what: &str, bytes: &[u8], reason: Reason) {
    let mut client = Client::mute(1024 * 1024);
    client.say(bytes).await;
    let mut last = None;
    while let Some(said) = client.hear().await {
        last = Some(said);
    }
    let last = last.unwrap_or_else(|| panic!("{what}: closed without a word"));
    assert_eq!(last.kind, frame::GO_AWAY, "{what}");
    assert_eq!(last.payload[7], reason as u8, "{what}");
    let served = client.served.await.expect("no panic");
    assert!(
        matches!(served, Err(Error::Protocol { reason: told, .. }) if told == reason),
        "{what}: {served:?}"
    );
}

/// Checks that `frames` end `stream` with `reason`, and that the connection goes on.
async fn resets(what: &str, frames: &[u8], stream: u32, reason: Reason) {
    let mut client = Client::greeted().await;
    client.say(frames).await;
    let said = client.until_pong().await;
    let reset = said.iter().find(|said| said.kind == frame::RST_STREAM);
    let reset = reset.unwrap_or_else(|| panic!("{what}: {said:?}"));
    assert_eq!((reset.stream, reset.payload[3]), (stream, reason as u8), "{what}");
    // The connection still takes calls.
    client.say(&headers(101, frame::END_STREAM, &get("/"))).await;
    assert_eq!(client.answer(101).await.1, b"hello", "{what}");
}

fn greeted(frames: &[&[u8]]) -> Vec<u8> {
    [greeting(), frames.concat()].concat()
}

#[tokio::test]
async fn connection_errors() {
    let open = &headers(1, 0, &get("/hold"));
    let long = vec![0; frame::FRAME_LIMIT + 1];
    let cases: &[(&str, Vec<u8>, Reason)] = &[
        ("no preface", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Reason::Protocol),
        (
            "not SETTINGS first",
            [frame::PREFACE, &frame(frame::PING, 0, 0, &[0; 8])].concat(),
            Reason::Protocol,
        ),
        ("a frame too long", greeted(&[&frame(frame::DATA, 0, 1, &long)]), Reason::FrameSize),
        ("DATA on stream 0", greeted(&[&frame(frame::DATA, 0, 0, b"x")]), Reason::Protocol),
        ("DATA on an idle stream", greeted(&[&frame(frame::DATA, 0, 1, b"x")]), Reason::Protocol),
        ("padding only", greeted(&[open, &frame(frame::DATA, frame::PADDED, 1, &[9, 1])]), Reason::Protocol),
        ("no padding length", greeted(&[open, &frame(frame::DATA, frame::PADDED, 1, &[])]), Reason::Protocol),
        ("HEADERS on stream 0", greeted(&[&headers(0, 0, &get("/"))]), Reason::Protocol),
        ("HEADERS on an even stream", greeted(&[&headers(2, 0, &get("/"))]), Reason::Protocol),
        ("HEADERS going down", greeted(&[&headers(3, 0, &get("/hold")), open]), Reason::StreamClosed),
        ("HEADERS on an ended stream", greeted(&[&called_off(1), open]), Reason::StreamClosed),
        ("no room for a priority", greeted(&[&headers(1, frame::WITH_PRIORITY, &[0; 4])]), Reason::FrameSize),
        ("not HPACK", greeted(&[&headers(1, 0, &[0x80])]), Reason::Compression),
        (
            "frames in a block",
            greeted(&[&frame(frame::HEADERS, 0, 1, &[]), &setting(1, 0)]),
            Reason::Protocol,
        ),
        ("CONTINUATION of nothing", greeted(&[&frame(frame::CONTINUATION, 4, 1, &[])]), Reason::Protocol),
        (
            "CONTINUATION of another",
            greeted(&[&frame(frame::HEADERS, 0, 1, &[]), &frame(frame::CONTINUATION, 4, 3, &[])]),
            Reason::Protocol,
        ),
        (
            "CONTINUATION without end",
            greeted(&[
                &frame(frame::HEADERS, 0, 1, &[]),
                &frame(frame::CONTINUATION, 0, 1, &[0]).repeat(300),
            ]),
            Reason::EnhanceYourCalm,
        ),
        ("PRIORITY on stream 0", greeted(&[&frame(frame::PRIORITY, 0, 0, &[0; 5])]), Reason::Protocol),
        ("RST_STREAM on stream 0", greeted(&[&frame(frame::RST_STREAM, 0, 0, &[0; 4])]), Reason::Protocol),
        (
            "RST_STREAM on an idle stream",
            greeted(&[&frame(frame::RST_STREAM, 0, 1, &[0; 4])]),
            Reason::Protocol,
        ),
        (
            "RST_STREAM too short",
            greeted(&[open, &frame(frame::RST_STREAM, 0, 1, &[0; 3])]),
            Reason::FrameSize,
        ),
    ];
    for (what, bytes, reason) in cases {
        ends(what, bytes, *reason).await;
    }
}

#[tokio::test]
async fn connection_errors_of_what_concerns_all_streams() {
    let open = &headers(1, 0, &get("/hold"));
    let cases: &[(&str, Vec<u8>, Reason)] = &[
        ("SETTINGS on a stream", greeted(&[&frame(frame::SETTINGS, 0, 1, &[])]), Reason::Protocol),
        ("SETTINGS of 5 bytes", greeted(&[&frame(frame::SETTINGS, 0, 0, &[0; 5])]), Reason::FrameSize),
        (
            "an ACK that says more",
            greeted(&[&frame(frame::SETTINGS, frame::ACK, 0, &[0; 6])]),
            Reason::FrameSize,
        ),
        ("ENABLE_PUSH 2", greeted(&[&setting(2, 2)]), Reason::Protocol),
        ("a window of 2^31", greeted(&[&setting(4, 1 << 31)]), Reason::FlowControl),
        ("frames of 16,383", greeted(&[&setting(5, 16_383)]), Reason::Protocol),
        ("frames of 2^24", greeted(&[&setting(5, 1 << 24)]), Reason::Protocol),
        ("PUSH_PROMISE", greeted(&[&frame(frame::PUSH_PROMISE, 4, 1, &[0; 4])]), Reason::Protocol),
        ("PING on a stream", greeted(&[&frame(frame::PING, 0, 1, &[0; 8])]), Reason::Protocol),
        ("PING of 7 bytes", greeted(&[&frame(frame::PING, 0, 0, &[0; 7])]), Reason::FrameSize),
        ("GOAWAY on a stream", greeted(&[&frame(frame::GO_AWAY, 0, 1, &[0; 8])]), Reason::Protocol),
        ("GOAWAY too short", greeted(&[&frame(frame::GO_AWAY, 0, 0, &[0; 7])]), Reason::FrameSize),
        (
            "WINDOW_UPDATE of 3 bytes",
            greeted(&[&frame(frame::WINDOW_UPDATE, 0, 0, &[0; 3])]),
            Reason::FrameSize,
        ),
        ("WINDOW_UPDATE of 0", greeted(&[&frame(frame::WINDOW_UPDATE, 0, 0, &[0; 4])]), Reason::Protocol),
        (
            "WINDOW_UPDATE idle",
            greeted(&[&frame(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])]),
            Reason::Protocol,
        ),
        (
            "the connection's window beyond 2^31",
            greeted(&[&frame(frame::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())]),
            Reason::FlowControl,
        ),
        (
            "a stream's window beyond 2^31 by SETTINGS",
            greeted(&[
                open,
                &frame(frame::WINDOW_UPDATE, 0, 1, &0x7fff_0000_u32.to_be_bytes()),
                &setting(4, 0x7fff_ffff),
            ]),
            Reason::FlowControl,
        ),
        (
            "calls taken back at once",
            greeted(&[&(0..1100).flat_map(|n| called_off(n * 2 + 1)).collect::<Vec<_>>()]),
            Reason::EnhanceYourCalm,
        ),
    ];
    for (what, bytes, reason) in cases {
        ends(what, bytes, *reason).await;
    }
}

#[tokio::test]
async fn connection_errors_that_h2spec_does_not_know() {
    let cases: &[(&str, Vec<u8>, Reason)] = &[
        // No RST_STREAM may be sent for an idle stream.
        ("PRIORITY of 4 bytes, idle", greeted(&[&frame(frame::PRIORITY, 0, 1, &[0; 4])]), Reason::FrameSize),
        (
            "PRIORITY of itself, idle",
            greeted(&[&frame(frame::PRIORITY, 0, 1, &[0, 0, 0, 1, 0])]),
            Reason::Protocol,
        ),
        (
            "DATA on a stream that is ours to begin",
            greeted(&[&headers(3, 0, &get("/hold")), &frame(frame::DATA, 0, 2, b"x")]),
            Reason::Protocol,
        ),
        (
            "calls that the server is made to end at once",
            greeted(&[&(0..1100).flat_map(|n| broken_off(n * 2 + 1)).collect::<Vec<_>>()]),
            Reason::EnhanceYourCalm,
        ),
    ];
    for (what, bytes, reason) in cases {
        ends(what, bytes, *reason).await;
    }
}

#[tokio::test]
async fn whoever_provokes_too_often_is_sent_away() {
    let many = |one: &[u8]| greeted(&[&headers(1, 0, &get("/hold")), &one.repeat(5000)]);
    let calls = |flags: u8, block: &[u8]| {
        greeted(&[&(0..11_000).flat_map(|n| headers(n * 2 + 1, flags, block)).collect::<Vec<_>>()])
    };
    let table = [&get("/")[..], &[0x40, 1, b'a', 127, 0xb9, 0x0e], &[b'v'; 1976]].concat();
    let long = [&get("/")[..], &[0xbe; 3]].concat();
    let cases: &[(&str, Vec<u8>)] = &[
        ("PING", many(&frame(frame::PING, 0, 0, &[0; 8]))),
        ("SETTINGS", many(&frame(frame::SETTINGS, 0, 0, &[]))),
        ("PRIORITY", many(&frame(frame::PRIORITY, 0, 9, &[0, 0, 0, 3, 1]))),
        ("unknown frames", many(&frame(0xfe, 0, 0, &[]))),
        ("empty DATA", many(&frame(frame::DATA, 0, 1, &[]))),
        ("DATA that is padding", many(&frame(frame::DATA, frame::PADDED, 1, &[3, 0, 0, 0]))),
        ("windows", many(&frame(frame::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))),
        (
            "empty CONTINUATION",
            greeted(&[
                &frame(frame::HEADERS, 0, 1, &[]),
                &frame(frame::CONTINUATION, 0, 1, &[]).repeat(5000),
            ]),
        ),
        ("malformed requests", calls(frame::END_STREAM, &[0x82])),
        ("calls above the limit", calls(0, &get("/hold"))),
        (
            "header lists too long",
            greeted(&[
                &headers(1, frame::END_STREAM, &table),
                &(1..200).flat_map(|n| headers(n * 2 + 1, frame::END_STREAM, &long)).collect::<Vec<_>>(),
            ]),
        ),
        ("a header list far too long", greeted(&[&headers(1, 0, &[0x82; 16_000])])),
    ];
    for (what, bytes) in cases {
        ends(what, bytes, Reason::EnhanceYourCalm).await;
    }
}

/// Years of keep-alive pings, one for each read.
#[tokio::test]
async fn a_ping_now_and_then_is_no_provocation() {
    let mut client = Client::greeted().await;
    for _ in 0..3000 {
        client.until_pong().await;
    }
}

/// As many CONTINUATION frames as a header block may have.
#[tokio::test]
async fn a_header_block_in_many_parts_is_served() {
    let mut client = Client::greeted().await;
    let block = get("/");
    let parts: Vec<u8> = block[..3]
        .iter()
        .enumerate()
        .flat_map(|(n, byte)| {
            frame(if n == 0 { frame::HEADERS } else { frame::CONTINUATION }, 0, 1, &[*byte])
        })
        .collect();
    let rest: Vec<u8> = (0..60).flat_map(|_| frame(frame::CONTINUATION, 0, 1, &[])).collect();
    let last = frame(frame::CONTINUATION, frame::END_HEADERS, 1, &block[3..]);
    client.say(&[parts, rest, last].concat()).await;
    client.say(&frame(frame::DATA, frame::END_STREAM, 1, &[])).await;
    assert_eq!(client.answer(1).await.1, b"hello");
}

fn setting(name: u8, value: u32) -> Vec<u8> {
    frame(frame::SETTINGS, 0, 0, &[&[0, name], &value.to_be_bytes()[..]].concat())
}

fn called_off(stream: u32) -> Vec<u8> {
    [headers(stream, 0, &get("/hold")), frame(frame::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
}

/// A call that the client makes the server reset, with a WINDOW_UPDATE of 0 (CVE-2025-8671, "MadeYouReset").
fn broken_off(stream: u32) -> Vec<u8> {
    [headers(stream, 0, &get("/hold")), frame(frame::WINDOW_UPDATE, 0, stream, &[0; 4])].concat()
}

#[tokio::test]
async fn calls_that_are_answered_make_up_for_those_that_are_taken_back() {
    let mut client = Client::greeted().await;
    let taken_back =
        |first: u32, calls: u32| (0..calls).flat_map(move |n| called_off(first + n * 2)).collect::<Vec<_>>();
    client.say(&taken_back(1, 900)).await;
    for n in 0..200 {
        client.say(&headers(2001 + n * 2, frame::END_STREAM, &get("/refuse"))).await;
        client.until_pong().await;
    }
    client.say(&taken_back(3001, 250)).await;
    client.until_pong().await;
}

#[tokio::test]
async fn stream_errors() {
    let with = |more: &[u8]| headers(1, frame::END_STREAM, &[&get("/")[..], more].concat());
    let hold = headers(1, 0, &get("/hold"));
    let done = headers(1, frame::END_STREAM, &get("/hold"));
    let data = |flags: u8| frame(frame::DATA, flags, 1, b"12345");
    let sized = |len: &str| headers(1, 0, &[get("/hold"), field("content-length", len)].concat());
    let cases: &[(&str, Vec<u8>, Reason)] = &[
        ("DATA after the end", [done.clone(), data(0)].concat(), Reason::StreamClosed),
        ("HEADERS after the end", [done.clone(), done.clone()].concat(), Reason::StreamClosed),
        (
            "trailers that do not end",
            [hold.clone(), headers(1, 0, &field("a", "b"))].concat(),
            Reason::Protocol,
        ),
        ("pseudo trailers", [hold.clone(), headers(1, 1, &get("/"))].concat(), Reason::Protocol),
        ("less than announced", [sized("6"), data(frame::END_STREAM)].concat(), Reason::Protocol),
        ("more than announced", [sized("4"), data(0)].concat(), Reason::Protocol),
        ("a length that is none", sized("-1"), Reason::Protocol),
        ("a length without a body", with(&field("content-length", "1")), Reason::Protocol),
        ("upper case", with(&field("Te", "trailers")), Reason::Protocol),
        ("connection", with(&field("connection", "close")), Reason::Protocol),
        ("keep-alive", with(&field("keep-alive", "1")), Reason::Protocol),
        ("transfer-encoding", with(&field("transfer-encoding", "chunked")), Reason::Protocol),
        ("te: gzip", with(&field("te", "gzip")), Reason::Protocol),
        ("an empty name", with(&field("", "x")), Reason::Protocol),
        ("a line break in a value", with(&field("x", "a\nb")), Reason::Protocol),
        ("an unknown pseudo-header", with(&field(":peer", "x")), Reason::Protocol),
        (":status of a client", with(&[0x88]), Reason::Protocol),
        (":method twice", with(&[0x82]), Reason::Protocol),
        (
            "a late pseudo-header",
            with(&[field("a", "b"), field(":authority", "x")].concat()),
            Reason::Protocol,
        ),
        ("no :path", headers(1, 1, &[0x82, 0x86]), Reason::Protocol),
        ("an empty :path", headers(1, 1, &get("")), Reason::Protocol),
        ("no :scheme", headers(1, 1, &[0x82, 0x84]), Reason::Protocol),
        ("no :method", headers(1, 1, &[0x84, 0x86]), Reason::Protocol),
        ("nothing at all", headers(1, 1, &[]), Reason::Protocol),
        (
            "CONNECT",
            headers(1, 1, &[field(":method", "CONNECT"), field(":authority", "x")].concat()),
            Reason::Protocol,
        ),
        (
            "a stream that depends on itself",
            headers(1, frame::END_STREAM | frame::WITH_PRIORITY, &[&[0, 0, 0, 1, 0][..], &get("/")].concat()),
            Reason::Protocol,
        ),
        (
            "WINDOW_UPDATE of 0",
            [hold.clone(), frame(frame::WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Reason::Protocol,
        ),
        (
            "a window beyond 2^31",
            [hold.clone(), frame(frame::WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes())].concat(),
            Reason::FlowControl,
        ),
        (
            "PRIORITY of 4 bytes",
            [hold.clone(), frame(frame::PRIORITY, 0, 1, &[0; 4])].concat(),
            Reason::FrameSize,
        ),
    ];
    for (what, frames, reason) in cases {
        resets(what, frames, 1, *reason).await;
    }
}

/// gRPC servers answer calls whose path is not valid in HTTP.
#[tokio::test]
async fn paths_that_are_none_of_http_are_handed_on() {
    let mut client = Client::of(1024 * 1024, |request: Request<RequestBody>| {
        let odd = request.extensions().get::<crate::OddPath>().map(|path| path.0.clone());
        let answer: ResponseBody = Box::pin(Full::from(odd.unwrap_or_default()));
        std::future::ready(Response::new(answer))
    })
    .greet()
    .await;
    for (n, path) in ["no/slash", "/a b", "/a#b", "http://x/y", "/sound"].into_iter().enumerate() {
        let stream = u32::try_from(n * 2 + 1).expect("few");
        client.say(&headers(stream, frame::END_STREAM, &get(path))).await;
        let expected = if path == "/sound" { "" } else { path };
        assert_eq!(client.answer(stream).await.1, expected.as_bytes());
    }
}

#[tokio::test]
async fn what_is_unknown_or_of_no_interest_is_passed_over() {
    let mut client = Client::greeted().await;
    let junk = [
        frame(0x77, 0xff, 9, b"junk"),
        frame(frame::PRIORITY, 0, 9, &[0, 0, 0, 3, 1]),
        frame(frame::SETTINGS, 0, 0, &[0xff, 0xff, 1, 2, 3, 4]),
        frame(frame::GO_AWAY, 0, 0, &[0; 20]),
        frame(frame::PING, frame::ACK, 0, &[0; 8]),
    ];
    client.say(&junk.concat()).await;
    client.say(&headers(1, frame::END_STREAM, &get("/"))).await;
    assert_eq!(client.answer(1).await.1, b"hello");
}
