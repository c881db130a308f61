//! Limits the log lines that callers can cause: a caller's text is cut, and of many lines of one kind only the first
//! few are written, and later the number of the others.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

#[cfg(test)]
mod tests;

/// Lines that were written lately, by caller group and kind of line.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<HashMap<(Box<str>, &'static str), Written>>);

#[derive(Debug)]
struct Written {
    at: Instant,
    count: u32,
    left_out: u64,
}

impl Complaints {
    /// Whether a line of this kind about this caller group may be written now. Lines that may not are counted. Their
    /// count is written ten seconds later or more, with the next line of any kind.
    pub fn admit(&self, group: &str, kind: &'static str) -> bool {
        let now = Instant::now();
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(written) = lately.get_mut(&(Box::from(group), kind))
            && now < written.at + QUIET
        {
            if written.count < LINES {
                written.count += 1;
                return true;
            }
            written.left_out += 1;
            return false;
        }
        let mut over = Vec::new();
        lately.retain(|key, written| {
            let keep = now < written.at + QUIET;
            if !keep && written.left_out > 0 {
                over.push((key.clone(), written.left_out));
            }
            keep
        });
        let room = lately.len() < KEPT;
        if room {
            lately.insert((group.into(), kind), Written { at: now, count: 1, left_out: 0 });
        }
        drop(lately);
        for ((group, kind), left_out) in over {
            LEFT_OUT.fetch_add(left_out, Ordering::Relaxed);
            warn!(caller_group = %group, kind, left_out, "Lines of the log about one caller group were left out");
        }
        room
    }
}

/// The number of lines about callers that were left out in this process, as far as the log has told it.
#[must_use]
pub fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// A caller's text as it may appear in the log: cut after [`WORDS`] bytes, and escaped.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a>(pub &'a str);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        let cut = &text[..text.floor_char_boundary(WORDS)];
        write!(f, "{}", cut.escape_debug())?;
        match text.len() - cut.len() {
            0 => Ok(()),
            more => write!(f, "… ({more} bytes more)"),
        }
    }
}

/// Bytes of a caller's text that are written.
pub const WORDS: usize = 256;
/// [`LINES`] lines of one kind are written about one group in this time. There is more than one, because the reason
/// may change from line to line.
const QUIET: Duration = Duration::from_secs(10);
const LINES: u32 = 5;
/// Pairs of group and kind that are remembered. A node has fewer pods; when there are more, lines about new pairs are
/// not written.
const KEPT: usize = 1024;
