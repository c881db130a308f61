//! Gives the same client bytes to our HTTP/2 server and to h2's, in memory. Both must end the connection, or neither,
//! with the exceptions that are listed here with their reasons.
#![no_main]

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use budget::Account;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http2::{Limits, RequestBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(said) = Client::read(data) else { return };
    let (ours, theirs) = (ours(&said.bytes), theirs(&said.bytes));
    if ours.ended != theirs.ended && !said.is_excepted() {
        panic!("ours {ours:?}, h2's {theirs:?}, frames {:?}", said.frames);
    }
});

/// The end state of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Whether the server has ended the connection or sent GOAWAY.
    ended: bool,
    /// The error code of the server's last GOAWAY.
    code: Option<u32>,
}

/// The bytes of a client: the preface and SETTINGS, then complete frames.
struct Client {
    bytes: Vec<u8>,
    frames: Vec<(u8, u8, u32, Vec<u8>)>,
}

impl Client {
    /// Makes a client of the fuzzer's bytes; `None` if they have no frames.
    fn read(mut data: &[u8]) -> Option<Self> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        let mut frames = Vec::new();
        while let [kind, flags, stream, len, rest @ ..] = data
            && frames.len() < FRAMES
        {
            let (kind, stream) = (kind % 11, u32::from(stream % 10));
            let (payload, rest) = match (kind, len) {
                // Half of the header blocks are valid.
                (HEADERS, 128..) => (&REQUEST[..], rest),
                (WINDOW_UPDATE | RST_STREAM, 32..) if rest.len() >= 4 => rest.split_at(4),
                (PING | GO_AWAY, 32..) if rest.len() >= 8 => rest.split_at(8),
                (PRIORITY, 32..) if rest.len() >= 5 => rest.split_at(5),
                (SETTINGS, 32..) if rest.len() >= 6 => rest.split_at(6),
                (_, len) => rest.split_at(rest.len().min(usize::from(len % 64))),
            };
            data = rest;
            let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
            bytes.extend([&len[1..], &[kind, *flags], &stream.to_be_bytes(), payload].concat());
            frames.push((kind, *flags, stream, payload.to_vec()));
        }
        (!frames.is_empty()).then_some(Self { bytes, frames })
    }

    /// Whether the two servers may differ about this client.
    fn is_excepted(&self) -> bool {
        self.frames.iter().any(|(kind, flags, stream, payload)| excepted(*kind, *flags, *stream, payload))
            || self.has_late_frames()
            || self.has_odd_blocks()
    }

    /// Whether there is a frame of a stream after the stream's end. Which of these end the connection depends on how
    /// long a server remembers a stream (RFC 9113 §5.1 leaves it open), and h2 remembers by time.
    fn has_late_frames(&self) -> bool {
        let mut over = [false; 10];
        self.frames.iter().any(|(kind, flags, stream, _)| {
            let over = &mut over[*stream as usize];
            let late = *over && *stream != 0;
            let ends = matches!(*kind, DATA | HEADERS) && flags & END_STREAM != 0;
            *over |= ends || *kind == RST_STREAM;
            late
        })
    }

    /// Whether there is a header block other than the usual request. h2's reaction to a malformed one depends on the
    /// rule that it breaks.
    fn has_odd_blocks(&self) -> bool {
        self.frames.iter().any(|(kind, flags, _, payload)| {
            // h2 does not react to an unfinished block before it has the rest.
            *kind == CONTINUATION
                || (*kind == HEADERS
                    && (flags & (PADDED | WITH_PRIORITY) != 0
                        || flags & END_HEADERS == 0
                        || payload[..] != REQUEST[..]))
        })
    }
}

fn excepted(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
    match kind {
        // h2 ends the connection for a malformed PRIORITY or WINDOW_UPDATE on any stream. RFC 9113 §6.3 and §6.9 ask
        // for a stream error if the stream is not idle.
        PRIORITY => payload.len() != 5 || stream == 0 || payload[..4] == stream.to_be_bytes(),
        WINDOW_UPDATE => stream != 0 || payload.len() != 4,
        // h2 treats an ACK of settings that it has not sent as an error, and a value of
        // SETTINGS_ENABLE_CONNECT_PROTOCOL above 1 too. From a client that setting means nothing (RFC 8441 §3), and our
        // server ignores it like an unknown one.
        SETTINGS => {
            flags & ACK != 0
                || payload.len() > 6
                || matches!(payload, [0, 8, value @ ..] if *value > [0, 0, 0, 1][..])
        }
        // h2 closes the connection after a client's GOAWAY when no stream is open. Our server leaves that to the
        // client.
        GO_AWAY | PUSH_PROMISE => true,
        _ => false,
    }
}

fn ours(bytes: &[u8]) -> Outcome {
    let (io, theirs) = tokio::io::duplex(PIPE);
    let limits = Limits { streams: 10, window: 65_535, headers: 4096, fields: &[] };
    let call = |_: Request<RequestBody>| std::future::ready(Response::new(Hello(false)));
    let served = http2::serve(theirs, limits, Account::alone(1 << 24), call).expect("there is room");
    run(io, bytes, served)
}

fn theirs(bytes: &[u8]) -> Outcome {
    let (io, theirs) = tokio::io::duplex(PIPE);
    run(io, bytes, async move {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(10).max_header_list_size(4096);
        let Ok(mut connection) = builder.handshake::<_, Bytes>(theirs).await else { return };
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                let _ = body.send_data(Bytes::from_static(b"hello"), true);
            }
        }
    })
}

/// Lets a server run until it has nothing more to do.
fn run(mut io: DuplexStream, bytes: &[u8], served: impl Future) -> Outcome {
    let mut cx = Context::from_waker(Waker::noop());
    let mut served = pin!(served);
    assert!(pin!(io.write_all(bytes)).poll(&mut cx).is_ready(), "the pipe is long enough");
    let mut outcome = Outcome { ended: false, code: None };
    let mut said = Vec::new();
    for _ in 0..POLLS {
        if !outcome.ended {
            outcome.ended = served.as_mut().poll(&mut cx).is_ready();
        }
        let mut part = [0; 4096];
        while let Poll::Ready(Ok(len @ 1..)) = pin!(io.read(&mut part)).poll(&mut cx) {
            said.extend_from_slice(&part[..len]);
        }
    }
    let mut rest = &said[..];
    while let [a, b, c, kind, _, _, _, _, _, tail @ ..] = rest {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (payload, next) = tail.split_at(len.min(tail.len()));
        if *kind == GO_AWAY {
            outcome.code = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().expect("four")));
            outcome.ended |= outcome.code != Some(0);
        }
        rest = next;
    }
    outcome
}

struct Hello(bool);

impl Body for Hello {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let over = std::mem::replace(&mut self.0, true);
        Poll::Ready((!over).then(|| Ok(Frame::data(Bytes::from_static(b"hello")))))
    }
}

/// `:method: GET`, `:scheme: http`, `:path: /`, `:authority: x`.
const REQUEST: [u8; 6] = [0x82, 0x86, 0x84, 0x01, 1, b'x'];
/// The most frames of a client.
const FRAMES: usize = 60;
const POLLS: usize = 20;
const PIPE: usize = 1 << 20;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const WITH_PRIORITY: u8 = 0x20;
