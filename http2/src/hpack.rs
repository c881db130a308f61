//! Header compression (RFC 7541), the receiving side.
//!
//! A block is read once, from front to back. What it says by index is handed out from the tables; what it spells out is
//! handed out from the block, or from a scratch that lives as long as the block when it is in Huffman code. So between
//! blocks a decoder is its dynamic table, and nothing before the peer has put something there.

mod huffman;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use table::Table;

/// Reads the header blocks of one connection, each of which may use what those before it have put into the table.
pub struct Decoder {
    table: Table,
    /// What a size update may ask for.
    limit: usize,
}

/// Why a header block cannot be read; nor can any after it, for the peer's table is no longer known (RFC 9113 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends within a field (§5, §6).
    #[error("the header block ends within a field")]
    Truncated,
    /// An integer is longer than any that makes sense here (§5.1).
    #[error("an integer in the header block is too large")]
    IntegerOverflow,
    /// The index of no entry (§6.1).
    #[error("a header field has index 0")]
    IndexZero,
    /// An index beyond both tables (§2.3.3).
    #[error("a header field has an index beyond the tables")]
    IndexBeyondTables,
    /// The table's size changes after a field (§4.2).
    #[error("a dynamic table size update comes after a header field")]
    LateSizeUpdate,
    /// The table is to have more than was allowed (§6.3).
    #[error("a dynamic table size update is above the limit")]
    SizeUpdateAboveLimit,
    /// The end of a string is spelled out (§5.2).
    #[error("a string in Huffman code has the EOS symbol")]
    HuffmanEos,
    /// A string is padded by a byte or more (§5.2).
    #[error("a string in Huffman code has padding longer than 7 bits")]
    HuffmanPaddingTooLong,
    /// A string ends with what is neither a symbol nor the beginning of EOS (§5.2).
    #[error("a string in Huffman code has padding other than the beginning of EOS")]
    HuffmanPaddingNotEos,
}

impl Decoder {
    /// A decoder whose dynamic table may have up to `limit` bytes (§4.1): what SETTINGS_HEADER_TABLE_SIZE has told the
    /// peer before its first block, or 4,096.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        // More than the initial size the peer has to ask for.
        Self { table: Table::new(limit.min(INITIAL_SIZE)), limit }
    }

    /// Decodes one whole header block; `field` is called for each field line in order, with name and value. It has been
    /// called for those before an error, too. A field that the table takes in is copied there, unless its name is given by
    /// index: that is shared. Others are not copied.
    ///
    /// # Errors
    /// [`HpackError`]: the connection cannot go on (COMPRESSION_ERROR).
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), HpackError> {
        let mut input = Input { rest: block, scratch: Vec::new() };
        while let Some(TABLE_SIZE..LITERAL_INDEXED) = input.rest.first() {
            self.resize(input.integer(5)?)?;
        }
        while let Some(first) = input.rest.first() {
            match first {
                INDEXED.. => {
                    let (name, value) = self.table.field(input.integer(7)?)?;
                    field(name, value);
                }
                LITERAL_INDEXED.. => {
                    let (index, name, value) = input.literal(6, &self.table)?;
                    field(name, value);
                    // Made before others are evicted, for the name may be one of theirs (§4.4).
                    match self.table.entry(index, name, value) {
                        Some(entry) => self.table.insert(entry),
                        None => self.table.clear(),
                    }
                }
                TABLE_SIZE.. => return Err(HpackError::LateSizeUpdate),
                _ => {
                    let (_, name, value) = input.literal(4, &self.table)?;
                    field(name, value);
                }
            }
        }
        Ok(())
    }

    /// The size of the dynamic table, as RFC 7541 §4.1 counts it.
    #[must_use]
    pub fn table_len(&self) -> usize {
        self.table.size()
    }

    /// Bytes that the dynamic table takes, with what the allocator adds.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.table.kept()
    }

    fn resize(&mut self, capacity: usize) -> Result<(), HpackError> {
        if capacity > self.limit {
            return Err(HpackError::SizeUpdateAboveLimit);
        }
        self.table.resize(capacity);
        Ok(())
    }
}

/// Without the fields: they may be secrets.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, limit } = self;
        f.debug_struct("Decoder").field("table", table).field("limit", limit).finish()
    }
}

/// What is left of a block.
struct Input<'b> {
    rest: &'b [u8],
    /// What Huffman code stands for, of the literal at hand.
    scratch: Vec<u8>,
}

impl<'b> Input<'b> {
    /// A literal field line (§6.2), whose name's index has a prefix of so many bits: that index, name and value.
    fn literal<'s>(
        &'s mut self,
        prefix_bits: u8,
        table: &'s Table,
    ) -> Result<(usize, &'s [u8], &'s [u8]), HpackError> {
        self.scratch.clear();
        let index = self.integer(prefix_bits)?;
        let name = match index {
            0 => Name::Spelled(self.text()?),
            _ => Name::Indexed(table.field(index)?.0),
        };
        let value = self.text()?;
        let name = match name {
            Name::Spelled(text) => text.of(&self.scratch),
            Name::Indexed(name) => name,
        };
        Ok((index, name, value.of(&self.scratch)))
    }

    /// A string literal (§5.2).
    fn text(&mut self) -> Result<Text<'b>, HpackError> {
        let huffman = self.rest.first().is_some_and(|first| first & 0x80 != 0);
        let len = self.integer(7)?;
        let (text, rest) = self.rest.split_at_checked(len).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        if !huffman {
            return Ok(Text::Plain(text));
        }
        let start = self.scratch.len();
        huffman::decode(text, &mut self.scratch)?;
        Ok(Text::Decoded(start..self.scratch.len()))
    }

    /// An integer after a prefix (§5.1).
    fn integer(&mut self, prefix_bits: u8) -> Result<usize, HpackError> {
        let all_ones = u8::MAX >> (8 - prefix_bits);
        let prefix = self.byte()? & all_ones;
        let mut value = usize::from(prefix);
        if prefix < all_ones {
            return Ok(value);
        }
        for shift in (0..=MAX_SHIFT).step_by(7) {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::IntegerOverflow)
    }

    fn byte(&mut self) -> Result<u8, HpackError> {
        let (byte, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }
}

enum Name<'s, 'b> {
    Spelled(Text<'b>),
    Indexed(&'s [u8]),
}

enum Text<'b> {
    Plain(&'b [u8]),
    /// Where in the scratch.
    Decoded(Range<usize>),
}

impl<'b> Text<'b> {
    fn of<'s>(self, scratch: &'s [u8]) -> &'s [u8]
    where
        'b: 's,
    {
        match self {
            Self::Plain(text) => text,
            Self::Decoded(range) => &scratch[range],
        }
    }
}

/// The first bytes of the representations (§6), from which on they are those.
const INDEXED: u8 = 0x80;
const LITERAL_INDEXED: u8 = 0x40;
const TABLE_SIZE: u8 = 0x20;
/// Of an integer's last byte: 28 bits are more than any frame's length.
const MAX_SHIFT: u8 = 21;
/// RFC 9113 §6.5.2.
const INITIAL_SIZE: usize = 4096;
