//! HTTP/2 frames and header blocks as bytes, including those that no HTTP/2 library would make.

/// Appends a frame.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The first frame in these bytes; `None` if it is incomplete.
pub(super) fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let [a, b, c, kind, flags, stream @ ..] = *header;
    let payload = rest.get(..u32::from_be_bytes([0, a, b, c]) as usize)?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(stream) & STREAM, payload })
}

/// A frame that borrows its payload.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    /// The length of the frame in bytes, with its header.
    pub(super) fn length(&self) -> usize {
        HEADER + self.payload.len()
    }
}

/// The connection preface, SETTINGS with these values, and the largest possible connection window.
pub(super) fn greeting(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put(&mut out, SETTINGS, 0, 0, &payload);
    put(&mut out, WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes());
    out
}

/// The header block of a gRPC request. It adds nothing to the dynamic table.
pub(super) fn request(path: &str) -> Vec<u8> {
    let mut block = POST_HTTP.to_vec();
    for (name, value) in fields(path) {
        literal(&mut block, LITERAL, name, value);
    }
    block
}

/// The header block of a gRPC request that adds its fields to the dynamic table, and the block of all later requests
/// for this path, with one byte for each field.
pub(super) fn indexed_request(path: &str) -> (Vec<u8>, Vec<u8>) {
    let (mut first, mut later) = (POST_HTTP.to_vec(), POST_HTTP.to_vec());
    let fields = fields(path);
    for (number, (name, value)) in (0_u8..).zip(fields) {
        literal(&mut first, INDEXED_LITERAL, name, value);
        // The newest entry has the lowest index.
        later.push(0x80 | (FIRST_DYNAMIC + 4 - number));
    }
    (first, later)
}

fn fields(path: &str) -> [(&str, &str); 5] {
    [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        // Other services ignore this header.
        ("workload.spiffe.io", "true"),
    ]
}

/// Appends a field with a literal name and value.
pub(super) fn literal(block: &mut Vec<u8>, how: u8, name: &str, value: &str) {
    block.push(how);
    for text in [name, value] {
        length(block, text.len());
        block.extend_from_slice(text.as_bytes());
    }
}

/// Appends a length as RFC 7541 §5.1 encodes it, with a prefix of seven bits.
fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        block.push(u8::try_from(length).unwrap_or_default());
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(rest as u8 & 0x7f | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

pub(super) const HEADER: usize = 9;
pub(super) const MOST: usize = 16_384;
const STREAM: u32 = 0x7fff_ffff;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

pub(super) const LITERAL: u8 = 0;
pub(super) const INDEXED_LITERAL: u8 = 0x40;
/// `:method: POST` and `:scheme: http` of the static table.
pub(super) const POST_HTTP: [u8; 2] = [0x83, 0x86];
/// `:path: /` of the static table.
pub(super) const ROOT_PATH: u8 = 0x84;
/// The index of the newest entry of the dynamic table.
pub(super) const FIRST_DYNAMIC: u8 = 62;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut out = Vec::new();
        put(&mut out, DATA, END_STREAM, 7, b"abc");
        assert_eq!(first(&out), Some(Frame { kind: DATA, flags: END_STREAM, stream: 7, payload: b"abc" }));
        assert_eq!(first(&out[..out.len() - 1]), None);
    }

    #[test]
    fn lengths_are_hpacks() {
        let coded = |value| {
            let mut block = Vec::new();
            length(&mut block, value);
            block
        };
        assert_eq!(coded(10), [10]);
        assert_eq!(coded(127), [0x7f, 0]);
        assert_eq!(coded(2000), [0x7f, 0xd1, 0x0e]);
    }

    #[test]
    fn later_requests_are_indices_of_the_first() {
        let (_, later) = indexed_request("/a");
        assert_eq!(later, [0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
    }
}
