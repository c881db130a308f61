//! Floods of what is in requests. All keep to the windows that the agent gives.

use bytes::{Buf as _, Bytes};

use super::super::frames::{self, DATA, END_HEADERS, HEADERS, MOST};
use super::super::heard::Heard;
use super::{HEALTH, Next, SDS, Script, Streams, X509, framed};
use crate::wire::{Message, NodeIn, Requests};

/// A stream with what is still to be said on it.
struct Saying {
    stream: u32,
    rest: Bytes,
}

impl Saying {
    /// Opens a stream; `None` when there are no more.
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

    /// Says as much as there is room for, at most a frame.
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
        // Field 1, again and again, of ten bytes.
        let of = |length| Bytes::from(framed(length, &vec![10; length - 1]));
        let (long, short) = (of(LONG), of(SHORT));
        Self { streams: Streams::default(), open: Vec::new(), opened: 0, long, short }
    }

    /// Streams are of several services, and messages as long as a receiver may take them, or as long as one surely does.
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

/// One message again and again on one stream.
pub(super) struct Nacks {
    streams: Streams,
    nack: Bytes,
    saying: Option<Saying>,
}

impl Nacks {
    pub(super) fn new() -> Self {
        // A name that nobody has: the stream is held, and has no nonce that a NACK would have to have.
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

/// Streams that are held for names that nobody has.
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
        // The next stream is opened when the one before has said all.
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

fn whole(mut message: Message) -> Bytes {
    message.copy_to_bytes(message.remaining())
}

/// Streams with an unfinished message on a connection.
const UNFINISHED: usize = 100;
/// Bytes of a message as long as gRPC's servers usually take them.
const LONG: usize = 4 * 1024 * 1024 - 64;
const SHORT: usize = 4096;
/// Bytes of words, or of names: an agent takes 64 KiB.
const LONG_TEXT: usize = 60_000;
/// Bytes of a name, nearly.
const NAME: usize = 160;
const HELD: usize = 499;
