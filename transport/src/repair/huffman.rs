//! Rewrites text in HPACK's Huffman code (RFC 7541, Appendix B) without decoding it.
//!
//! That code is canonical: codes of one length are consecutive numbers. So their count per length tells where a code
//! ends, and the characters wanted here are known by their numbers.

/// The code at hand, as far as its bits were seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Code {
    bits: u32,
    length: u8,
}

impl Code {
    /// Walks the byte at `place` and mends the codes that end in it. `begun` is where a code began that goes on here.
    pub(super) fn mend(&mut self, bytes: &mut [u8], begun: Option<usize>, place: usize) {
        let byte = bytes[place];
        for shift in (0..8).rev() {
            self.bits = self.bits << 1 | u32::from(byte >> shift & 1);
            self.length += 1;
            if self.bits >= ENDS[usize::from(self.length)] {
                continue;
            }
            if self.length == LENGTH && MENDED.contains(&self.bits) {
                let before = begun.map_or(0, |begun| bytes[begun]);
                let both = u16::from_be_bytes([before, bytes[place]]);
                let [before, here] = (both & !(MASK << shift) | DASH << shift).to_be_bytes();
                // When the code lies in this byte alone, the one before stays the same.
                if let Some(begun) = begun {
                    bytes[begun] = before;
                }
                bytes[place] = here;
            }
            *self = Self::default();
        }
    }

    /// Whether the bits seen, of a code that goes on in the next byte, are the beginning of one to mend.
    pub(super) fn may_need_mending(&self) -> bool {
        let seen = |code| code >> (LENGTH - self.length) == self.bits;
        (1..LENGTH).contains(&self.length) && MENDED.into_iter().any(seen)
    }
}

/// `%` and `/`.
const MENDED: [u32; 2] = [0x15, 0x18];
/// `-`.
const DASH: u16 = 0x16;
/// All three are so long.
const LENGTH: u8 = 6;
const MASK: u16 = (1 << LENGTH) - 1;

/// How many codes there are of each length, EOS included.
const COUNTS: [u32; 31] =
    [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];

/// For each length: bits below this number are a whole code.
const ENDS: [u32; COUNTS.len()] = {
    let mut ends = [0; COUNTS.len()];
    let mut length = 1;
    while length < COUNTS.len() {
        ends[length] = ends[length - 1] * 2 + COUNTS[length];
        length += 1;
    }
    ends
};
