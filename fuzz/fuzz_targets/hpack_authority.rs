//! Any bytes of a client pass, wherever they are cut: header blocks keep their shape, all else stays as it is.
#![no_main]

use transport::repair::Mender;

libfuzzer_sys::fuzz_target!(|input: (bool, Vec<u8>, &[u8])| {
    let (one_block, pieces, data) = input;
    let mut sent = PREFACE.to_vec();
    if one_block && let Ok(length) = u16::try_from(data.len()) {
        // Straight into HPACK.
        sent.extend([&[0][..], &length.to_be_bytes(), &[HEADERS, END_HEADERS, 0, 0, 0, 1], data].concat());
    } else {
        sent.extend(data);
    }
    let out = mended(&sent, &[]);
    assert_eq!(mended(&sent, &pieces), out, "the cuts do not matter");
    assert_eq!(mended(&out, &pieces), out, "once is enough");
    assert_eq!(payloads(&sent), payloads(&out));

    let raw = data.to_vec();
    if !PREFACE.starts_with(&raw[..raw.len().min(PREFACE.len())]) {
        assert_eq!(mended(&raw, &pieces), raw, "this is not HTTP/2");
    }
});

/// What comes out when the bytes arrive in pieces of these sizes, and then the rest at once.
fn mended(bytes: &[u8], pieces: &[u8]) -> Vec<u8> {
    let mut mender = Mender::default();
    let (mut given, mut out) = (Vec::new(), Vec::new());
    let mut left = bytes;
    let sizes = pieces.iter().map(|size| usize::from(*size)).chain([usize::MAX]);
    for size in sizes {
        let (piece, later) = left.split_at(size.min(left.len()));
        left = later;
        given.extend_from_slice(piece);
        let settled = mender.mend(&mut given);
        assert!(given.len() - settled <= MOST_HELD);
        out.extend(given.drain(..settled));
    }
    out.extend(given);
    assert_eq!(out.len(), bytes.len());
    out
}

/// All that must not change: frame headers, and the payloads of frames without header fields.
fn payloads(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = &bytes[PREFACE.len()..];
    let mut found = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, next) = behind.split_at(length.min(behind.len()));
        found.push(&head[..]);
        if !matches!(head[3], HEADERS | CONTINUATION) {
            found.push(payload);
        }
        rest = next;
    }
    found
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const MOST_HELD: usize = 265;
