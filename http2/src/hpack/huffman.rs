//! The Huffman code of string literals (RFC 7541 §5.2, Appendix B).
//!
//! The code is canonical: in the order of length, then of symbol, the codes are consecutive numbers. So the lengths
//! alone define the code. Codes of up to 8 bits, which make up almost all headers, are looked up by the next byte.
//! For longer codes the length is found first, then the place among the codes of that length.

use super::HpackError;

/// Appends the decoded text of `coded` to `out`.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    // No code is shorter than 5 bits.
    out.reserve(coded.len() * 8 / 5);
    let mut bits = Bits { rest: coded, held: 0, count: 0 };
    loop {
        while let Some((symbol, length)) = bits.short() {
            out.push(symbol);
            bits.skip(length);
        }
        if bits.refill() {
            continue;
        }
        let window = bits.window();
        let (symbol, length) = CODE.first(window);
        if length > bits.count {
            return bits.padding();
        }
        out.push(symbol.ok_or(HpackError::HuffmanEos)?);
        bits.skip(length);
    }
}

/// The bits that are not decoded yet.
struct Bits<'c> {
    rest: &'c [u8],
    /// The next bits, left-aligned, with zeros behind them.
    held: u64,
    /// How many bits `held` has.
    count: u32,
}

impl Bits<'_> {
    /// Takes more bits into `held`. False when nothing was taken: more than 32 bits are held, or none are left.
    fn refill(&mut self) -> bool {
        if self.count > 32 || self.rest.is_empty() {
            return false;
        }
        if let Some((bytes, rest)) = self.rest.split_first_chunk() {
            self.held |= u64::from(u32::from_be_bytes(*bytes)) << (32 - self.count);
            self.count += 32;
            self.rest = rest;
            return true;
        }
        for byte in std::mem::take(&mut self.rest) {
            self.held |= u64::from(*byte) << (56 - self.count);
            self.count += 8;
        }
        true
    }

    /// The symbol whose code the next byte begins with, and the code's length. `None` when the code is longer than 8
    /// bits or less than a whole byte is held.
    fn short(&self) -> Option<(u8, u32)> {
        let (symbol, length) = CODE.short[(self.held >> 56) as usize];
        (self.count >= 8 && length > 0).then_some((symbol, length.into()))
    }

    /// The next 32 bits. Those beyond the end are ones, as padding is.
    fn window(&self) -> u32 {
        let behind = u64::MAX.checked_shr(self.count).unwrap_or(0);
        ((self.held | behind) >> 32) as u32
    }

    fn skip(&mut self, length: u32) {
        self.held <<= length;
        self.count -= length;
    }

    /// Checks the bits at the end of a string, which are no whole code.
    fn padding(&self) -> Result<(), HpackError> {
        match (self.window(), self.count) {
            (u32::MAX, 0..8) => Ok(()),
            (u32::MAX, _) => Err(HpackError::HuffmanPaddingTooLong),
            _ => Err(HpackError::HuffmanPaddingNotEos),
        }
    }
}

/// Tables for decoding, built from the lengths of the codes.
pub(super) struct Code {
    /// By the next byte: the symbol and its code's length, which is 0 when the code is longer than 8 bits.
    short: [(u8, u8); 256],
    /// All symbols in the order of their codes, without EOS, which is the last.
    symbols: [u8; EOS],
    /// By length: the first code of that length, left-aligned in 32 bits. If there is none, the first of the next
    /// longer one.
    first: [u32; LONGEST + 1],
    /// By length: how many symbols have a shorter code.
    before: [u16; LONGEST + 1],
}

impl Code {
    /// The symbol whose code `window` begins with, and the code's length. The symbol is `None` for EOS.
    fn first(&self, window: u32) -> (Option<u8>, u32) {
        let (symbol, length) = self.short[usize::from(window.to_be_bytes()[0])];
        if length > 0 {
            return (Some(symbol), length.into());
        }
        self.long(window)
    }

    fn long(&self, window: u32) -> (Option<u8>, u32) {
        let length = (SHORT + 1..LONGEST).find(|length| window < self.first[length + 1]).unwrap_or(LONGEST);
        let place = (window - self.first[length]) >> (32 - length);
        let symbol = self.symbols.get(usize::from(self.before[length]) + place as usize);
        (symbol.copied(), length as u32)
    }

    /// Called in a constant only, so that its speed does not matter.
    const fn new() -> Self {
        let mut code = Self {
            short: [(0, 0); 256],
            symbols: [0; EOS],
            first: [0; LONGEST + 1],
            before: [0; LONGEST + 1],
        };
        // `next` has 64 bits, because 2^32 comes after the last code.
        let (mut next, mut placed, mut length) = (0_u64, 0, 1);
        while length <= LONGEST {
            code.first[length] = next as u32;
            code.before[length] = placed as u16;
            let mut symbol = 0;
            while symbol <= EOS {
                if LENGTHS[symbol] as usize == length {
                    if symbol < EOS {
                        code.symbols[placed] = symbol as u8;
                    }
                    let mut byte = (next >> 24) as usize;
                    next += 1 << (32 - length);
                    while length <= SHORT && byte < (next >> 24) as usize {
                        code.short[byte] = (symbol as u8, length as u8);
                        byte += 1;
                    }
                    placed += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        assert!(placed == LENGTHS.len() && next == 1 << 32, "the code has a meaning for all bits");
        code
    }

    #[cfg(test)]
    pub(super) fn code(&self, symbol: u8) -> (u32, u32) {
        let length = usize::from(LENGTHS[usize::from(symbol)]);
        let place = self.symbols.iter().position(|other| *other == symbol).expect("each symbol has a code");
        let place = u32::try_from(place).expect("of 256") - u32::from(self.before[length]);
        let length = u32::from(LENGTHS[usize::from(symbol)]);
        ((self.first[length as usize] >> (32 - length)) + place, length)
    }
}

pub(super) static CODE: Code = Code::new();

const EOS: usize = 256;
const LONGEST: usize = 30;
const SHORT: usize = 8;

/// The length in bits of each symbol's code, EOS last (RFC 7541, Appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];
