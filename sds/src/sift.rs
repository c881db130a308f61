//! Reduces a request to the fields that are read, while its bytes arrive.
//!
//! Every message of an Envoy carries 61 KB of `Node`, nearly all of it extensions that do not matter here. They are
//! skipped where they lie. The kept bytes are a valid message, too, of about 200 bytes, and that one is decoded. Once
//! a stream has sent its `Node`, later ones are skipped as a whole.
//!
//! - Kept are: the fields of the request; of the `Node` its build version and one entry of its metadata.
//! - A field of a nested message is kept as a nested message with that field alone: protobuf merges such messages
//!   again.

use std::ops::RangeInclusive;

use prost::encoding::{encode_varint, encoded_len_varint};

use crate::node::METADATA_KEY;
use crate::wire::Protocol;

/// One message whose bytes are arriving.
#[derive(Debug)]
pub(crate) struct Sift {
    stage: Stage,
    /// How many nested messages are open: the request, its node, the node's metadata.
    depth: usize,
    /// Bytes that each open message has left, without those of the nested one that is open.
    left: [u32; MAX_DEPTH],
    kept: Vec<u8>,
    /// Where in `kept` the last field begins.
    field_at: usize,
    /// The number of the field that holds the client's node, and of the last field that is read of the request.
    node: u8,
    last: u8,
    skip_node: bool,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Stage {
    /// A field's key: its number and wire type.
    Key(Varint),
    /// The value of a varint field.
    Value(Varint),
    /// The length of a field with this number.
    Length(u32, Varint),
    /// That many bytes are skipped.
    Skip(u32),
    /// That many bytes are kept.
    Keep(u32),
}

/// What happens to a length-delimited field.
enum Fate {
    Skip,
    Keep,
    Enter,
}

#[derive(Debug, Default)]
struct Varint {
    value: u64,
    bytes: u8,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SiftError {
    /// It is not a valid protobuf message.
    #[error("malformed discovery request: {0}")]
    Malformed(String),
    /// The kept fields are larger than any client needs.
    #[error("the discovery request has more than {KEPT_LIMIT} bytes beside its node")]
    TooMuch,
}

impl Sift {
    /// A message of `len` bytes. With `skip_node` its `Node` is skipped.
    pub(crate) fn new(len: u32, protocol: Protocol, skip_node: bool) -> Self {
        let (stage, left) = (Stage::key(), [len, 0, 0]);
        let (node, last) = match protocol {
            Protocol::Sotw => (2, 6),
            Protocol::Delta => (1, 7),
        };
        Self { stage, depth: 0, left, kept: Vec::new(), field_at: 0, node, last, skip_node }
    }

    /// Takes more bytes of the message. The caller never passes more than the message has left.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SiftError> {
        loop {
            bytes = self.skip_whole(bytes);
            if let Some(rest) = self.keep_whole(bytes) {
                bytes = rest;
                continue;
            }
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = match &mut self.stage {
                Stage::Skip(n) | Stage::Keep(n) if *n as usize > bytes.len() => {
                    *n -= u32::try_from(bytes.len()).expect("fewer than a u32");
                    self.keep(bytes);
                    return Ok(());
                }
                Stage::Skip(n) | Stage::Keep(n) => {
                    let (content, rest) = bytes.split_at(*n as usize);
                    self.keep(content);
                    self.drop_other_metadata();
                    self.stage = Stage::key();
                    rest
                }
                Stage::Key(varint) | Stage::Value(varint) | Stage::Length(_, varint) => {
                    let done = varint.push(byte)?;
                    self.take(1)?;
                    if done {
                        self.stage = self.after_varint()?;
                    }
                    rest
                }
            };
            self.close();
        }
    }

    /// Skips the fields at the beginning of `bytes` that are complete and not read: a `Node` has five hundred of them
    /// in a row. Returns the rest.
    fn skip_whole<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while matches!(self.stage, Stage::Key(Varint { bytes: 0, .. }))
            && let Some((field, len, head)) = short_field(bytes)
            && matches!(self.fate(field, len), Fate::Skip)
            && let Some((_, rest)) = bytes.split_at_checked(head + len as usize)
            && self.take(u32::try_from(bytes.len() - rest.len()).unwrap_or(u32::MAX)).is_ok()
        {
            bytes = rest;
            self.close();
        }
        bytes
    }

    /// Keeps the field at the beginning of `bytes` as it is, if it is complete and a kept field of the request
    /// itself. Returns the rest, or `None` if it did nothing.
    fn keep_whole<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let at_key = matches!(self.stage, Stage::Key(Varint { bytes: 0, .. }));
        let (field, len, head) = short_field(bytes).filter(|_| at_key && self.depth == REQUEST)?;
        let (whole, rest) = bytes.split_at_checked(head + len as usize)?;
        let kept = matches!(self.fate(field, len), Fate::Keep);
        if !kept || self.kept.len() + whole.len() + ENVELOPE > KEPT_LIMIT {
            return None;
        }
        self.take(u32::try_from(whole.len()).ok()?).ok()?;
        self.reserve();
        self.kept.extend_from_slice(whole);
        Some(rest)
    }

    /// Reserves room for all of a usual message at once.
    fn reserve(&mut self) {
        if self.kept.capacity() == 0 {
            self.kept.reserve(KEPT_USUAL);
        }
    }

    /// Bytes of memory that the kept fields take.
    pub(crate) fn kept(&self) -> usize {
        self.kept.capacity()
    }

    /// The kept fields as a message, after all bytes were fed.
    ///
    /// # Errors
    /// The message ends within a field.
    pub(crate) fn finish(self) -> Result<Vec<u8>, SiftError> {
        if self.depth > 0 || self.left[0] > 0 || !matches!(self.stage, Stage::Key(Varint { bytes: 0, .. })) {
            return Err(SiftError::truncated());
        }
        Ok(self.kept)
    }

    fn keep(&mut self, content: &[u8]) {
        if matches!(self.stage, Stage::Keep(_)) {
            self.kept.extend_from_slice(content);
        }
    }

    /// Drops the metadata entry that was just kept, unless it is the one that is read: a client may have thousands of
    /// others.
    fn drop_other_metadata(&mut self) {
        let is_read =
            |entry: &[u8]| entry.windows(METADATA_KEY.len()).any(|text| text == METADATA_KEY.as_bytes());
        let kept = matches!(self.stage, Stage::Keep(_)) && self.depth == IN_METADATA;
        if kept && !is_read(&self.kept[self.field_at..]) {
            self.kept.truncate(self.field_at);
        }
    }

    fn take(&mut self, bytes: u32) -> Result<(), SiftError> {
        let left = &mut self.left[self.depth];
        *left = left.checked_sub(bytes).ok_or_else(SiftError::truncated)?;
        Ok(())
    }

    /// Closes the nested messages that end here.
    fn close(&mut self) {
        while self.depth > 0
            && self.left[self.depth] == 0
            && matches!(self.stage, Stage::Key(Varint { bytes: 0, .. }))
        {
            self.depth -= 1;
        }
    }

    fn after_varint(&mut self) -> Result<Stage, SiftError> {
        match &self.stage {
            Stage::Key(key) => {
                let field = u32::try_from(key.value >> 3).ok().filter(|field| *field > 0);
                let field = field.ok_or_else(|| SiftError::Malformed("bad field number".into()))?;
                match key.value & 7 {
                    VARINT => Ok(Stage::Value(Varint::default())),
                    FIXED64 => self.skip(8),
                    LENGTH_DELIMITED => Ok(Stage::Length(field, Varint::default())),
                    FIXED32 => self.skip(4),
                    other => Err(SiftError::Malformed(format!("unexpected wire type {other}"))),
                }
            }
            Stage::Length(field, len) => {
                let len = u32::try_from(len.value).map_err(|_| SiftError::truncated())?;
                self.begin(*field, len)
            }
            Stage::Value(_) | Stage::Skip(_) | Stage::Keep(_) => Ok(Stage::key()),
        }
    }

    fn skip(&mut self, len: u32) -> Result<Stage, SiftError> {
        self.take(len)?;
        Ok(if len == 0 { Stage::key() } else { Stage::Skip(len) })
    }

    fn begin(&mut self, field: u32, len: u32) -> Result<Stage, SiftError> {
        match self.fate(field, len) {
            Fate::Skip => self.skip(len),
            Fate::Enter => {
                self.take(len)?;
                if self.depth == REQUEST {
                    // An empty node is kept in any case: that the request had one counts.
                    encode_varint(u64::from(self.node) << 3 | LENGTH_DELIMITED, &mut self.kept);
                    self.kept.push(0);
                }
                self.depth += 1;
                self.left[self.depth] = len;
                Ok(Stage::key())
            }
            Fate::Keep => {
                self.take(len)?;
                self.envelope(field, len)?;
                Ok(if len == 0 { Stage::key() } else { Stage::Keep(len) })
            }
        }
    }

    fn fate(&self, field: u32, len: u32) -> Fate {
        match (self.depth, field) {
            (REQUEST, field) if field == u32::from(self.node) => {
                if self.skip_node {
                    Fate::Skip
                } else {
                    Fate::Enter
                }
            }
            (REQUEST, field) if field <= u32::from(self.last) => Fate::Keep,
            (IN_NODE, METADATA) => Fate::Enter,
            (IN_NODE, BUILD_VERSION) => Fate::Keep,
            (IN_METADATA, FIELDS) if METADATA_ENTRY.contains(&len) => Fate::Keep,
            _ => Fate::Skip,
        }
    }

    /// Writes the keys and lengths before a kept field's content: its own, and those of the messages around it.
    fn envelope(&mut self, field: u32, len: u32) -> Result<(), SiftError> {
        if self.kept.len() + len as usize + ENVELOPE > KEPT_LIMIT {
            return Err(SiftError::TooMuch);
        }
        self.reserve();
        self.field_at = self.kept.len();
        let sized = |len: u64| 1 + encoded_len_varint(len) as u64 + len;
        let path: &[u32] = match self.depth {
            REQUEST => &[field],
            IN_NODE => &[u32::from(self.node), field],
            _ => &[u32::from(self.node), METADATA, field],
        };
        for (place, field) in path.iter().enumerate() {
            let nested = path.len() - 1 - place;
            let len = (0..nested).fold(u64::from(len), |len, _| sized(len));
            encode_varint(u64::from(field << 3) | LENGTH_DELIMITED, &mut self.kept);
            encode_varint(len, &mut self.kept);
        }
        Ok(())
    }
}

/// Reads the head of a length-delimited field whose key has one byte and whose length has one or two. Returns the
/// field's number, its length, and the length of the head.
fn short_field(bytes: &[u8]) -> Option<(u32, u32, usize)> {
    let (&key, rest) = bytes.split_first()?;
    if !(0x08..0x80).contains(&key) || u64::from(key & 7) != LENGTH_DELIMITED {
        return None;
    }
    let (len, head) = match *rest {
        [len, ..] if len < 0x80 => (u32::from(len), 2),
        [low, high, ..] if high < 0x80 => (u32::from(low & 0x7f) | u32::from(high) << 7, 3),
        _ => return None,
    };
    Some((u32::from(key >> 3), len, head))
}

impl Stage {
    fn key() -> Self {
        Self::Key(Varint::default())
    }
}

impl SiftError {
    fn truncated() -> Self {
        Self::Malformed("a field is longer than what it is in".into())
    }
}

impl Varint {
    /// Adds a byte. Returns whether it was the last.
    fn push(&mut self, byte: u8) -> Result<bool, SiftError> {
        if self.bytes == 9 && byte > 1 {
            return Err(SiftError::Malformed("invalid varint".into()));
        }
        self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
        self.bytes += 1;
        Ok(byte < 0x80)
    }
}

const MAX_DEPTH: usize = 3;
const REQUEST: usize = 0;
const IN_NODE: usize = 1;
const IN_METADATA: usize = 2;
/// Field numbers: `Node.metadata`, `Node.user_agent_build_version`, `Struct.fields`.
const METADATA: u32 = 3;
const BUILD_VERSION: u32 = 8;
const FIELDS: u32 = 1;
/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;
/// Bytes that the entry with [`METADATA_KEY`] can have: the key, and a bool or its text.
const METADATA_ENTRY: RangeInclusive<u32> = 32..=64;
/// The most bytes before a kept field's content.
const ENVELOPE: usize = 18;
/// Bytes that are kept of a usual message of Envoy.
const KEPT_USUAL: usize = 256;
/// The most bytes that are kept of one message: room for dozens of the longest SPIFFE IDs.
pub(crate) const KEPT_LIMIT: usize = 64 * 1024;
