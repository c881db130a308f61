//! Lines of the log that a caller can bring about: its words are cut, and of many lines of one kind only the first few are
//! written, then how many more there were.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

#[cfg(test)]
mod tests;

/// What was written lately, by caller group and kind of line.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<HashMap<(Box<str>, &'static str), Written>>);

#[derive(Debug)]
struct Written {
    at: Instant,
    count: u32,
    left_out: u64,
}

impl Complaints {
    /// Whether a line of this kind, about a caller of this group, is to be written. Those that are not are counted, and the
    /// count is written when the next line of any kind is.
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
            warn!(caller_group = %group, kind, left_out, "Lines of the log about one caller group were left out");
        }
        room
    }
}

/// A caller's words as the log may have them: not longer than [`WORDS`] bytes, and escaped.
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

/// Bytes of a caller's words that are written.
pub const WORDS: usize = 256;
/// So many lines of a kind are written about one group in this time. More than one, as what goes wrong may change.
const QUIET: Duration = Duration::from_secs(10);
const LINES: u32 = 5;
/// Groups and kinds that are remembered. A node has fewer pods; when there are more, the newest say nothing.
const KEPT: usize = 1024;
