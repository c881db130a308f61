//! Counts of a flood's connections and how they ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The counts of one flood, of one process or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Frames that the connections have queued for sending.
    pub(crate) frames: u64,
    pub(crate) opened: u64,
    /// Connections that the socket refused, or that were closed before the agent sent a byte.
    pub(crate) refused: u64,
    /// Connections that the agent closed without GOAWAY, after it had sent something.
    pub(crate) closed: u64,
    /// Connections that the agent ended with GOAWAY, by code and text.
    pub(crate) goaways: BTreeMap<String, u64>,
    /// Streams that the agent reset, by code.
    pub(crate) resets: BTreeMap<String, u64>,
    /// Connections that have sent all of their frames and got the agent's reaction.
    pub(crate) done: u64,
}

impl Outcome {
    /// Adds the counts of another process.
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.frames, other.frames),
            (&mut self.opened, other.opened),
            (&mut self.refused, other.refused),
            (&mut self.closed, other.closed),
            (&mut self.done, other.done),
        ];
        for (own, other) in pairs {
            *own += other;
        }
        for (own, other) in [(&mut self.goaways, &other.goaways), (&mut self.resets, &other.resets)] {
            for (code, count) in other {
                *own.entry(code.clone()).or_default() += count;
            }
        }
    }

    pub(crate) fn reset(&mut self, code: u32) {
        *self.resets.entry(name(code)).or_default() += 1;
    }

    pub(crate) fn goaway(&mut self, code: u32, text: &str) {
        let code = if text.is_empty() { name(code) } else { format!("{}: {text}", name(code)) };
        *self.goaways.entry(code).or_default() += 1;
    }
}

/// The name of an error code (RFC 9113 §7), for people.
fn name(code: u32) -> String {
    let name = usize::try_from(code).ok().and_then(|code| CODES.get(code)).copied();
    format!("{} ({code})", name.unwrap_or("unknown"))
}

const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_two_processes_add_up_by_code() {
        let (mut left, mut right) = (Outcome { frames: 3, ..Outcome::default() }, Outcome::default());
        left.goaway(11, "");
        right.goaway(11, "");
        right.goaway(11, "too_many_pings");
        right.reset(99);
        left.add(&right);
        assert_eq!(left.goaways["ENHANCE_YOUR_CALM (11)"], 2);
        assert_eq!(left.goaways["ENHANCE_YOUR_CALM (11): too_many_pings"], 1);
        assert_eq!((left.frames, left.resets["unknown (99)"]), (3, 1));
    }
}
