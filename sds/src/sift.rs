//! Picks out of a DiscoveryRequest, while its bytes arrive, what is read of it.
//!
//! Every message of an Envoy carries 61 KB of `Node`, nearly all of it extensions, and nothing of them matters here. So
//! they are passed over where they lie: what is kept of a message is a valid message too, of about 200 bytes, and that one is
//! decoded. Of a stream that has said who it is, the whole `Node` is passed over.
//!
//! - kept: the fields of the request; of the `Node` its build version and the one entry of its metadata that is read;
//! - a field of a nested message is kept as a nested message with that field alone: protobuf merges them again.

use std::ops::RangeInclusive;

use prost::encoding::{encode_varint, encoded_len_varint};

use crate::node::METADATA_KEY;

/// One message on its way in.
#[derive(Debug)]
pub(crate) struct Sift {
    stage: Stage,
    /// The messages that are open: the request, its node, the node's metadata.
    depth: usize,
    /// Bytes that each of them has left, but for those of a nested one that is open.
    left: [u32; MOST_NESTED],
    kept: Vec<u8>,
    /// Where in `kept` the last field begins.
    field_at: usize,
    skip_node: bool,
}

/// What the next byte is of.
#[derive(Debug)]
enum Stage {
    /// A field's number and wire type.
    Key(Varint),
    /// The value of a varint field.
    Value(Varint),
    /// The length of a field with this number.
    Length(u32, Varint),
    /// Bytes to be passed over.
    Skip(u32),
    /// Bytes to be kept.
    Keep(u32),
}

/// What is to become of a length-delimited field.
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
    /// Not protobuf, or not this message.
    #[error("malformed DiscoveryRequest: {0}")]
    Malformed(String),
    /// More than anybody needs.
    #[error("DiscoveryRequest has more than {KEPT_LIMIT} bytes beside its node")]
    TooMuch,
}

impl Sift {
    /// A message of this many bytes; its `Node` may be known already.
    pub(crate) fn new(len: u32, skip_node: bool) -> Self {
        Self { stage: Stage::key(), depth: 0, left: [len, 0, 0], kept: Vec::new(), field_at: 0, skip_node }
    }

    /// Takes more of the message; never more than there is of it.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SiftError> {
        loop {
            bytes = self.pass_over(bytes);
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

    /// Leaves out the fields at the beginning of `bytes` that lie there whole and of which nothing is read: a `Node` has
    /// five hundred of them in a row.
    fn pass_over<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
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

    /// Keeps the field at the beginning of `bytes` as it lies there, where it is one of the request's own. What is left.
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

    /// For all of a usual message at once.
    fn reserve(&mut self) {
        if self.kept.capacity() == 0 {
            self.kept.reserve(KEPT_USUAL);
        }
    }

    /// Bytes that are kept so far.
    pub(crate) fn kept(&self) -> usize {
        self.kept.capacity()
    }

    /// What was kept, once all of the message has been fed: a message too.
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

    /// Of the metadata one entry is read, and whoever has thousands may have them.
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

    /// Leaves the messages that end here.
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
                    // That there was a node counts, whatever is in it.
                    self.kept.extend([NODE_KEY, 0]);
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
            (REQUEST, NODE) if self.skip_node => Fate::Skip,
            (REQUEST, NODE) | (IN_NODE, METADATA) => Fate::Enter,
            (REQUEST, 1 | 3..=6) | (IN_NODE, BUILD_VERSION) => Fate::Keep,
            (IN_METADATA, FIELDS) if METADATA_ENTRY.contains(&len) => Fate::Keep,
            _ => Fate::Skip,
        }
    }

    /// Writes what stands before the content of a kept field: its own key and length, and those of what it is nested in.
    fn envelope(&mut self, field: u32, len: u32) -> Result<(), SiftError> {
        if self.kept.len() + len as usize + ENVELOPE > KEPT_LIMIT {
            return Err(SiftError::TooMuch);
        }
        self.reserve();
        self.field_at = self.kept.len();
        let sized = |len: u64| 1 + encoded_len_varint(len) as u64 + len;
        let path: &[u32] = match self.depth {
            REQUEST => &[field],
            IN_NODE => &[NODE, field],
            _ => &[NODE, METADATA, field],
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

/// A length-delimited field whose key has one byte and its length one or two: number, length, bytes of both.
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
    /// Whether this was its last byte.
    fn push(&mut self, byte: u8) -> Result<bool, SiftError> {
        if self.bytes == 9 && byte > 1 {
            return Err(SiftError::Malformed("invalid varint".into()));
        }
        self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
        self.bytes += 1;
        Ok(byte < 0x80)
    }
}

const MOST_NESTED: usize = 3;
const REQUEST: usize = 0;
const IN_NODE: usize = 1;
const IN_METADATA: usize = 2;
/// Field numbers: `DiscoveryRequest.node`, `Node.metadata`, `Node.user_agent_build_version`, `Struct.fields`.
const NODE: u32 = 2;
const METADATA: u32 = 3;
const BUILD_VERSION: u32 = 8;
const FIELDS: u32 = 1;
/// The key of [`NODE`] on the wire.
const NODE_KEY: u8 = 0x12;
/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;
/// How long an entry with the metadata key can be, in bytes: the key, and a yes or no in words.
const METADATA_ENTRY: RangeInclusive<u32> = 32..=64;
/// What may stand before a field, in bytes.
const ENVELOPE: usize = 18;
/// What is kept of an Envoy's message, in bytes.
const KEPT_USUAL: usize = 256;
/// What is kept of one message: dozens of the longest SPIFFE IDs.
pub(crate) const KEPT_LIMIT: usize = 64 * 1024;
