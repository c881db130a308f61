//! The tokens that the server was or will be asked for. Entries take turns, so that nobody waits for a workload with many
//! audiences.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use cache::JwtKey;
use identity::Entry;
use tokio::sync::oneshot;

use super::Answer;

/// A caller that waits for a token, and the entry that grants it.
pub(super) type Asker = (Arc<Entry>, oneshot::Sender<Answer>);

#[derive(Default)]
pub(super) struct Queue {
    asked: HashMap<JwtKey, Asked>,
    /// Those that wait for their turn, by entry.
    waiting: VecDeque<(Arc<str>, VecDeque<JwtKey>)>,
}

#[derive(Default)]
struct Asked {
    callers: Vec<Asker>,
    /// It is refreshed, so it is asked for without callers, too.
    is_refresh: bool,
}

impl Asked {
    /// Whether nobody waits for it any more.
    fn is_in_vain(&self, key: &JwtKey, is_wanted: IsWanted<'_>) -> bool {
        let is_refreshed = self.is_refresh && is_wanted(key);
        !is_refreshed && self.callers.iter().all(|(_, reply)| reply.is_closed())
    }
}

/// Whether a token that is refreshed is still held or followed.
type IsWanted<'a> = &'a dyn Fn(&JwtKey) -> bool;

impl Queue {
    /// Asks for a token for a caller. If too many wait already, the caller's end comes back.
    pub(super) fn ask(
        &mut self,
        key: JwtKey,
        entry: Arc<Entry>,
        reply: oneshot::Sender<Answer>,
        is_wanted: IsWanted<'_>,
    ) -> Result<(), oneshot::Sender<Answer>> {
        if let Some(asked) = self.asked.get_mut(&key) {
            asked.callers.retain(|(_, reply)| !reply.is_closed());
            asked.callers.push((entry, reply));
        } else if self.enqueue(key.clone(), is_wanted) {
            self.asked.insert(key, Asked { callers: vec![(entry, reply)], is_refresh: false });
        } else {
            return Err(reply);
        }
        Ok(())
    }

    /// Asks for a token that is held or followed. Returns false if too many wait already.
    pub(super) fn refresh(&mut self, key: &JwtKey, is_wanted: IsWanted<'_>) -> bool {
        if let Some(asked) = self.asked.get_mut(key) {
            asked.is_refresh = true;
            return true;
        }
        let is_queued = self.enqueue(key.clone(), is_wanted);
        if is_queued {
            self.asked.insert(key.clone(), Asked { callers: Vec::new(), is_refresh: true });
        }
        is_queued
    }

    /// The token whose turn it is. Its callers wait until [`Queue::answered`].
    pub(super) fn next(&mut self, is_wanted: IsWanted<'_>) -> Option<JwtKey> {
        loop {
            let (entry_id, mut keys) = self.waiting.pop_front()?;
            let key = keys.pop_front();
            if !keys.is_empty() {
                self.waiting.push_back((entry_id, keys));
            }
            let Some(key) = key else { continue };
            if self.asked.get(&key).is_some_and(|asked| !asked.is_in_vain(&key, is_wanted)) {
                return Some(key);
            }
            self.asked.remove(&key);
        }
    }

    /// Takes out a token that the server was asked for, and returns its callers.
    pub(super) fn answered(&mut self, key: &JwtKey) -> Vec<Asker> {
        self.asked.remove(key).unwrap_or_default().callers
    }

    /// Returns false if too many wait already: of this entry, or in all. Those that nobody waits for any more make room.
    fn enqueue(&mut self, key: JwtKey, is_wanted: IsWanted<'_>) -> bool {
        let of_entry = self.waiting.iter().find(|(entry_id, _)| entry_id == key.entry_id());
        let is_full = of_entry.is_some_and(|(_, keys)| keys.len() >= WAITING_OF_ENTRY);
        if is_full || self.asked.len() >= WAITING {
            self.forget_vain(is_wanted);
        }
        let of_entry = self.waiting.iter_mut().find(|(entry_id, _)| entry_id == key.entry_id());
        match of_entry {
            _ if self.asked.len() >= WAITING => return false,
            Some((_, keys)) if keys.len() >= WAITING_OF_ENTRY => return false,
            Some((_, keys)) => keys.push_back(key),
            None => self.waiting.push_back((Arc::clone(key.entry_id()), [key].into())),
        }
        true
    }

    /// Takes out the tokens that nobody waits for any more.
    fn forget_vain(&mut self, is_wanted: IsWanted<'_>) {
        let asked = &mut self.asked;
        for (_, keys) in &mut self.waiting {
            keys.retain(|key| {
                let in_vain = asked.get(key).is_none_or(|asked| asked.is_in_vain(key, is_wanted));
                if in_vain {
                    asked.remove(key);
                }
                !in_vain
            });
        }
        self.waiting.retain(|(_, keys)| !keys.is_empty());
    }
}

/// The most tokens that wait for the server, in all and of one entry.
pub(super) const WAITING: usize = 1024;
pub(super) const WAITING_OF_ENTRY: usize = 64;
