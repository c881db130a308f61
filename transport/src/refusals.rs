//! Connections that are not taken, in few lines of the log: whoever hammers the socket must not fill that too.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod tests;

/// What was refused of each caller group, and when that was last told.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    groups: HashMap<Box<str>, Refused>,
}

#[derive(Debug)]
struct Refused {
    told: Instant,
    untold: u64,
}

impl Refusals {
    /// Notes that a connection of a group was refused. Whether this is to be told: the first is, the rest is counted.
    pub(crate) fn refused(&mut self, group: &str) -> bool {
        if let Some(refused) = self.groups.get_mut(group) {
            refused.untold += 1;
            return false;
        }
        if self.groups.len() >= GROUPS {
            self.groups.clear();
        }
        self.groups.insert(group.into(), Refused { told: Instant::now(), untold: 0 });
        true
    }

    /// Notes that a connection of a group was taken. How many were refused since that was last told, if that is to be
    /// told now: at most once in [`PAUSE`].
    pub(crate) fn taken(&mut self, group: &str) -> Option<u64> {
        // The usual case, without looking.
        if self.groups.is_empty() {
            return None;
        }
        let refused = self.groups.get_mut(group)?;
        let now = Instant::now();
        if now < refused.told + PAUSE {
            return None;
        }
        if refused.untold == 0 {
            self.groups.remove(group);
            return None;
        }
        refused.told = now;
        Some(std::mem::take(&mut refused.untold))
    }
}

/// Between two lines about one group.
const PAUSE: Duration = Duration::from_secs(10);
/// Kept at most. Nobody can make many, but a node may have had many pods.
const GROUPS: usize = 1024;
