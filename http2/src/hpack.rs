//! Header compression (RFC 7541), the receiving side.
//!
//! A block is read once, from front to back. Indexed fields are handed out from the tables. Literal ones are handed
//! out from the block, or, if in Huffman code, from a scratch buffer that lives as long as the block. So between two
//! blocks a decoder holds only its dynamic table, which allocates nothing until the peer adds an entry.

mod huffman;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

use table::Table;

/// Reads the header blocks of one connection. Each may refer to entries that earlier blocks have added to the table.
pub struct Decoder {
    table: Table,
    /// The largest size that a dynamic table size update may ask for, in bytes.
    limit: usize,
}

/// Why a header block cannot be decoded. No later block of the connection can be decoded either, because the peer's
/// table is no longer known (RFC 9113 §4.3). Sections below are those of RFC 7541.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends within a field (§5, §6).
    #[error("the header block ends within a field")]
    Truncated,
    /// An integer is larger than any that makes sense here (§5.1).
    #[error("an integer in the header block is too large")]
    IntegerOverflow,
    /// A field has index 0, which names no entry (§6.1).
    #[error("a header field has index 0")]
    IndexZero,
    /// A field has an index beyond both tables (§2.3.3).
    #[error("a header field has an index beyond the tables")]
    IndexBeyondTables,
    /// A size update comes after a field (§4.2).
    #[error("a dynamic table size update comes after a header field")]
    LateSizeUpdate,
    /// A size update asks for more than the decoder allows (§6.3).
    #[error("a dynamic table size update is above the limit")]
    SizeUpdateAboveLimit,
    /// A string contains the EOS symbol (§5.2).
    #[error("a string in Huffman code has the EOS symbol")]
    HuffmanEos,
    /// A string has a byte or more of padding (§5.2).
    #[error("a string in Huffman code has padding longer than 7 bits")]
    HuffmanPaddingTooLong,
    /// A string ends with bits that are neither a symbol nor the beginning of EOS (§5.2).
    #[error("a string in Huffman code has padding other than the beginning of EOS")]
    HuffmanPaddingNotEos,
}

impl Decoder {
    /// A decoder whose dynamic table may have up to `limit` bytes (§4.1): the SETTINGS_HEADER_TABLE_SIZE that the
    /// peer was told before its first block, or 4,096.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        // A larger table than the initial one begins only when the peer asks for it.
        Self { table: Table::new(limit.min(INITIAL_SIZE)), limit }
    }

    /// Decodes one whole header block. It calls `field` with the name and value of each field line, in order; also
    /// for those before an error. A field that the table takes in is copied there, but a name given by index is
    /// shared with the entry that it comes from. Other fields are not copied.
    ///
    /// # Errors
    /// [`HpackError`]: the connection must end with COMPRESSION_ERROR.
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
                    // The entry is made before others are evicted, because its name may be one of theirs (§4.4).
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

    /// Bytes of memory that the dynamic table takes, with what the allocator adds.
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

/// Leaves the fields out, because they may hold secrets.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, limit } = self;
        f.debug_struct("Decoder").field("table", table).field("limit", limit).finish()
    }
}

/// The rest of a block.
struct Input<'b> {
    rest: &'b [u8],
    /// The decoded Huffman strings of the current literal.
    scratch: Vec<u8>,
}

impl<'b> Input<'b> {
    /// Reads a literal field line (§6.2), whose name index has a prefix of `prefix_bits` bits. Returns that index,
    /// which is 0 for a name that is spelled out, the name and the value.
    fn literal<'s>(
        &'s mut self,
        prefix_bits: u8,
        table: &'s Table,
    ) -> Result<(usize, &'s [u8], &'s [u8]), HpackError> {
        self.scratch.clear();
        let index = self.integer(prefix_bits)?;
        let name = match index {
            0 => FieldName::Spelled(self.text()?),
            _ => FieldName::Indexed(table.field(index)?.0),
        };
        let value = self.text()?;
        let name = match name {
            FieldName::Spelled(text) => text.of(&self.scratch),
            FieldName::Indexed(name) => name,
        };
        Ok((index, name, value.of(&self.scratch)))
    }

    /// Reads a string literal (§5.2).
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

    /// Reads an integer with a prefix of `prefix_bits` bits (§5.1).
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

enum FieldName<'s, 'b> {
    Spelled(Text<'b>),
    Indexed(&'s [u8]),
}

enum Text<'b> {
    Plain(&'b [u8]),
    /// The text's place in [`Input::scratch`].
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

/// The lowest first byte of each representation (§6).
const INDEXED: u8 = 0x80;
const LITERAL_INDEXED: u8 = 0x40;
const TABLE_SIZE: u8 = 0x20;
/// The shift of an integer's last byte: 28 bits are more than any frame's length.
const MAX_SHIFT: u8 = 21;
/// The initial SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2).
const INITIAL_SIZE: usize = 4096;
