//! Limits for traffic that costs the server more than it costs the client.
//!
//! Each kind has a counter, which useful traffic brings down again. A client that makes a counter run over is sent
//! away with ENHANCE_YOUR_CALM: no useful client behaves like that.

use crate::Error;
use crate::frame::Reason;

/// A kind of traffic that is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Provocation {
    /// A frame that means nothing or asks only for an acknowledgement: PING, SETTINGS, PRIORITY, WINDOW_UPDATE,
    /// GOAWAY, frames of unknown types, DATA and CONTINUATION without a byte.
    Idle,
    /// A call that the client ends before it is answered, by RST_STREAM (CVE-2023-44487) or by a broken rule
    /// (CVE-2025-8671).
    Reset,
    /// A malformed request (RFC 9113 §8.1.1).
    Malformed,
    /// A request with more header bytes than [`crate::Limits::headers`].
    TooLong,
    /// A call beyond the limit of streams, or beyond the account's memory.
    Refused,
}

/// The counters of one connection.
#[derive(Debug, Default)]
pub(crate) struct Temper {
    counts: [u16; KINDS],
    /// Idle frames since the last read.
    idle: u16,
}

impl Temper {
    /// Called before each read. A few idle frames are free each time, so that a client may send one now and then for
    /// years.
    pub(crate) fn begin_read(&mut self) {
        self.idle = 0;
    }

    /// Counts one event.
    ///
    /// # Errors
    /// The event was one too many of its kind.
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

    /// Lowers all counters, because a call was answered.
    pub(crate) fn answered(&mut self) {
        for count in &mut self.counts {
            *count = count.saturating_sub(1);
        }
    }

    /// Lowers the idle counter, because a frame with content was sent or received: WINDOW_UPDATE and keep-alive PINGs
    /// come with such frames.
    pub(crate) fn useful(&mut self) {
        let idle = &mut self.counts[Provocation::Idle as usize];
        *idle = idle.saturating_sub(IDLE_PER_USEFUL);
    }
}

const KINDS: usize = 5;
/// Calls that the client ended early, not made up for by answered ones. A client cancels now and then, on a deadline.
const RESETS: u16 = 1000;
/// No client sends malformed requests, but a broken proxy may.
const MALFORMED: u16 = 100;
const TOO_LONG: u16 = 100;
/// A client may open thousands of streams before it has read how many it may have.
const REFUSED: u16 = 10_000;
/// Idle frames beyond the free ones. A client with thousands of streams may update all their windows at once.
const IDLE: u16 = 4000;
const IDLE_FREE: u16 = 16;
const IDLE_PER_USEFUL: u16 = 4;
