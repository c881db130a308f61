//! Finds the header blocks among a client's frames (RFC 9113).

use std::mem;

use super::fields::Fields;

/// Walks the bytes of one client and edits them in place.
#[derive(Debug, Default)]
pub struct Mender {
    place: Place,
    /// The header of the frame that we are in, as far as it was seen.
    head: [u8; HEAD],
    /// What a HEADERS frame has behind its fragment.
    padding: u8,
    /// The stream whose header block goes on in the next frame.
    open: Option<u32>,
    fields: Fields,
    /// Bytes that were walked in the last call and will be given again.
    walked: usize,
}

impl Mender {
    /// Mends `bytes`, and returns how many of them are settled. The rest has to be given again, in front of what
    /// comes next: it begins with a byte of a Huffman-coded `:authority` whose last code ends in the next byte of that
    /// literal. So the rest is that one byte, and when a frame ends there, also that frame's padding and the next
    /// one's header: bytes of an unfinished header block, of which h2 makes nothing yet.
    pub fn mend(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = mem::take(&mut self.walked);
        while at < bytes.len() {
            match self.step(bytes, at) {
                Ok(next) => at = next,
                Err(Malformed) => self.stop(),
            }
        }
        let Some(settled) = self.fields.undecided() else { return bytes.len() };
        if bytes.len() - settled > MAX_APART {
            self.stop();
            return bytes.len();
        }
        self.walked = bytes.len() - settled;
        self.fields.rebase();
        settled
    }

    /// From now on everything passes unchanged.
    pub(super) fn stop(&mut self) {
        *self = Self { place: Place::Passing, ..Self::default() };
    }

    /// Walks some of the bytes from `at`, and returns where it came to.
    fn step(&mut self, bytes: &mut [u8], at: usize) -> Result<usize, Malformed> {
        let available = bytes.len() - at;
        let next = match &mut self.place {
            Place::Preface(seen) => {
                if bytes[at] != PREFACE[usize::from(*seen)] {
                    return Err(Malformed);
                }
                *seen += 1;
                if usize::from(*seen) == PREFACE.len() {
                    self.place = Place::Head(0);
                }
                at + 1
            }
            Place::Head(seen) => {
                self.head[usize::from(*seen)] = bytes[at];
                *seen += 1;
                if usize::from(*seen) == HEAD {
                    self.place = self.frame()?;
                }
                at + 1
            }
            Place::PadLength => {
                self.padding = bytes[at];
                self.place = self.behind_pad_length(self.length().checked_sub(1).ok_or(Malformed)?)?;
                at + 1
            }
            Place::Priority { left, fragment } => {
                *left -= 1;
                if *left == 0 {
                    self.place = Place::Fragment(*fragment);
                }
                at + 1
            }
            Place::Fragment(left) => {
                let end = at + available.min(*left as usize);
                let next = self.fields.step(bytes, at, end)?;
                *left -= u32::try_from(next - at).expect("not more than was left of the frame");
                next
            }
            Place::Skip(left) => {
                let skipped = available.min(*left as usize);
                *left -= u32::try_from(skipped).expect("not more than was left of the frame");
                at + skipped
            }
            Place::Passing => bytes.len(),
        };
        self.leave_what_is_over()?;
        Ok(next)
    }

    /// A frame's header is complete: what its payload begins with.
    fn frame(&mut self) -> Result<Place, Malformed> {
        let length = self.length();
        self.padding = 0;
        match (self.head[KIND], self.open) {
            (CONTINUATION, Some(stream)) if stream == self.stream() => Ok(Place::Fragment(length)),
            (CONTINUATION, _) | (_, Some(_)) => Err(Malformed),
            (HEADERS, None) => {
                self.fields.begin_block();
                if self.has(PADDED) {
                    return if length == 0 { Err(Malformed) } else { Ok(Place::PadLength) };
                }
                self.behind_pad_length(length)
            }
            _ => Ok(Place::Skip(length)),
        }
    }

    /// `payload` is what follows in a HEADERS frame after the pad length, if there is one.
    fn behind_pad_length(&self, payload: u32) -> Result<Place, Malformed> {
        let block = payload.checked_sub(self.padding.into()).ok_or(Malformed)?;
        if !self.has(PRIORITY) {
            return Ok(Place::Fragment(block));
        }
        let fragment = block.checked_sub(PRIORITY_BYTES.into()).ok_or(Malformed)?;
        Ok(Place::Priority { left: PRIORITY_BYTES, fragment })
    }

    fn leave_what_is_over(&mut self) -> Result<(), Malformed> {
        if let Place::Fragment(0) = self.place {
            if self.has(END_HEADERS) {
                self.fields.end_block()?;
                self.open = None;
            } else {
                self.open = Some(self.stream());
            }
            self.place = Place::Skip(self.padding.into());
        }
        if let Place::Skip(0) = self.place {
            self.place = Place::Head(0);
        }
        Ok(())
    }

    fn length(&self) -> u32 {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]])
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a, b, c, d]) & !RESERVED_BIT
    }

    fn has(&self, flag: u8) -> bool {
        self.head[FLAGS] & flag != 0
    }
}

/// Where in the client's stream we are.
#[derive(Debug)]
enum Place {
    /// In the preface; so much of it was seen.
    Preface(u8),
    /// In a frame's header; so much of it was seen.
    Head(u8),
    PadLength,
    Priority {
        left: u8,
        fragment: u32,
    },
    /// In a piece of a header block.
    Fragment(u32),
    /// In padding, or in a frame of another kind.
    Skip(u32),
    /// The repair is over.
    Passing,
}

impl Default for Place {
    fn default() -> Self {
        Self::Preface(0)
    }
}

/// Not HTTP/2, or not as we know it.
#[derive(Debug)]
pub(super) struct Malformed;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const KIND: usize = 3;
const FLAGS: usize = 4;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u8 = 5;
const RESERVED_BIT: u32 = 1 << 31;

/// How far the two bytes of one Huffman code can lie apart: the longest padding and a frame's header between them.
/// Empty CONTINUATION frames could stretch that without end; nobody but an attacker sends them.
pub(super) const MAX_APART: usize = 1 + u8::MAX as usize + HEAD;
