//! A reader of DER (X.690 §10), as strict as Go's `cryptobyte`: one-byte tags, shortest lengths.

use std::borrow::Cow;

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

/// A tag with its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    /// Tag and length too.
    pub(super) raw: &'a [u8],
}

/// The content of a BIT STRING.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits<'a> {
    /// Bits of the last byte that do not count; they are zero.
    unused: u8,
    pub(super) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(der: &'a [u8]) -> Self {
        Self(der)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_next(self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The next element, whatever it is. `None` when there is none, or it is malformed.
    pub(super) fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = digits.iter().fold(0u32, |sum, digit| sum << 8 | u32::from(*digit));
                if length < 0x80 || digits.first() == Some(&0) {
                    return None;
                }
                (usize::try_from(length).ok()?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let raw = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some(Element { tag, content, raw })
    }

    pub(super) fn element(&mut self, tag: u8) -> Option<Element<'a>> {
        self.any().filter(|element| element.tag == tag)
    }

    pub(super) fn content(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element(tag).map(|element| element.content)
    }

    /// What is within the next element, which has this tag.
    pub(super) fn within(&mut self, tag: u8) -> Option<Self> {
        self.content(tag).map(Self)
    }

    /// The same, where it may be absent.
    pub(super) fn optional(&mut self, tag: u8) -> Option<Option<Self>> {
        if self.is_next(tag) { self.within(tag).map(Some) } else { Some(None) }
    }

    /// The bytes of an INTEGER, as few as its two's complement needs.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        self.content(INTEGER).filter(|bytes| is_integer(bytes))
    }

    /// An INTEGER under this tag, as Go's `int64` holds it.
    pub(super) fn int64(&mut self, tag: u8) -> Option<i64> {
        int64(self.content(tag)?)
    }

    pub(super) fn boolean(&mut self) -> Option<bool> {
        match self.content(BOOLEAN)? {
            [0] => Some(false),
            [0xff] => Some(true),
            _ => None,
        }
    }

    pub(super) fn bits(&mut self) -> Option<Bits<'a>> {
        let (&unused, bytes) = self.content(BIT_STRING)?.split_first()?;
        let padding = bytes.last().copied().unwrap_or_default() & low_bits(unused)?;
        (padding == 0 && (unused == 0 || !bytes.is_empty())).then_some(Bits { unused, bytes })
    }

    /// An OBJECT IDENTIFIER, of which every number is below 2³¹.
    pub(super) fn oid(&mut self) -> Option<&'a [u8]> {
        let oid = self.content(OID)?;
        let mut numbers = oid.split_inclusive(|byte| byte & 0x80 == 0);
        numbers.all(is_number_31).then_some(oid).filter(|oid| !oid.is_empty())
    }
}

impl<'a> Bits<'a> {
    /// Whether the bit with this number, counted from the front, is there and set.
    pub(super) fn is_set(self, bit: usize) -> bool {
        self.bytes.get(bit / 8).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0)
    }

    /// The bits as a number.
    pub(super) fn right_aligned(self) -> Cow<'a, [u8]> {
        if self.unused == 0 {
            return Cow::Borrowed(self.bytes);
        }
        let above = std::iter::once(0).chain(self.bytes.iter().copied());
        let shifted = self.bytes.iter().zip(above);
        Cow::Owned(shifted.map(|(byte, above)| byte >> self.unused | above << (8 - self.unused)).collect())
    }
}

pub(super) fn is_integer(bytes: &[u8]) -> bool {
    match bytes {
        [] => false,
        [0, next, ..] => next & 0x80 != 0,
        [0xff, next, ..] => next & 0x80 == 0,
        _ => true,
    }
}

fn int64(bytes: &[u8]) -> Option<i64> {
    if !is_integer(bytes) || bytes.len() > 8 {
        return None;
    }
    let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1 };
    Some(bytes.iter().fold(sign, |sum, byte| sum << 8 | i64::from(*byte)))
}

/// Whether a variable-length number of an identifier is below 2³¹ and as short as can be.
fn is_number_31(bytes: &[u8]) -> bool {
    let short = bytes.len() < 5 || bytes.len() == 5 && bytes[0] & 0x7f < 8;
    short && bytes.first() != Some(&0x80) && bytes.last().is_some_and(|last| last & 0x80 == 0)
}

fn low_bits(count: u8) -> Option<u8> {
    (count <= 7).then(|| (1 << count) - 1)
}

pub(super) const BOOLEAN: u8 = 1;
pub(super) const INTEGER: u8 = 2;
pub(super) const BIT_STRING: u8 = 3;
pub(super) const OCTET_STRING: u8 = 4;
pub(super) const NULL: &[u8] = &[5, 0];
pub(super) const OID: u8 = 6;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// A context-specific tag of a primitive value.
pub(super) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// A context-specific tag of a constructed value.
pub(super) const fn constructed(number: u8) -> u8 {
    0xa0 | number
}
