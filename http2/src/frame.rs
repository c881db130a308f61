//! Reads and writes frames as bytes (RFC 9113 §4, §6).

use bytes::{BufMut, BytesMut};

/// The error code of RST_STREAM and GOAWAY (RFC 9113 §7). Codes that this server never sends are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// NO_ERROR: the peer has done nothing wrong.
    No = 0,
    /// PROTOCOL_ERROR: the client broke a rule that has no code of its own.
    Protocol = 1,
    /// INTERNAL_ERROR: the server failed.
    Internal = 2,
    /// FLOW_CONTROL_ERROR: the client sent more than a window allows, or made a window too large.
    FlowControl = 3,
    /// STREAM_CLOSED: a frame came for a stream that is over.
    StreamClosed = 5,
    /// FRAME_SIZE_ERROR: a frame has a length that its type cannot have.
    FrameSize = 6,
    /// REFUSED_STREAM: the call was not begun, and the client may try it again.
    RefusedStream = 7,
    /// COMPRESSION_ERROR: a header block cannot be decoded.
    Compression = 9,
    /// ENHANCE_YOUR_CALM: the client makes more work, or needs more memory, than it may.
    EnhanceYourCalm = 11,
}

/// The nine bytes before each frame's payload (§4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// The stream identifier, without the reserved bit.
    pub(crate) stream: u32,
}

impl FrameHead {
    pub(crate) const LEN: usize = 9;

    /// `None` when `bytes` is shorter than a frame head.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s1, s2, s3, s4] = bytes.first_chunk()?;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(Self { len, kind, flags, stream: number([s1, s2, s3, s4]) })
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The range of `payload` that is not padding (§6.1). `None` when the frame has more padding than payload.
pub(crate) fn padding(head: &FrameHead, payload: &[u8]) -> Option<std::ops::Range<usize>> {
    if !head.has(PADDED) {
        return Some(0..payload.len());
    }
    let padding = usize::from(*payload.first()?);
    (padding < payload.len()).then(|| 1..payload.len() - padding)
}

/// A 31-bit number. Its first bit is reserved and ignored.
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

/// Writes a header block: one HEADERS frame, then as many CONTINUATION frames as it takes.
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
/// The initial SETTINGS_MAX_FRAME_SIZE (§6.5.2). The server announces no other value, and never sends longer frames.
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
