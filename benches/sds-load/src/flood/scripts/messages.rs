//! Floods of message content. All keep to the windows that the agent gives.

use bytes::{Buf as _, Bytes};

use super::super::frames::{self, DATA, END_HEADERS, HEADERS, MOST};
use super::super::heard::Heard;
use super::{DELTA, HEALTH, Next, SDS, Script, Streams, X509, framed};
use crate::wire::{Message, NodeIn, Requests};

/// A stream and the bytes that are not sent on it yet.
struct Saying {
    stream: u32,
    rest: Bytes,
}

impl Saying {
    /// Opens a stream; `None` if the connection has used all identifiers.
    fn open(
        streams: &mut Streams,
        heard: &mut Heard,
        out: &mut Vec<u8>,
        path: &str,
        message: Bytes,
    ) -> Option<Self> {
        let stream = streams.next()?;
        heard.follow(stream);
        frames::put(out, HEADERS, END_HEADERS, stream, &frames::request(path));
        Some(Self { stream, rest: message })
    }

    /// Sends as much as the windows allow, at most one frame.
    fn say(&mut self, heard: &mut Heard, out: &mut Vec<u8>) {
        let length = self.rest.len().min(heard.room(self.stream)).min(MOST);
        if length > 0 {
            frames::put(out, DATA, 0, self.stream, &self.rest.split_to(length));
            heard.said(self.stream, length);
        }
    }
}

/// Messages that lack their last byte.
pub(super) struct Unfinished {
    streams: Streams,
    open: Vec<Saying>,
    opened: usize,
    long: Bytes,
    short: Bytes,
}

impl Unfinished {
    pub(super) fn new() -> Self {
        // Field 1 repeatedly, with ten bytes.
        let of = |length| Bytes::from(framed(length, &vec![10; length - 1]));
        let (long, short) = (of(LONG), of(SHORT));
        Self { streams: Streams::default(), open: Vec::new(), opened: 0, long, short }
    }

    /// The next message. It alternates between services, and between messages of the largest usual size and of a size
    /// that every receiver accepts.
    fn message(&self) -> (&'static str, Bytes) {
        match self.opened % 5 {
            0 => (X509, self.long.clone()),
            1 => (HEALTH, self.long.clone()),
            2 => (X509, self.short.clone()),
            3 => (HEALTH, self.short.clone()),
            _ => (SDS, self.long.clone()),
        }
    }
}

impl Script for Unfinished {
    fn next(&mut self, heard: &mut Heard) -> Next {
        let mut out = Vec::new();
        self.open.retain(|saying| heard.is_open(saying.stream));
        if self.open.len() < UNFINISHED.min(heard.streams_at_most) {
            let (path, message) = self.message();
            let Some(saying) = Saying::open(&mut self.streams, heard, &mut out, path, message) else {
                return Next::Over;
            };
            self.opened += 1;
            self.open.push(saying);
        }
        for saying in &mut self.open {
            saying.say(heard, &mut out);
        }
        if out.is_empty() { Next::Wait } else { Next::Frames(out) }
    }
}

/// Sends one message repeatedly on one stream.
pub(super) struct Nacks {
    streams: Streams,
    nack: Bytes,
    saying: Option<Saying>,
}

impl Nacks {
    pub(super) fn new() -> Self {
        // Nobody has this name, so the stream is held and has no nonce that a NACK would need.
        let requests = Requests::new("x", NodeIn::None, Bytes::new());
        let nack = whole(requests.answer(b"", b"", Some(&"A".repeat(LONG_TEXT))));
        Self { streams: Streams::default(), nack, saying: None }
    }
}

impl Script for Nacks {
    fn next(&mut self, heard: &mut Heard) -> Next {
        let mut out = Vec::new();
        let saying = self.saying.take().filter(|saying| heard.is_open(saying.stream));
        let nack = self.nack.clone();
        let saying = match saying {
            Some(saying) if saying.rest.is_empty() => Some(Saying { rest: nack, ..saying }),
            Some(saying) => Some(saying),
            None => Saying::open(&mut self.streams, heard, &mut out, SDS, nack),
        };
        let Some(mut saying) = saying else { return Next::Over };
        saying.say(heard, &mut out);
        self.saying = Some(saying);
        if out.is_empty() { Next::Wait } else { Next::Frames(out) }
    }
}

/// Opens streams that wait for names that nobody has.
pub(super) struct Names {
    streams: Streams,
    request: Bytes,
    held: Vec<Saying>,
}

impl Names {
    pub(super) fn new() -> Self {
        let name = |number: usize| format!("spiffe://example.org/{number:06}/{}", "x".repeat(NAME));
        let names: Vec<String> = (0..LONG_TEXT / (NAME + 40)).map(name).collect();
        let request = whole(Requests::of_names(&names, NodeIn::None, Bytes::new()).first(b""));
        Self { streams: Streams::default(), request, held: Vec::new() }
    }
}

impl Script for Names {
    fn next(&mut self, heard: &mut Heard) -> Next {
        let mut out = Vec::new();
        self.held.retain(|saying| heard.is_open(saying.stream));
        // The next stream is opened when the last one has sent all of its request.
        if self.held.last().is_none_or(|saying| saying.rest.is_empty())
            && self.held.len() < HELD.min(heard.streams_at_most)
        {
            let request = self.request.clone();
            let Some(saying) = Saying::open(&mut self.streams, heard, &mut out, SDS, request) else {
                return Next::Over;
            };
            self.held.push(saying);
        }
        if let Some(saying) = self.held.last_mut() {
            saying.say(heard, &mut out);
        }
        if out.is_empty() { Next::Wait } else { Next::Frames(out) }
    }
}

/// Changes the names of a delta stream without end, one at a time.
pub(super) struct Changes {
    streams: Streams,
    first: Bytes,
    /// The changes of one frame.
    changes: Bytes,
    saying: Option<Saying>,
}

impl Changes {
    pub(super) fn new() -> Self {
        let field = |number: u8, name: &str| {
            let length = u8::try_from(name.len()).expect("short names");
            [&[number << 3 | 2, length], name.as_bytes()].concat()
        };
        let name = |number: usize| field(SUBSCRIBE, &format!("spiffe://example.org/{number:06}"));
        let names: Vec<u8> = (0..LONG_TEXT / 54).flat_map(name).collect();
        let change = |number| field(number, "spiffe://example.org/999999");
        let both =
            [change(SUBSCRIBE), change(UNSUBSCRIBE)].map(|change| framed(change.len(), &change)).concat();
        Self {
            streams: Streams::default(),
            first: framed(names.len(), &names).into(),
            changes: both.repeat(PAIRS).into(),
            saying: None,
        }
    }
}

impl Script for Changes {
    fn next(&mut self, heard: &mut Heard) -> Next {
        let mut out = Vec::new();
        let saying = match self.saying.take().filter(|saying| heard.is_open(saying.stream)) {
            Some(saying) if saying.rest.is_empty() => Some(Saying { rest: self.changes.clone(), ..saying }),
            Some(saying) => Some(saying),
            None => Saying::open(&mut self.streams, heard, &mut out, DELTA, self.first.clone()),
        };
        let Some(mut saying) = saying else { return Next::Over };
        saying.say(heard, &mut out);
        self.saying = Some(saying);
        if out.is_empty() { Next::Wait } else { Next::Frames(out) }
    }
}

fn whole(mut message: Message) -> Bytes {
    message.copy_to_bytes(message.remaining())
}

/// Changes of a frame: each adds a name and takes it away.
const PAIRS: usize = 2;
/// Fields of `DeltaDiscoveryRequest`.
const SUBSCRIBE: u8 = 3;
const UNSUBSCRIBE: u8 = 4;
/// The number of streams with an unfinished message on a connection.
const UNFINISHED: usize = 100;
/// The bytes of a long message: nearly as many as gRPC servers accept by default.
const LONG: usize = 4 * 1024 * 1024 - 64;
/// The bytes of a short message.
const SHORT: usize = 4096;
/// The bytes of text, or of names, in a message: an agent accepts 64 KiB.
const LONG_TEXT: usize = 60_000;
/// The approximate bytes of a name.
const NAME: usize = 160;
/// The most streams that wait on a connection.
const HELD: usize = 499;
