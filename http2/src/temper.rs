//! How much of what costs us more than it costs the client is put up with.
//!
//! Each kind has a counter that useful traffic brings down again. A client for which one runs over is sent away with
//! ENHANCE_YOUR_CALM: what it does is not what any client needs.

use crate::Error;
use crate::frame::Reason;

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Provocation {
    /// A frame that means nothing, or asks for an answer and nothing else: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, frames
    /// of unknown types, DATA and CONTINUATION without a byte.
    Idle,
    /// A call that the client takes back before it is answered, or makes us end by a broken rule.
    Reset,
    /// A request that is none (RFC 9113 §8.1.1).
    Malformed,
    /// A request with more header bytes than are taken.
    TooLong,
    /// A call more than there is room for.
    Refused,
}

/// The counters of one connection.
#[derive(Debug, Default)]
pub(crate) struct Temper {
    counts: [u16; KINDS],
    /// Idle frames since the client was last read.
    idle: u16,
}

impl Temper {
    /// Before each read. A few idle frames are free each time: a client that says one now and then, for years, is fine.
    pub(crate) fn begin_read(&mut self) {
        self.idle = 0;
    }

    /// The client has done something of a kind.
    ///
    /// # Errors
    /// It was once too often.
    pub(crate) fn provoked(&mut self, by: Provocation) -> Result<(), Error> {
        if matches!(by, Provocation::Idle) {
            self.idle = self.idle.saturating_add(1);
            if self.idle <= IDLE_FREE {
                return Ok(());
            }
        }
        let (limit, what) = match by {
            Provocation::Idle => (IDLE, "too many frames that ask for nothing"),
            Provocation::Reset => (RESETS, "too many calls are taken back"),
            Provocation::Malformed => (MALFORMED, "too many malformed requests"),
            Provocation::TooLong => (TOO_LONG, "too many requests with too many header bytes"),
            Provocation::Refused => (REFUSED, "too many calls that there is no room for"),
        };
        let count = &mut self.counts[by as usize];
        *count = count.saturating_add(1);
        if *count > limit {
            return Err(Error::Protocol { reason: Reason::EnhanceYourCalm, what });
        }
        Ok(())
    }

    /// A call was answered.
    pub(crate) fn answered(&mut self) {
        for count in &mut self.counts {
            *count = count.saturating_sub(1);
        }
    }

    /// A frame with content went one way or the other: windows are to be given back for it, and keep-alive pings come with
    /// it.
    pub(crate) fn useful(&mut self) {
        let idle = &mut self.counts[Provocation::Idle as usize];
        *idle = idle.saturating_sub(IDLE_PER_USEFUL);
    }
}

const KINDS: usize = 5;
/// Calls taken back and not made up for by answers. A client that cancels on a deadline does so now and then.
const RESETS: u16 = 1000;
/// No client sends any; a proxy that is broken may.
const MALFORMED: u16 = 100;
const TOO_LONG: u16 = 100;
/// A client may open thousands before it has read how many it may.
const REFUSED: u16 = 10_000;
/// Idle frames beyond the free ones. A client with a thousand streams may open all their windows at once.
const IDLE: u16 = 2000;
const IDLE_FREE: u16 = 16;
const IDLE_PER_USEFUL: u16 = 4;
