//! Finds the values of `:authority` in header blocks (HPACK, RFC 7541).
//!
//! Nothing is decoded that need not be. Of the dynamic table one bit per entry is kept: does its name read
//! `:authority`? An index counts insertions backwards, whatever was evicted meanwhile, so no sizes are needed either.

use std::ops::Range;

use super::frames::{MAX_APART, Malformed};
use super::huffman;

/// The fields of one connection's header blocks.
#[derive(Debug, Default)]
pub(super) struct Fields {
    state: State,
    /// The field at hand goes into the dynamic table.
    insert: bool,
    /// The field at hand is `:authority`.
    authority: bool,
    /// The dynamic table, newest entry in the lowest bit. The server's SETTINGS leave the table at 4,096 bytes, and an
    /// entry takes at least 32, so an index beyond these bits cannot be valid.
    table: u128,
    /// The byte in which the Huffman code at hand began, while this code may still turn out to need mending.
    undecided: Option<usize>,
}

impl Fields {
    pub(super) fn begin_block(&mut self) {
        self.state = State::Field;
    }

    pub(super) fn end_block(&mut self) -> Result<(), Malformed> {
        if matches!(self.state, State::Field) { Ok(()) } else { Err(Malformed) }
    }

    /// The first byte that may still be changed.
    pub(super) fn undecided(&self) -> Option<usize> {
        self.undecided
    }

    /// That byte will be the first one of the next call.
    pub(super) fn rebase(&mut self) {
        self.undecided = self.undecided.and(Some(0));
    }

    /// Walks some of the bytes from `at` up to `end`, which is not before `at`, and returns where it came to.
    pub(super) fn step(&mut self, bytes: &mut [u8], at: usize, end: usize) -> Result<usize, Malformed> {
        match self.state {
            State::Field => self.field(bytes[at])?,
            State::Integer { of, value, shift } => self.integer(bytes[at], of, value, shift)?,
            State::Length(text) => {
                let of = Integer::Length { of: text, huffman: bytes[at] & 0x80 != 0 };
                self.begin_integer(of, bytes[at], 7)?;
            }
            State::Name { left, huffman } => {
                let taken = end.min(at + left as usize);
                self.name(&bytes[at..taken], left, huffman);
                return Ok(taken);
            }
            State::Value { left, .. } => {
                let taken = end.min(at + left as usize);
                self.value(bytes, at..taken)?;
                return Ok(taken);
            }
        }
        Ok(at + 1)
    }

    fn field(&mut self, byte: u8) -> Result<(), Malformed> {
        let (of, prefix_bits) = match byte {
            0x80.. => (Integer::Index, 7),
            0x40.. => (Integer::NameIndex, 6),
            0x20.. => (Integer::TableSize, 5),
            _ => (Integer::NameIndex, 4),
        };
        self.insert = prefix_bits == 6;
        self.begin_integer(of, byte, prefix_bits)
    }

    fn integer(&mut self, byte: u8, of: Integer, value: u32, shift: u8) -> Result<(), Malformed> {
        if shift > MAX_SHIFT {
            return Err(Malformed);
        }
        let value = value + (u32::from(byte & 0x7f) << shift);
        if byte & 0x80 == 0 {
            return self.end_integer(of, value);
        }
        self.state = State::Integer { of, value, shift: shift + 7 };
        Ok(())
    }

    fn name(&mut self, part: &[u8], left: u32, huffman: bool) {
        if self.authority {
            let name = authority(huffman);
            let seen = name.len() - left as usize;
            self.authority = name[seen..].starts_with(part);
        }
        let left = left - length_of(part);
        self.state = if left == 0 { State::Length(Text::Value) } else { State::Name { left, huffman } };
    }

    fn value(&mut self, bytes: &mut [u8], part: Range<usize>) -> Result<(), Malformed> {
        let State::Value { left, coding } = &mut self.state else { return Err(Malformed) };
        *left -= length_of(&bytes[part.clone()]);
        match coding {
            Coding::Foreign => {}
            Coding::Plain => mend_plain(&mut bytes[part]),
            Coding::Huffman(_) if self.undecided.is_some_and(|begun| part.start - begun > MAX_APART) => {
                return Err(Malformed);
            }
            Coding::Huffman(code) => {
                for place in part {
                    code.mend(bytes, self.undecided, place);
                    self.undecided = code.may_need_mending().then_some(place);
                }
            }
        }
        if *left == 0 {
            self.undecided = None;
            self.state = State::Field;
        }
        Ok(())
    }

    fn begin_integer(&mut self, of: Integer, byte: u8, prefix_bits: u8) -> Result<(), Malformed> {
        let all_ones = (1 << prefix_bits) - 1;
        let prefix = byte & all_ones;
        if prefix == all_ones {
            self.state = State::Integer { of, value: prefix.into(), shift: 0 };
            return Ok(());
        }
        self.end_integer(of, prefix.into())
    }

    fn end_integer(&mut self, of: Integer, value: u32) -> Result<(), Malformed> {
        self.state = match of {
            Integer::Index | Integer::TableSize => State::Field,
            Integer::NameIndex if value == 0 => State::Length(Text::Name),
            Integer::NameIndex => {
                self.authority = self.is_authority(value)?;
                State::Length(Text::Value)
            }
            Integer::Length { of: Text::Name, huffman } => {
                self.authority = value as usize == authority(huffman).len();
                if value == 0 { State::Length(Text::Value) } else { State::Name { left: value, huffman } }
            }
            Integer::Length { of: Text::Value, huffman } => {
                if self.insert {
                    self.table = self.table << 1 | u128::from(self.authority);
                }
                let coding = match (self.authority, huffman) {
                    (false, _) => Coding::Foreign,
                    (true, false) => Coding::Plain,
                    (true, true) => Coding::Huffman(huffman::Code::default()),
                };
                if value == 0 { State::Field } else { State::Value { left: value, coding } }
            }
        };
        Ok(())
    }

    fn is_authority(&self, index: u32) -> Result<bool, Malformed> {
        match index {
            STATIC_AUTHORITY => Ok(true),
            ..FIRST_DYNAMIC => Ok(false),
            FIRST_DYNAMIC.. => {
                let newest_first = self.table.checked_shr(index - FIRST_DYNAMIC).ok_or(Malformed)?;
                Ok(newest_first & 1 == 1)
            }
        }
    }
}

fn authority(huffman: bool) -> &'static [u8] {
    if huffman { AUTHORITY_CODED } else { AUTHORITY }
}

fn length_of(part: &[u8]) -> u32 {
    u32::try_from(part.len()).expect("not more than was left of the literal")
}

fn mend_plain(value: &mut [u8]) {
    for byte in value {
        if matches!(byte, b'%' | b'/') {
            *byte = b'-';
        }
    }
}

/// What comes next in a header block.
#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Field,
    /// The bytes of an integer after its first.
    Integer {
        of: Integer,
        value: u32,
        shift: u8,
    },
    /// The length of a string literal.
    Length(Text),
    Name {
        left: u32,
        huffman: bool,
    },
    Value {
        left: u32,
        coding: Coding,
    },
}

#[derive(Debug, Clone, Copy)]
enum Integer {
    Index,
    NameIndex,
    TableSize,
    Length { of: Text, huffman: bool },
}

#[derive(Debug, Clone, Copy)]
enum Text {
    Name,
    Value,
}

#[derive(Debug, Clone, Copy)]
enum Coding {
    /// Of another field: nothing is mended.
    Foreign,
    Plain,
    Huffman(huffman::Code),
}

const STATIC_AUTHORITY: u32 = 1;
const FIRST_DYNAMIC: u32 = 62;
/// Of an integer's last byte; a longer one does not fit into 32 bits.
const MAX_SHIFT: u8 = 21;
const AUTHORITY: &[u8] = b":authority";
/// The same in Huffman code, of which there is but one spelling.
pub(super) const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
