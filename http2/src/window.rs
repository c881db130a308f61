//! Flow control windows of streams and connections (RFC 9113 §5.2, §6.9).

/// Bytes that the server may still send. A stream's window leaves out SETTINGS_INITIAL_WINDOW_SIZE, so that a change
/// of it need not visit thousands of streams; [`Self::beside`] adds it. The sum may be negative (§6.9.2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) const fn new(size: u32) -> Self {
        Self(size as i64)
    }

    /// How many of `wanted` bytes may be sent now.
    pub(crate) fn fits(self, wanted: usize) -> usize {
        usize::try_from(self.0).unwrap_or(0).min(wanted)
    }

    pub(crate) fn take(&mut self, sent: usize) {
        self.0 -= i64::try_from(sent).expect("not more than fits");
    }

    /// Grows the window by `more` bytes of a WINDOW_UPDATE.
    ///
    /// # Errors
    /// Together with `initial` the window is larger than a window can be.
    pub(crate) fn grow(&mut self, more: i64, initial: u32) -> Result<(), TooLarge> {
        self.0 += more;
        if self.beside(initial).0 <= LARGEST { Ok(()) } else { Err(TooLarge) }
    }

    /// The window with `initial`, the client's SETTINGS_INITIAL_WINDOW_SIZE, added.
    pub(crate) fn beside(self, initial: u32) -> Self {
        Self(self.0 + i64::from(initial))
    }
}

/// Bytes that the client may still send.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    left: u32,
    /// Bytes that were read and not given back yet.
    owed: u32,
    size: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self { left: size, owed: 0, size }
    }

    /// Counts bytes that the client has sent.
    ///
    /// # Errors
    /// The client sent more than it may.
    pub(crate) fn receive(&mut self, bytes: u32) -> Result<(), Exceeded> {
        self.left = self.left.checked_sub(bytes).ok_or(Exceeded)?;
        Ok(())
    }

    /// Counts bytes that were read. Returns the increment of a WINDOW_UPDATE that must be sent now, which is only
    /// when half of the window is owed.
    pub(crate) fn consume(&mut self, bytes: u32) -> Option<u32> {
        self.owed += bytes;
        if self.owed < self.size / 2 {
            return None;
        }
        self.left += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

/// A window grew beyond [`LARGEST`].
#[derive(Debug)]
pub(crate) struct TooLarge;

/// A client sent more than its window allows.
#[derive(Debug)]
pub(crate) struct Exceeded;

/// The largest window (RFC 9113 §6.9.1).
const LARGEST: i64 = (1 << 31) - 1;
/// The window that every connection and stream begins with (RFC 9113 §6.9.2).
pub(crate) const INITIAL: u32 = 65_535;
