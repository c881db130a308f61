//! Oracle: the same fields, with the authority mended before they were encoded.

use std::task::{Poll, ready};

use httlib_hpack::Encoder;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncRead, ReadBuf};

use super::fields::AUTHORITY_CODED;
use super::frames::MAX_APART;
use super::*;

const HUFFMAN: u8 = Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn headers(block: &[u8]) -> Vec<u8> {
    frame(1, END_HEADERS, 1, block)
}

/// A client's bytes: preface, SETTINGS, then these.
fn client(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[]), &frames.concat()].concat()
}

/// What h2 gets to see when the bytes arrive in pieces that end at `cuts`.
fn mended(bytes: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut mender = Mender::default();
    let (mut held, mut out) = (Vec::new(), Vec::new());
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
    cuts.sort_unstable();
    let mut start = 0;
    for cut in cuts {
        held.extend_from_slice(&bytes[start..cut]);
        start = cut;
        let settled = mender.mend(&mut held);
        assert!(held.len() - settled <= MAX_APART);
        out.extend(held.drain(..settled));
    }
    out.extend(held);
    out
}

fn byte_by_byte(bytes: &[u8]) -> Vec<u8> {
    mended(bytes, &(0..bytes.len()).collect::<Vec<_>>())
}

/// The block that `encode` makes of one value, and of the same value mended.
fn assert_mended(value: &str, encode: impl Fn(Vec<u8>) -> Vec<u8>) {
    let sent = client(&[headers(&encode(value.into()))]);
    let expected = client(&[headers(&encode(value.replace(['%', '/'], "-").into()))]);
    assert_ne!(sent, expected);
    assert_eq!(mended(&sent, &[]), expected);
    assert_eq!(byte_by_byte(&sent), expected);
}

fn assert_unchanged(bytes: &[u8]) {
    assert_eq!(mended(bytes, &[]), bytes);
    assert_eq!(byte_by_byte(bytes), bytes);
}

fn encoded(field: impl Into<httlib_hpack::EncoderInput>) -> Vec<u8> {
    let mut block = Vec::new();
    Encoder::default().encode(field, &mut block).unwrap();
    block
}

#[test]
fn the_coded_name_is_right() {
    let mut coded = Vec::new();
    httlib_huffman::encode(b":authority", &mut coded).unwrap();
    assert_eq!(coded, AUTHORITY_CODED);
}

#[test]
fn as_grpcio_sends_it() {
    assert_mended("tmp%2Fx.sock", |value| {
        [&b"\x83\x86\x40\x0a:authority"[..], &[u8::try_from(value.len()).unwrap()], &value[..]].concat()
    });
}

#[test]
fn every_literal_representation() {
    let long = "/run/spire/agent-sockets/%2F".repeat(20);
    for value in ["%", "/", "tmp%2Fx.sock", "/tmp/x.sock", "a/%/%%//z", &long] {
        for indexing in [0, Encoder::WITH_INDEXING, Encoder::NEVER_INDEXED] {
            for huffman in [0, Encoder::HUFFMAN_NAME, Encoder::HUFFMAN_VALUE, HUFFMAN] {
                let flags = indexing | huffman;
                assert_mended(value, |value| encoded((b":authority".to_vec(), value, flags)));
                assert_mended(value, |value| encoded((1, value, flags)));
            }
        }
    }
}

#[test]
fn a_name_from_the_dynamic_table() {
    assert_mended("a%2Fb", |value| {
        let (mut encoder, mut block) = (Encoder::default(), Vec::new());
        let insert = Encoder::WITH_INDEXING;
        encoder.encode((b":authority".to_vec(), b"x".to_vec(), insert), &mut block).unwrap();
        encoder.encode((b"other".to_vec(), b"1/2".to_vec(), insert), &mut block).unwrap();
        encoder.encode((63, value.clone(), insert), &mut block).unwrap();
        // The newest entry has the name of the oldest.
        encoder.encode((62, value, 0), &mut block).unwrap();
        encoder.encode((63, b"50%".to_vec(), 0), &mut block).unwrap();
        block
    });
}

#[test]
fn other_fields_stay() {
    for name in [":path", ":authoritz", ":authorit", "authority", ":Authority"] {
        for flags in [0, HUFFMAN] {
            let block = encoded((name.as_bytes().to_vec(), b"/a%b/c".to_vec(), flags));
            assert_unchanged(&client(&[headers(&block)]));
        }
    }
}

#[test]
fn data_is_not_looked_at() {
    let looks_like_it = headers(b"\x41\x03a/b");
    assert_unchanged(&client(&[headers(&[0x82]), frame(0, 0, 1, &looks_like_it), frame(0, 1, 1, b"%/")]));
}

#[test]
fn what_is_not_http2_passes() {
    assert_unchanged(b"GET /a%2F HTTP/1.1\r\nHost: a%2Fb\r\n\r\n");
    assert_unchanged(b"PRI * HTTP/2.0\r\n\r\nXX%/");
}

#[test]
fn what_is_malformed_ends_the_repair() {
    let authority = b"\x41\x03a/b";
    let malformed = [
        frame(9, END_HEADERS, 1, authority),
        // Padding longer than the frame; no pad length; no room for the priority.
        frame(1, END_HEADERS | PADDED, 1, b"\xff\x82"),
        frame(1, END_HEADERS | PADDED, 1, b""),
        frame(1, END_HEADERS | PRIORITY, 1, b"abcd"),
        // A block that ends inside a field, and one that is interrupted by another frame or another stream.
        headers(b"\x41\x09abc"),
        [frame(1, 0, 1, b"\x82"), frame(0, 0, 1, b"")].concat(),
        [frame(1, 0, 1, b"\x82"), frame(9, END_HEADERS, 3, b"\x82")].concat(),
        // An integer without end, an index without entry.
        headers(b"\xff\x80\x80\x80\x80\x80\x01"),
        headers(b"\x7f\xff\x01\x01a"),
    ];
    for frames in malformed {
        assert_unchanged(&client(&[frames, headers(authority)]));
    }
}

#[test]
fn only_an_unfinished_code_is_held() {
    let value = encoded((1, b"aaa/".to_vec(), Encoder::HUFFMAN_VALUE));
    let mut sent = client(&[headers(&value)]);
    // 00011 00011 00011 0'11000: the last code begins with the lowest bit of the second byte.
    let begun = sent.len() - 2;
    for end in 0..sent.len() {
        let settled = Mender::default().mend(&mut sent.clone()[..end]);
        let expected = if end == begun + 1 { begun } else { end };
        assert_eq!(settled, expected);
    }
    assert_eq!(Mender::default().mend(&mut sent), sent.len());
}

#[test]
fn a_code_that_is_torn_too_far_ends_the_repair() {
    let value = encoded((1, b"aaa/".to_vec(), Encoder::HUFFMAN_VALUE));
    let (begin, end) = value.split_at(value.len() - 1);
    let last = frame(9, END_HEADERS, 1, end);
    let padding = [&[255], begin, &[0; 255]].concat();
    let torn = client(&[frame(1, PADDED, 1, &padding), last.clone()]);
    assert_ne!(mended(&torn, &[]), torn);
    assert_eq!(mended(&torn, &[]), byte_by_byte(&torn));
    assert_unchanged(&client(&[frame(1, PADDED, 1, &padding), frame(9, 0, 1, b""), last]));
}

#[test]
fn the_state_is_small() {
    assert!(size_of::<Repair>() <= 144, "{}", size_of::<Repair>());
}

#[derive(Debug, Clone)]
struct Field {
    name: &'static str,
    value: String,
    flags: u8,
    /// By index, where the name has one; else literally.
    by_index: bool,
    /// After an update of the table's size to what it is.
    after_update: bool,
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let name = prop_oneof![
        3 => Just(":authority"),
        1 => Just(":path"),
        1 => Just("x-uri"),
        1 => Just(":authoritative"),
    ];
    let value = prop_oneof!["[a-z0-9%/.:-]{0,24}", "\\PC{0,12}", "[%/]{0,300}", "[%/a-z]{1000,1800}"];
    let flags = (0..4u8, prop_oneof![Just(0), Just(Encoder::WITH_INDEXING), Just(Encoder::NEVER_INDEXED)]);
    let field = (name, value, flags, any::<bool>(), proptest::bool::weighted(0.1)).prop_map(
        |(name, value, (huffman, indexing), by_index, after_update)| Field {
            name,
            value,
            flags: huffman | indexing,
            by_index,
            after_update,
        },
    );
    vec(field, 0..12)
}

#[derive(Debug, Clone)]
struct Framing {
    splits: Vec<prop::sample::Index>,
    padding: Option<u8>,
    priority: bool,
    data: Vec<u8>,
}

fn framing() -> impl Strategy<Value = Framing> {
    (vec(any::<prop::sample::Index>(), 0..4), any::<Option<u8>>(), any::<bool>(), vec(any::<u8>(), 0..40))
        .prop_map(|(splits, padding, priority, data)| Framing { splits, padding, priority, data })
}

/// An encoder, and the names in its dynamic table, newest first (and those that were evicted).
#[derive(Default)]
struct Writer {
    encoder: Encoder<'static>,
    names: Vec<&'static str>,
}

impl Writer {
    fn block(&mut self, fields: &[Field], value_of: impl Fn(&Field) -> String) -> Vec<u8> {
        let mut block = Vec::new();
        for field in fields {
            if field.after_update {
                block.extend([0x3f, 0xe1, 0x1f]);
            }
            let value = value_of(field).into_bytes();
            let index = match self.names.iter().position(|name| *name == field.name) {
                Some(place) => u32::try_from(62 + place).ok(),
                None => [":authority", "", "", ":path"]
                    .iter()
                    .position(|name| *name == field.name)
                    .and_then(|place| u32::try_from(1 + place).ok()),
            };
            let start = block.len();
            let by_index = index.filter(|_| field.by_index).is_some_and(|index| {
                self.encoder.encode((index, value.clone(), field.flags), &mut block).is_ok()
            });
            if !by_index {
                block.truncate(start);
                let literal = (field.name.as_bytes().to_vec(), value, field.flags);
                self.encoder.encode(literal, &mut block).unwrap();
            }
            if field.flags & Encoder::WITH_INDEXING != 0 {
                self.names.insert(0, field.name);
            }
        }
        block
    }
}

fn framed(block: &[u8], framing: &Framing) -> Vec<u8> {
    let mut cuts: Vec<_> = framing.splits.iter().map(|split| split.index(block.len() + 1)).collect();
    cuts.extend([0, block.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces: Vec<_> = cuts.windows(2).map(|pair| &block[pair[0]..pair[1]]).collect();
    if pieces.is_empty() {
        pieces.push(block);
    }
    let end = |place| if place + 1 == pieces.len() { END_HEADERS } else { 0 };
    let mut flags = end(0);
    let mut payload = Vec::new();
    if let Some(padding) = framing.padding {
        flags |= PADDED;
        payload.push(padding);
    }
    if framing.priority {
        flags |= PRIORITY;
        payload.extend(b"\0/%//");
    }
    payload.extend(pieces[0]);
    payload.extend(vec![0; framing.padding.unwrap_or(0).into()]);
    let mut frames = frame(1, flags, 1, &payload);
    for (place, piece) in pieces.iter().enumerate().skip(1) {
        frames.extend(frame(9, end(place), 1, piece));
    }
    frames.extend(frame(0, 0, 1, &framing.data));
    frames
}

proptest! {
    #[test]
    fn nothing_but_the_authority_is_changed(
        blocks in vec((fields(), framing()), 1..5),
        cuts in vec(any::<usize>(), 0..30),
    ) {
        let (mut sender, mut oracle) = (Writer::default(), Writer::default());
        let (mut sent, mut expected) = (client(&[]), client(&[]));
        for (fields, framing) in &blocks {
            sent.extend(framed(&sender.block(fields, |field| field.value.clone()), framing));
            let mended = oracle.block(fields, |field| match field.name {
                ":authority" => field.value.replace(['%', '/'], "-"),
                _ => field.value.clone(),
            });
            expected.extend(framed(&mended, framing));
        }
        prop_assert_eq!(&mended(&sent, &cuts), &expected);
        prop_assert_eq!(&byte_by_byte(&sent), &expected);
    }

    #[test]
    fn any_bytes_pass_whatever_the_cuts(
        frames in vec((0..10u8, any::<u8>(), vec(any::<u8>(), 0..40)), 0..8),
        cuts in vec(any::<usize>(), 0..30),
    ) {
        let frames: Vec<_> = frames.iter().map(|(kind, flags, payload)| frame(*kind, *flags, 1, payload)).collect();
        let sent = client(&frames);
        let out = mended(&sent, &[]);
        prop_assert_eq!(&mended(&sent, &cuts), &out);
        prop_assert_eq!(&byte_by_byte(&sent), &out);
        prop_assert_eq!(sent.len(), out.len());
    }
}

/// A stream that gives its bytes in pieces of one size, with a pause before each.
struct Pieces<'a> {
    left: &'a [u8],
    size: usize,
    paused: bool,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (now, later) = self.left.split_at(self.size.min(buf.remaining()).min(self.left.len()));
        buf.put_slice(now);
        self.left = later;
        Poll::Ready(Ok(()))
    }
}

async fn read_all(bytes: &[u8], size: usize, room: usize) -> Vec<u8> {
    let mut stream = Pieces { left: bytes, size, paused: false };
    let mut repair = Repair::default();
    let mut out = Vec::new();
    loop {
        let mut space = vec![0; room];
        let mut buf = ReadBuf::new(&mut space);
        std::future::poll_fn(|cx| {
            ready!(repair.poll_read(Pin::new(&mut stream), cx, &mut buf))?;
            Poll::Ready(Ok::<_, io::Error>(()))
        })
        .await
        .unwrap();
        if buf.filled().is_empty() {
            assert!(repair.held.is_empty());
            return out;
        }
        out.extend_from_slice(buf.filled());
    }
}

#[tokio::test]
async fn reads_of_any_size_into_room_of_any_size() {
    let value = encoded((1, b"/run/%2F/agent.sock//".to_vec(), HUFFMAN));
    let (begin, end) = value.split_at(value.len() - 3);
    let padded = [&[200], begin, &[0; 200]].concat();
    let torn = [frame(1, PADDED, 1, &padded), frame(9, END_HEADERS, 1, end)].concat();
    let sent = client(&[headers(&value), torn, frame(0, 1, 1, b"x")]);
    let expected = mended(&sent, &[]);
    assert_ne!(sent, expected);
    for size in [1, 2, 3, 7, 100, 1000] {
        for room in [1, 2, 9, 64, 8192] {
            assert_eq!(read_all(&sent, size, room).await, expected, "pieces of {size}, room for {room}");
        }
    }
}

#[tokio::test]
async fn the_end_of_the_stream_releases_what_is_held() {
    let value = encoded((1, b"aaa/".to_vec(), Encoder::HUFFMAN_VALUE));
    let mut sent = client(&[headers(&value)]);
    sent.pop();
    for room in [1, 8192] {
        assert_eq!(read_all(&sent, 1000, room).await, sent);
    }
}
