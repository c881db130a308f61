//! The API server's objects, their changes and the open watches.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::api_server::Resource;
use super::watches::{Selection, Watches};

/// All objects. They share one counter of versions.
pub(super) struct Objects {
    version: u64,
    /// Changes up to this version are not available any more.
    forgotten: u64,
    live: BTreeMap<(Resource, String), Value>,
    changes: Vec<Change>,
    pub(super) watches: Watches,
}

/// A change of an object. `kind` is the type of its watch event.
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) resource: Resource,
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

impl Objects {
    pub(super) fn new() -> Self {
        let live = BTreeMap::new();
        Self { version: 1, forgotten: 0, live, changes: Vec::new(), watches: Watches::default() }
    }

    /// Adds an object or replaces it.
    pub(super) fn apply(&mut self, resource: Resource, mut object: Value) {
        let key = (resource, key(&object));
        let kind = if self.live.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.stamp(resource, &mut object);
        self.live.insert(key, object.clone());
        self.changed(Change { version: self.version, resource, kind, object });
    }

    /// Deletes the object with the name of this one.
    pub(super) fn delete(&mut self, resource: Resource, object: &Value) {
        if let Some(mut object) = self.live.remove(&(resource, key(object))) {
            self.stamp(resource, &mut object);
            self.changed(Change { version: self.version, resource, kind: "DELETED", object });
        }
    }

    /// The list of the selected objects.
    pub(super) fn list(&self, selection: &Selection) -> Value {
        let of_kind = self.live.iter().filter(|((resource, _), _)| *resource == selection.resource);
        let items = of_kind.map(|(_, object)| object).filter(|object| selection.holds(object));
        let items: Vec<_> = items.map(|object| selection.shown(object)).collect();
        let (kind, version) = selection.list_kind();
        let metadata = json!({ "resourceVersion": self.version.to_string() });
        json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "items": items })
    }

    pub(super) fn get(&self, resource: Resource, name: &str) -> Option<&Value> {
        self.live.get(&(resource, name.to_owned()))
    }

    /// The watch events after the version `seen`. If they are not available any more, the error is the `Status` that
    /// ends the watch.
    pub(super) fn since(&self, selection: &Selection, seen: u64) -> Result<Vec<Value>, Value> {
        if seen < self.forgotten {
            return Err(too_old(seen, self.forgotten));
        }
        let later = self.changes.iter().filter(|change| change.version > seen);
        Ok(later.filter_map(|change| selection.message(change)).collect())
    }

    pub(super) fn bookmark(&mut self) {
        self.watches.bookmark(self.version);
    }

    /// Forgets all changes. Ends all watches with 410 Gone, and later ones that begin at an older version.
    pub(super) fn expire(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.changes.clear();
        self.watches.end_with(&too_old(self.version - 1, self.version));
    }

    fn stamp(&mut self, resource: Resource, object: &mut Value) {
        self.version += 1;
        object["kind"] = json!(resource.kind());
        object["apiVersion"] = json!("v1");
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
    }

    fn changed(&mut self, change: Change) {
        self.watches.tell(&change);
        self.changes.push(change);
    }
}

/// The key of an object: `namespace/name`, or only the name without a namespace.
fn key(object: &Value) -> String {
    let field = |name: &str| object["metadata"][name].as_str();
    let name = field("name").unwrap_or_default();
    field("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// A `Status` object of a failure.
pub(super) fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code })
}

fn too_old(seen: u64, oldest: u64) -> Value {
    failure(410, "Expired", &format!("too old resource version: {seen} ({oldest})"))
}
