//! Selectors of credentials: the IDs, and the names that NSS has for them.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use identity::Selector;
use nix::unistd::{Gid, Group, Uid, User};
use tokio::time::Instant;

use super::Version;
use crate::lock;
use crate::proc::Credentials;

/// A cache of the selectors of credentials.
#[derive(Debug, Default)]
pub(super) struct NameCache(Mutex<Option<CachedNames>>);

#[derive(Debug)]
struct CachedNames {
    sources: Sources,
    since: Instant,
    known: HashMap<Credentials, Vec<Selector>>,
    /// How many supplementary groups all credentials in `known` have.
    groups: usize,
}

/// The versions of the files in [`SOURCES`], which define names. `None` for a file that is missing.
type Sources = [Option<Version>; 3];

impl NameCache {
    /// The selectors of these credentials, if they are cached and their names may not have changed.
    pub(super) fn remembered(&self, credentials: &Credentials) -> Option<Vec<Selector>> {
        let held = lock(&self.0);
        let held =
            held.as_ref().filter(|held| held.since.elapsed() < NAMES_HOLD && held.sources == sources())?;
        held.known.get(credentials).cloned()
    }

    /// The selectors of these credentials. Looks names up if necessary, which takes as long as NSS takes.
    pub(super) fn selectors(&self, credentials: &Credentials) -> Vec<Selector> {
        if credentials.groups.len() > GROUPS_OF_ONE {
            return look_up(credentials);
        }
        if let Some(found) = self.remembered(credentials) {
            return found;
        }
        // Taken before the names are read: names that change meanwhile are read again later.
        let (sources, since) = (sources(), Instant::now());
        let found = look_up(credentials);
        let mut held = lock(&self.0);
        let valid = |held: &CachedNames| {
            let room = held.known.len() < KNOWN && held.groups < GROUPS_OF_ALL;
            held.sources == sources && room && held.since.elapsed() < NAMES_HOLD
        };
        if !held.as_ref().is_some_and(valid) {
            *held = Some(CachedNames { sources, since, known: HashMap::new(), groups: 0 });
        }
        if let Some(held) = &mut *held {
            held.groups += credentials.groups.len();
            held.known.insert(credentials.clone(), found.clone());
        }
        found
    }
}

/// Looks all names up. A name that cannot be looked up is left out.
fn look_up(credentials: &Credentials) -> Vec<Selector> {
    let user = |uid| Some(User::from_uid(Uid::from_raw(uid)).ok()??.name);
    let group = |gid| Some(Group::from_gid(Gid::from_raw(gid)).ok()??.name);
    let mut found = Vec::new();
    found.extend(selector("uid", credentials.uid));
    found.extend(user(credentials.uid).and_then(|name| selector("user", name)));
    found.extend(selector("gid", credentials.gid));
    found.extend(group(credentials.gid).and_then(|name| selector("group", name)));
    for &gid in &credentials.groups {
        found.extend(selector("supplementary_gid", gid));
        found.extend(group(gid).and_then(|name| selector("supplementary_group", name)));
    }
    found
}

pub(super) fn selector(name: &str, value: impl Display) -> Option<Selector> {
    Selector::new("unix", &format!("{name}:{value}")).ok()
}

fn sources() -> Sources {
    SOURCES.map(|path| fs::metadata(path).ok().as_ref().map(Version::of))
}

const SOURCES: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf"];
/// How long names are cached. They may come from a directory service, whose changes no file shows.
const NAMES_HOLD: Duration = Duration::from_secs(10);
/// Credentials that are cached. A node has fewer.
const KNOWN: usize = 1024;
/// Supplementary groups of one process, beyond which its selectors are not cached, and of all cached ones. Each takes
/// about 100 bytes.
const GROUPS_OF_ONE: usize = 64;
const GROUPS_OF_ALL: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_hold_for_ten_seconds() {
        let named = NameCache::default();
        let credentials = Credentials { uid: 0, gid: 0, groups: vec![0] };
        assert_eq!(named.remembered(&credentials), None);
        let found = named.selectors(&credentials);
        assert_eq!(named.remembered(&credentials), Some(found));
        assert_eq!(named.remembered(&Credentials { uid: 1, ..credentials.clone() }), None);
        tokio::time::advance(NAMES_HOLD).await;
        assert_eq!(named.remembered(&credentials), None);
    }

    #[test]
    fn names_of_another_file_do_not_hold() {
        let named = NameCache::default();
        let credentials = Credentials::default();
        named.selectors(&credentials);
        named.0.lock().unwrap().as_mut().unwrap().sources = [None; 3];
        assert_eq!(named.remembered(&credentials), None);
    }
}
