//! Frames as bytes (RFC 9113 §4, §6).

use bytes::{BufMut, BytesMut};

/// Why a stream or a connection is ended (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Nothing went wrong.
    No = 0,
    /// A rule is broken for which there is no code of its own.
    Protocol = 1,
    /// The server failed.
    Internal = 2,
    /// More was sent than a window allows.
    FlowControl = 3,
    /// A frame for a stream that is over.
    StreamClosed = 5,
    /// A frame has a length that its type cannot have.
    FrameSize = 6,
    /// The stream was not looked at; it may be tried again.
    RefusedStream = 7,
    /// A header block cannot be decoded.
    Compression = 9,
    /// More work is made than anybody needs.
    EnhanceYourCalm = 11,
}

/// The nine bytes before each frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// Without the reserved bit.
    pub(crate) stream: u32,
}

impl FrameHead {
    pub(crate) const LEN: usize = 9;

    /// `None` when it is not complete.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s1, s2, s3, s4] = bytes.first_chunk()?;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(Self { len, kind, flags, stream: number([s1, s2, s3, s4]) })
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The payload of a padded frame without its padding (§6.1); `None` when there is more padding than frame.
pub(crate) fn padding(head: &FrameHead, payload: &[u8]) -> Option<std::ops::Range<usize>> {
    if !head.has(PADDED) {
        return Some(0..payload.len());
    }
    let padding = usize::from(*payload.first()?);
    (padding < payload.len()).then(|| 1..payload.len() - padding)
}

/// A 31-bit number; its first bit is reserved.
pub(crate) fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & 0x7fff_ffff
}

pub(crate) fn head(out: &mut BytesMut, len: usize, kind: u8, flags: u8, stream: u32) {
    let len = u32::try_from(len).expect("below 2^24").to_be_bytes();
    out.put_slice(&len[1..]);
    out.put_slice(&[kind, flags]);
    out.put_u32(stream);
}

pub(crate) fn settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    head(out, settings.len() * 6, SETTINGS, 0, 0);
    for &(name, value) in settings {
        out.put_u16(name);
        out.put_u32(value);
    }
}

pub(crate) fn settings_ack(out: &mut BytesMut) {
    head(out, 0, SETTINGS, ACK, 0);
}

pub(crate) fn pong(out: &mut BytesMut, ping: &[u8]) {
    head(out, ping.len(), PING, ACK, 0);
    out.put_slice(ping);
}

pub(crate) fn reset(out: &mut BytesMut, stream: u32, reason: Reason) {
    head(out, 4, RST_STREAM, 0, stream);
    out.put_u32(reason as u32);
}

pub(crate) fn window_update(out: &mut BytesMut, stream: u32, more: u32) {
    head(out, 4, WINDOW_UPDATE, 0, stream);
    out.put_u32(more);
}

pub(crate) fn go_away(out: &mut BytesMut, last: u32, reason: Reason) {
    head(out, 8, GO_AWAY, 0, 0);
    out.put_u32(last);
    out.put_u32(reason as u32);
}

/// A header block, over as many frames as it takes.
pub(crate) fn headers(out: &mut BytesMut, stream: u32, block: &[u8], end_stream: bool) {
    let mut parts = block.chunks(FRAME_LIMIT).peekable();
    let (mut kind, mut flags) = (HEADERS, if end_stream { END_STREAM } else { 0 });
    while let Some(part) = parts.next() {
        let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
        head(out, part.len(), kind, flags | last, stream);
        out.put_slice(part);
        (kind, flags) = (CONTINUATION, 0);
    }
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a frame may have when nothing else was agreed upon, and here nothing else ever is, in either direction.
pub(crate) const FRAME_LIMIT: usize = 16_384;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GO_AWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const WITH_PRIORITY: u8 = 0x20;

pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const ENABLE_PUSH: u16 = 2;
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(crate) const MAX_FRAME_SIZE: u16 = 5;
pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
