//! Flow control (RFC 9113 §5.2, §6.9), of a stream or a connection.

/// What may still be sent.
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

    /// By a WINDOW_UPDATE. `None` when it, and `first` beside it, are more than a window can be.
    #[must_use]
    pub(crate) fn grow(&mut self, more: i64, first: u32) -> Option<()> {
        self.0 += more;
        (self.beside(first).0 <= MOST).then_some(())
    }

    /// A stream's, which leaves out SETTINGS_INITIAL_WINDOW_SIZE: to change that is not to visit thousands of streams. It may
    /// be negative.
    pub(crate) fn beside(self, first: u32) -> Self {
        Self(self.0 + i64::from(first))
    }
}

/// What the client may still send.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    left: u32,
    /// Has been read, and not been given back.
    owed: u32,
    size: u32,
}

impl ReceiveWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self { left: size, owed: 0, size }
    }

    /// `None` when the client sends more than it may.
    #[must_use]
    pub(crate) fn receive(&mut self, bytes: u32) -> Option<()> {
        self.left = self.left.checked_sub(bytes)?;
        Some(())
    }

    /// After bytes were read: what a WINDOW_UPDATE is to give back now. Not each time: half a window at once.
    pub(crate) fn consume(&mut self, bytes: u32) -> Option<u32> {
        self.owed += bytes;
        if self.owed < self.size / 2 {
            return None;
        }
        self.left += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

/// RFC 9113 §6.9.1.
const MOST: i64 = (1 << 31) - 1;
/// Before anything else is agreed upon.
pub(crate) const INITIAL: u32 = 65_535;
