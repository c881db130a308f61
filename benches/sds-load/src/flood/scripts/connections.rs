//! Floods of connections, and of answers that are not read.

use std::time::Duration;

use bytes::{Buf as _, Bytes};

use super::super::frames::{
    self, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, PING, SETTINGS, WINDOW_UPDATE,
};
use super::super::heard::Heard;
use super::{HEALTH, Next, SDS, Script, Streams, X509, framed};
use crate::wire::{NodeIn, Requests};

/// Asks for answers and never reads.
pub(super) struct Unread {
    streams: Streams,
    pings: usize,
    settings: usize,
    calls: usize,
}

impl Unread {
    /// Makes the script of connection `number`. Connections ask for different frames, because an agent may tolerate
    /// some of them and not others.
    pub(super) fn new(number: usize) -> Self {
        let (pings, settings, calls) = match number % 3 {
            // A few PINGs for each call look like keep-alive.
            0 => (3, 0, 1),
            1 => (1, 0, 0),
            _ => (0, 1, 0),
        };
        Self { streams: Streams::default(), pings, settings, calls }
    }
}

impl Script for Unread {
    fn reads(&self) -> bool {
        false
    }

    fn next(&mut self, _heard: &mut Heard) -> Next {
        let mut out = Vec::new();
        for _ in 0..BATCH {
            for _ in 0..self.pings {
                frames::put(&mut out, PING, 0, 0, b"answerme");
            }
            for _ in 0..self.settings {
                frames::put(&mut out, SETTINGS, 0, 0, &[]);
            }
            for _ in 0..self.calls {
                let Some(stream) = self.streams.next() else { return Next::Over };
                call(&mut out, stream, HEALTH);
            }
        }
        Next::Frames(out)
    }
}

/// Sends nothing at all.
pub(super) struct Silent;

impl Script for Silent {
    fn greeting(&self) -> Vec<u8> {
        Vec::new()
    }

    fn next(&mut self, _heard: &mut Heard) -> Next {
        Next::Silence
    }
}

/// Makes a few calls, and ends when they are answered.
#[derive(Default)]
pub(super) struct Small {
    calls: Vec<u32>,
}

impl Script for Small {
    fn next(&mut self, heard: &mut Heard) -> Next {
        if !self.calls.is_empty() {
            let answered = self.calls.iter().all(|call| heard.is_answered(*call));
            return if answered { Next::Over } else { Next::Wait };
        }
        let (mut out, mut streams) = (Vec::new(), Streams::default());
        for path in [HEALTH, X509, HEALTH] {
            let Some(stream) = streams.next() else { return Next::Over };
            heard.follow(stream);
            call(&mut out, stream, path);
            self.calls.push(stream);
        }
        Next::Frames(out)
    }
}

/// Opens streams that the agent answers, and lets one byte of each through at a time.
#[derive(Default)]
pub(super) struct Slow {
    streams: Streams,
    open: Vec<u32>,
    rested: bool,
}

impl Script for Slow {
    fn greeting(&self) -> Vec<u8> {
        frames::greeting(&[(INITIAL_WINDOW_SIZE, 1)])
    }

    fn next(&mut self, heard: &mut Heard) -> Next {
        self.open.retain(|stream| heard.is_open(*stream));
        let mut out = Vec::new();
        while self.open.len() < SLOW.min(heard.streams_at_most) {
            let Some(stream) = self.streams.next() else { return Next::Over };
            heard.follow(stream);
            if self.open.len().is_multiple_of(2) {
                frames::put(&mut out, HEADERS, END_HEADERS, stream, &frames::request(SDS));
                frames::put(&mut out, DATA, 0, stream, &ask_for_bundle());
            } else {
                call(&mut out, stream, X509);
            }
            self.open.push(stream);
        }
        if !out.is_empty() {
            return Next::Frames(out);
        }
        self.rested = !self.rested;
        if self.rested {
            return Next::Pause(BETWEEN_BYTES);
        }
        for stream in &self.open {
            frames::put(&mut out, WINDOW_UPDATE, 0, *stream, &1_u32.to_be_bytes());
        }
        Next::Frames(out)
    }
}

/// Appends a complete call with an empty message.
fn call(out: &mut Vec<u8>, stream: u32, path: &str) {
    frames::put(out, HEADERS, END_HEADERS, stream, &frames::request(path));
    frames::put(out, DATA, END_STREAM, stream, &framed(0, &[]));
}

/// A request for the trust domain's bundle, which everybody may have.
fn ask_for_bundle() -> Bytes {
    let mut message = Requests::new("ROOTCA", NodeIn::None, Bytes::new()).first(b"");
    message.copy_to_bytes(message.remaining())
}

/// The number of rounds in one write.
const BATCH: usize = 100;
/// The number of streams of a slow reader.
const SLOW: usize = 100;
/// The time between two bytes of a slow reader.
const BETWEEN_BYTES: Duration = Duration::from_millis(100);
