//! The registration entries, and the choice of those that an agent may see.
//!
//! An agent is authorized for the entries whose parent is its own ID or a *node alias* that it fulfils, for the entries
//! whose parent is one of those, and so on. A node alias is an entry whose parent is the server and whose selectors the
//! agent's node has.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::entries::{Entry, Selector};
use crate::ids;

/// All entries, sorted by ID.
#[derive(Default)]
pub(crate) struct Registry {
    entries: BTreeMap<String, Arc<Entry>>,
}

impl Registry {
    /// Adds an entry, or replaces the one with the same ID. Returns the ID.
    pub(crate) fn create(&mut self, mut entry: Entry) -> String {
        if entry.id.is_empty() {
            entry.id = ids::uuid();
        }
        if entry.created_at == 0 {
            entry.created_at = ids::now();
        }
        let id = entry.id.clone();
        self.entries.insert(id.clone(), Arc::new(entry));
        id
    }

    /// Replaces the entry with the same ID and increments its revision number. Returns false if there is none.
    pub(crate) fn update(&mut self, mut entry: Entry) -> bool {
        let Some(old) = self.entries.get_mut(&entry.id) else { return false };
        entry.revision_number = old.revision_number + 1;
        entry.created_at = old.created_at;
        *old = Arc::new(entry);
        true
    }

    pub(crate) fn delete(&mut self, id: &str) -> bool {
        self.entries.remove(id).is_some()
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.entries.values().map(|entry| Entry::clone(entry)).collect()
    }

    /// Replaces all entries. An entry that is equal keeps its revision, one that differs is updated, and the others are
    /// removed.
    pub(crate) fn replace(&mut self, entries: Vec<Entry>) {
        let mut kept = BTreeSet::new();
        for mut entry in entries {
            if entry.id.is_empty()
                && let Some(old) =
                    self.entries.values().find(|old| old.same_subject(&entry) && !kept.contains(&old.id))
            {
                entry.id.clone_from(&old.id);
            }
            let id = match self.entries.get(&entry.id) {
                Some(old) => {
                    let id = entry.id.clone();
                    if !old.same_content(&entry) {
                        self.update(entry);
                    }
                    id
                }
                None => self.create(entry),
            };
            kept.insert(id);
        }
        self.entries.retain(|id, _| kept.contains(id));
    }

    /// The entries that an agent may see, sorted by ID. `node` holds the selectors of its node.
    pub(crate) fn authorized(
        &self,
        server_id: &str,
        agent_id: &str,
        node: &BTreeSet<Selector>,
    ) -> BTreeMap<String, Arc<Entry>> {
        let mut parents = vec![agent_id];
        let mut children: HashMap<&str, Vec<&Arc<Entry>>> = HashMap::new();
        for entry in self.entries.values() {
            if entry.parent_id != server_id {
                children.entry(&entry.parent_id).or_default().push(entry);
            } else if !entry.selectors.is_empty() && entry.selectors.iter().all(|s| node.contains(s)) {
                parents.push(&entry.spiffe_id);
            }
        }
        let mut seen = HashSet::new();
        let mut found = BTreeMap::new();
        while let Some(parent) = parents.pop() {
            if !seen.insert(parent) {
                continue;
            }
            for child in children.get(parent).into_iter().flatten() {
                found.insert(child.id.clone(), Arc::clone(child));
                parents.push(&child.spiffe_id);
            }
        }
        found
    }
}
