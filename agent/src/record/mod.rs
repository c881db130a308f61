//! The issuance record: who was given which identity, when and by which entry, and what was refused.
//!
//! The newest events of each caller group are kept in memory, for the admin socket. With `experimental { issuance_log }`
//! every issuance is also a line of JSON in a file (`file`).
//!
//! A caller can cause events as fast as it can call. So each group has a few places of its own: the events of a busy one
//! do not push out those of the others.

mod file;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use identity::{Entry, JwtSvid, X509Svid};
use serde::Serialize;
use transport::Peer;

pub(crate) use self::file::File;

/// The record. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    groups: Mutex<Groups>,
    file: Option<File>,
}

#[derive(Debug, Default)]
struct Groups {
    by_key: HashMap<Box<str>, Group>,
    /// The events of all groups until now. It puts them in order, which the clock does not if it is set back.
    count: u64,
}

/// The newest events of one caller group, oldest first.
#[derive(Debug, Default)]
struct Group {
    /// [`Groups::count`] at the newest event.
    newest: u64,
    events: VecDeque<Event>,
}

/// Something that happened to a caller.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: SystemTime,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// The method that was called.
    pub(crate) method: &'static str,
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// An SVID was handed out.
    Issued {
        entry: Arc<Entry>,
        kind: Kind,
        /// The serial number of an X.509-SVID, or the audience of a JWT-SVID.
        detail: String,
        not_after: SystemTime,
    },
    /// A call was refused: the gRPC code and the reason.
    Refused { code: &'static str, reason: String },
    /// An SDS stream waits for names that nothing grants.
    Held { names: Vec<String> },
}

/// The kind of an SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Kind {
    #[serde(rename = "x509")]
    X509,
    #[serde(rename = "jwt")]
    Jwt,
}

impl Record {
    /// A record whose issuances go to a file, too.
    pub(crate) fn new(file: Option<File>) -> Self {
        Self(Arc::new(Shared { groups: Mutex::default(), file }))
    }

    /// Records an X.509-SVID of an entry that was handed out.
    pub(crate) fn x509(&self, peer: &Peer, method: &'static str, entry: &Arc<Entry>, svid: &X509Svid) {
        let (entry, detail) = (Arc::clone(entry), svid.serial.clone());
        self.issued(
            peer,
            method,
            What::Issued { entry, kind: Kind::X509, detail, not_after: svid.not_after },
        );
    }

    /// Records a JWT-SVID that was handed out.
    pub(crate) fn jwt(
        &self,
        peer: &Peer,
        method: &'static str,
        entry: &Arc<Entry>,
        svid: &JwtSvid,
        audience: &[String],
    ) {
        let (entry, detail) = (Arc::clone(entry), cut(&audience.join(",")));
        self.issued(
            peer,
            method,
            What::Issued { entry, kind: Kind::Jwt, detail, not_after: svid.expires_at },
        );
    }

    /// Records a call that was refused.
    pub(crate) fn refused(&self, peer: &Peer, method: &'static str, code: &'static str, reason: &str) {
        self.keep(peer.group().key(), event(peer, method, What::Refused { code, reason: cut(reason) }));
    }

    /// Records the names that a stream waits for.
    pub(crate) fn held<'a>(&self, peer: &Peer, method: &'static str, names: impl Iterator<Item = &'a str>) {
        let what = What::Held { names: first(names) };
        self.keep(peer.group().key(), event(peer, method, what));
    }

    /// Has the file opened anew, because it was moved.
    pub(crate) fn reopen(&self) {
        if let Some(file) = &self.0.file {
            file.reopen();
        }
    }

    /// The newest events, oldest first, of one process or of all, each with its caller group.
    pub(crate) fn events(&self, of: Option<i32>) -> Vec<(Box<str>, Event)> {
        let groups = self.0.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events: Vec<_> = groups
            .by_key
            .iter()
            .flat_map(|(key, group)| group.events.iter().map(move |event| (key.clone(), event.clone())))
            .filter(|(_, event)| of.is_none_or(|pid| event.pid == pid))
            .collect();
        events.sort_by_key(|(_, event)| event.at);
        events
    }

    fn issued(&self, peer: &Peer, method: &'static str, what: What) {
        let event = event(peer, method, what);
        if let Some(file) = &self.0.file {
            file.write(&event, peer.group().key());
        }
        self.keep(peer.group().key(), event);
    }

    fn keep(&self, key: &str, event: Event) {
        let mut groups = self.0.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let groups = &mut *groups;
        if !groups.by_key.contains_key(key) {
            if groups.by_key.len() >= GROUPS {
                forget_one(&mut groups.by_key);
            }
            groups.by_key.insert(key.into(), Group::default());
        }
        let Some(group) = groups.by_key.get_mut(key) else { return };
        if group.events.len() == EVENTS {
            group.events.pop_front();
        }
        group.events.push_back(event);
        groups.count += 1;
        group.newest = groups.count;
    }
}

fn event(peer: &Peer, method: &'static str, what: What) -> Event {
    Event { at: SystemTime::now(), pid: peer.process.pid, uid: peer.uid, method, what }
}

/// Drops the group whose newest event is the oldest.
fn forget_one(groups: &mut HashMap<Box<str>, Group>) {
    let oldest = groups.iter().min_by_key(|(_, group)| group.newest).map(|(key, _)| key.clone());
    if let Some(key) = oldest {
        groups.remove(&key);
    }
}

/// The first names, as many as an event may have.
fn first<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut room = NAMES;
    names
        .map(cut)
        .take_while(|name| {
            let fits = name.len() <= room;
            room = room.saturating_sub(name.len().max(1));
            fits && room > 0
        })
        .collect()
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(WORDS)].to_owned()
}

/// The events of a group that are kept, of about 200 bytes each; one with names can have three times as many.
const EVENTS: usize = 16;
/// The groups that are kept: more than the pods of a node.
const GROUPS: usize = 256;
/// The bytes of all names of one event, and of each text in it.
const NAMES: usize = 512;
const WORDS: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keep(record: &Record, key: &str, at: u64) {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        let what = What::Refused { code: "Internal", reason: String::new() };
        record.keep(key, Event { at, pid: 1, uid: 0, method: "m", what });
    }

    fn has(record: &Record, key: &str) -> bool {
        record.events(None).iter().any(|(group, _)| &**group == key)
    }

    #[test]
    fn names_are_as_long_as_an_event_may_be() {
        let long = "n".repeat(1000);
        assert_eq!(first([&*long, "a", &*long, "b"].into_iter()), [&long[..WORDS], "a"]);
        assert!(first(std::iter::repeat("")).len() <= NAMES);
    }

    #[test]
    fn the_group_that_was_silent_longest_makes_room() {
        let record = Record::default();
        for place in 0..GROUPS {
            keep(&record, &format!("pod:{place}"), 1000);
        }
        keep(&record, "pod:0", 1000);
        // The clock was set back.
        keep(&record, "pod:new", 10);
        keep(&record, "pod:newer", 11);
        let remembered = ["pod:0", "pod:1", "pod:2", "pod:3", "pod:new", "pod:newer"];
        assert_eq!(remembered.map(|key| has(&record, key)), [true, false, false, true, true, true]);
    }

    #[test]
    fn a_busy_group_pushes_out_only_its_own_events() {
        let record = Record::default();
        keep(&record, "pod:quiet", 1);
        (0..1000).for_each(|at| keep(&record, "pod:busy", at));
        assert_eq!(record.events(None).len(), EVENTS + 1);
        assert!(has(&record, "pod:quiet"));
    }
}
