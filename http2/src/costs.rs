//! What things cost a connection's account: work in nanoseconds, as measured on the machine of `benches/REPORT.md`, and
//! bytes as the allocator counts them. Rough is good enough: they decide whose turn it is and who is asked to go.

/// To take a frame apart and act on it.
pub(crate) const FRAME: u64 = 150;
/// So many bytes of a payload are read from the socket and handed on in a nanosecond.
pub(crate) const PAYLOAD_BYTES_PER_NS: usize = 4;
/// To decode a byte of a header block.
pub(crate) const HEADER_BYTE: u64 = 5;
/// To look at a header field that was decoded.
pub(crate) const HEADER_FIELD: u64 = 40;
/// To check a byte of such a field. One byte of a block can stand for thousands of these.
pub(crate) const FIELD_BYTE: u64 = 1;
/// To begin a call and to drop it again, without what the call itself does.
pub(crate) const CALL: u64 = 8000;
/// To poll a call.
pub(crate) const POLL: u64 = 1500;
/// To visit a stream when all are told that a window has grown.
pub(crate) const VISIT: u64 = 20;

/// Bytes that a request's path and headers take, until the call is answered.
pub(crate) const REQUEST: usize = 1152;
/// Bytes that a stream's inbox and its waker take, with what the allocator adds.
pub(crate) const INBOX: usize = 288;
