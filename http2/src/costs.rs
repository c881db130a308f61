//! What operations cost a connection's account: work in nanoseconds, as measured on the machine of
//! `benches/REPORT.md`, and memory in bytes as the allocator counts them. Rough values are good enough: they only
//! decide whose turn it is and which client is evicted.

/// Work to take a frame apart and to act on it.
pub(crate) const FRAME: u64 = 150;
/// Payload bytes that are read from the socket and passed on in one nanosecond.
pub(crate) const PAYLOAD_BYTES_PER_NS: usize = 4;
/// Work to decode one byte of a header block.
pub(crate) const HEADER_BYTE: u64 = 5;
/// Work to check one decoded header field, beside [`FIELD_BYTE`] for each of its bytes.
pub(crate) const HEADER_FIELD: u64 = 40;
/// Work to check one byte of a decoded header field. One byte of a block can stand for thousands of these.
pub(crate) const FIELD_BYTE: u64 = 1;
/// Work to begin a call and to drop it again, without the work of the call itself.
pub(crate) const CALL: u64 = 8000;
/// Work to poll a call.
pub(crate) const POLL: u64 = 1500;
/// Work to visit one stream after a window has grown for all of them.
pub(crate) const VISIT: u64 = 20;

/// Bytes that a request's path and headers take, until the call is answered.
pub(crate) const REQUEST: usize = 1152;
/// Bytes that a stream's inbox and its waker take, with what the allocator adds.
pub(crate) const INBOX: usize = 288;
