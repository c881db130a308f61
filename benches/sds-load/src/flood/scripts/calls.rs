//! Floods of requests.

use super::super::frames::{
    self, END_HEADERS, END_STREAM, FIRST_DYNAMIC, HEADERS, INDEXED_LITERAL, POST_HTTP, ROOT_PATH, RST_STREAM,
};
use super::super::heard::Heard;
use super::{Next, Script, Streams, X509};

/// Requests that are not gRPC calls. The first has one header block, all later ones another.
pub(super) struct Blocks {
    streams: Streams,
    first: Option<Vec<u8>>,
    later: Vec<u8>,
}

impl Blocks {
    /// Each block has as many small fields as the dynamic table holds, so that each replaces all entries of the last
    /// one.
    pub(super) fn churning() -> Self {
        let mut later = [&POST_HTTP[..], &[ROOT_PATH]].concat();
        for letter in (b'a'..=b'z').cycle().take(ENTRIES) {
            later.extend_from_slice(&[INDEXED_LITERAL, 1, letter, 0]);
        }
        Self { streams: Streams::default(), first: None, later }
    }

    /// Each block refers five times, by one byte, to an entry of 4 KB.
    pub(super) fn too_long() -> Self {
        let request = [&POST_HTTP[..], &[ROOT_PATH]].concat();
        let mut first = request.clone();
        frames::literal(&mut first, INDEXED_LITERAL, &"a".repeat(2000), &"b".repeat(2000));
        let later = [&request[..], &[0x80 | FIRST_DYNAMIC; 5]].concat();
        Self { streams: Streams::default(), first: Some(first), later }
    }
}

impl Script for Blocks {
    fn next(&mut self, _heard: &mut Heard) -> Next {
        let mut out = Vec::new();
        for _ in 0..BATCH {
            let Some(stream) = self.streams.next() else { return Next::Over };
            let block = self.first.take();
            let block = block.as_deref().unwrap_or(&self.later);
            frames::put(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, block);
        }
        Next::Frames(out)
    }
}

/// Calls that are reset at once.
pub(super) struct Resets {
    streams: Streams,
    first: Option<Vec<u8>>,
    later: Vec<u8>,
}

impl Resets {
    pub(super) fn new() -> Self {
        let (first, later) = frames::indexed_request(X509);
        Self { streams: Streams::default(), first: Some(first), later }
    }
}

impl Script for Resets {
    fn next(&mut self, _heard: &mut Heard) -> Next {
        let mut out = Vec::new();
        for _ in 0..BATCH {
            let Some(stream) = self.streams.next() else { return Next::Over };
            let block = self.first.take();
            frames::put(&mut out, HEADERS, END_HEADERS, stream, block.as_deref().unwrap_or(&self.later));
            frames::put(&mut out, RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
        }
        Next::Frames(out)
    }
}

/// The number of requests in one write.
const BATCH: usize = 200;
/// The number of entries of 33 bytes that fit into a table of 4,096 bytes.
const ENTRIES: usize = 124;
const CANCEL: u32 = 8;
