//! The state of one connection by the frames that the agent has sent.

use std::collections::HashMap;

use super::frames::{
    self, ACK, DATA, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use super::outcome::Outcome;

/// The parts of the connection's state that a script may need.
#[derive(Debug)]
pub(super) struct Heard {
    /// The beginning of an incomplete frame.
    tail: Vec<u8>,
    /// The bytes of DATA that the agent still accepts on the connection.
    window: i64,
    /// The initial window of a stream.
    initial: i64,
    /// The concurrent streams that the agent allows.
    pub(super) streams_at_most: usize,
    /// The open streams that the script follows.
    followed: HashMap<u32, Followed>,
    /// Whether the agent has sent any byte.
    pub(super) spoken: bool,
    pub(super) told_to_go: bool,
    /// Whether the agent has answered a PING of this client.
    pub(super) ponged: bool,
    /// The ACKs that HTTP/2 requires for the agent's frames.
    replies: Vec<u8>,
}

/// An open stream.
#[derive(Debug, Default)]
struct Followed {
    /// The bytes of DATA that the agent accepts in addition to `initial`.
    more: i64,
    /// Whether the agent has sent response headers.
    answered: bool,
}

impl Heard {
    pub(super) fn new() -> Self {
        Self {
            tail: Vec::new(),
            window: INITIAL_WINDOW,
            initial: INITIAL_WINDOW,
            streams_at_most: usize::MAX,
            followed: HashMap::new(),
            spoken: false,
            told_to_go: false,
            ponged: false,
            replies: Vec::new(),
        }
    }

    /// Parses received bytes.
    pub(super) fn take(&mut self, bytes: &[u8], outcome: &mut Outcome) {
        self.spoken |= !bytes.is_empty();
        let mut all = std::mem::take(&mut self.tail);
        all.extend_from_slice(bytes);
        let mut rest = &all[..];
        while let Some(frame) = frames::first(rest) {
            rest = &rest[frame.length()..];
            self.frame(&frame, outcome);
        }
        self.tail = rest.to_vec();
    }

    fn frame(&mut self, frame: &Frame<'_>, outcome: &mut Outcome) {
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                self.settings(frame.payload);
                frames::put(&mut self.replies, SETTINGS, ACK, 0, &[]);
            }
            PING if frame.flags & ACK == 0 => frames::put(&mut self.replies, PING, ACK, 0, frame.payload),
            PING => self.ponged = true,
            WINDOW_UPDATE => {
                let more = i64::from(number(frame.payload));
                if frame.stream == 0 {
                    self.window += more;
                } else if let Some(followed) = self.followed.get_mut(&frame.stream) {
                    followed.more += more;
                }
            }
            GOAWAY => {
                let (code, text) = frame.payload.split_at_checked(8).unwrap_or((&[], &[]));
                outcome.goaway(number(code.get(4..).unwrap_or_default()), &String::from_utf8_lossy(text));
                self.told_to_go = true;
            }
            RST_STREAM => {
                let code = number(frame.payload);
                // NO_ERROR comes after an answer that does not need the rest of the request.
                if code != 0 {
                    outcome.reset(code);
                }
                self.followed.remove(&frame.stream);
            }
            HEADERS | DATA => {
                if frame.flags & END_STREAM != 0 {
                    self.followed.remove(&frame.stream);
                } else if let Some(followed) = self.followed.get_mut(&frame.stream) {
                    followed.answered = true;
                }
            }
            _ => {}
        }
    }

    fn settings(&mut self, mut payload: &[u8]) {
        while let Some(([a, b, value @ ..], rest)) = payload.split_first_chunk::<6>() {
            match u16::from_be_bytes([*a, *b]) {
                frames::INITIAL_WINDOW_SIZE => self.initial = i64::from(number(value)),
                frames::MAX_CONCURRENT_STREAMS => self.streams_at_most = number(value) as usize,
                _ => {}
            }
            payload = rest;
        }
    }

    /// Follows a stream that is opened now, until it ends.
    pub(super) fn follow(&mut self, stream: u32) {
        self.followed.insert(stream, Followed::default());
    }

    /// Whether a followed stream is open.
    pub(super) fn is_open(&self, stream: u32) -> bool {
        self.followed.contains_key(&stream)
    }

    /// Whether a followed stream was answered or has ended.
    pub(super) fn is_answered(&self, stream: u32) -> bool {
        self.followed.get(&stream).is_none_or(|followed| followed.answered)
    }

    /// The bytes of DATA that may be sent on a followed stream now.
    pub(super) fn room(&self, stream: u32) -> usize {
        let of_stream = self.followed.get(&stream).map_or(0, |followed| self.initial + followed.more);
        usize::try_from(of_stream.min(self.window)).unwrap_or(0)
    }

    /// Notes that this many bytes of DATA are sent on a stream.
    pub(super) fn said(&mut self, stream: u32, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.window -= bytes;
        if let Some(followed) = self.followed.get_mut(&stream) {
            followed.more -= bytes;
        }
    }

    pub(super) fn replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The initial window of RFC 9113 §6.9.2.
const INITIAL_WINDOW: i64 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_kept_to() {
        let (mut heard, mut outcome) = (Heard::new(), Outcome::default());
        heard.follow(1);
        assert_eq!(heard.room(1), 65_535);
        heard.said(1, 65_535);
        let mut said = Vec::new();
        frames::put(&mut said, WINDOW_UPDATE, 0, 1, &1000_u32.to_be_bytes());
        frames::put(&mut said, SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
        heard.take(&said, &mut outcome);
        assert_eq!(heard.room(1), 0, "that of the connection is used up");
        said.clear();
        frames::put(&mut said, WINDOW_UPDATE, 0, 0, &70_000_u32.to_be_bytes());
        heard.take(&said, &mut outcome);
        assert_eq!(heard.room(1), 1001);
        assert_eq!(heard.replies().len(), frames::HEADER, "one ACK");
    }

    #[test]
    fn ends_are_counted_however_they_are_cut() {
        let (mut heard, mut outcome) = (Heard::new(), Outcome::default());
        heard.follow(1);
        let mut said = Vec::new();
        frames::put(&mut said, RST_STREAM, 0, 1, &7_u32.to_be_bytes());
        frames::put(&mut said, GOAWAY, 0, 0, b"\0\0\0\x01\0\0\0\x0bwhy");
        for byte in said {
            heard.take(&[byte], &mut outcome);
        }
        assert!(!heard.is_open(1) && heard.told_to_go);
        assert_eq!(outcome.resets["REFUSED_STREAM (7)"], 1);
        assert_eq!(outcome.goaways["ENHANCE_YOUR_CALM (11): why"], 1);
    }
}
