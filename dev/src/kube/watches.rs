//! The open watches and the events that each of them gets.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::api_server::Resource;
use super::objects::Change;

/// The objects that a request selects, and their form.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) resource: Resource,
    /// The value of `spec.nodeName` in the field selector, if it has one.
    pub(super) node: Option<String>,
    /// Whether the client asks for `PartialObjectMetadata`.
    pub(super) metadata_only: bool,
}

/// The open watches.
#[derive(Default)]
pub(super) struct Watches(Vec<Watch>);

struct Watch {
    selection: Selection,
    messages: mpsc::UnboundedSender<Value>,
}

impl Selection {
    pub(super) fn holds(&self, object: &Value) -> bool {
        self.node.as_ref().is_none_or(|node| object["spec"]["nodeName"] == json!(node))
    }

    /// An object in the form that the client asks for.
    pub(super) fn shown(&self, object: &Value) -> Value {
        if !self.metadata_only {
            return object.clone();
        }
        json!({ "kind": "PartialObjectMetadata", "apiVersion": META, "metadata": object["metadata"] })
    }

    pub(super) fn list_kind(&self) -> (String, &'static str) {
        match self.metadata_only {
            true => ("PartialObjectMetadataList".into(), META),
            false => (format!("{}List", self.resource.kind()), "v1"),
        }
    }

    /// The watch event of a change; `None` if it does not concern this selection.
    pub(super) fn message(&self, change: &Change) -> Option<Value> {
        let concerned = self.resource == change.resource && self.holds(&change.object);
        concerned.then(|| json!({ "type": change.kind, "object": self.shown(&change.object) }))
    }
}

impl Watches {
    /// Opens a watch that begins with these events.
    pub(super) fn open(&mut self, selection: Selection, first: Vec<Value>) -> mpsc::UnboundedReceiver<Value> {
        let (messages, receiver) = mpsc::unbounded_channel();
        for message in first {
            let _ = messages.send(message);
        }
        self.0.push(Watch { selection, messages });
        receiver
    }

    pub(super) fn tell(&mut self, change: &Change) {
        // Drops watches whose client has gone.
        self.0.retain(|watch| match watch.selection.message(change) {
            Some(message) => watch.messages.send(message).is_ok(),
            None => !watch.messages.is_closed(),
        });
    }

    pub(super) fn bookmark(&self, version: u64) {
        for watch in &self.0 {
            let metadata = json!({ "resourceVersion": version.to_string() });
            let kind = watch.selection.resource.kind();
            let object = json!({ "kind": kind, "apiVersion": "v1", "metadata": metadata });
            let _ = watch.messages.send(json!({ "type": "BOOKMARK", "object": object }));
        }
    }

    /// Ends all watches, as the real server does after a while.
    pub(super) fn end(&mut self) {
        self.0.clear();
    }

    /// Ends all watches with an event of this failure.
    pub(super) fn end_with(&mut self, failure: &Value) {
        for watch in self.0.drain(..) {
            let _ = watch.messages.send(error(failure));
        }
    }
}

/// The watch event of a failure.
pub(super) fn error(failure: &Value) -> Value {
    json!({ "type": "ERROR", "object": failure })
}

const META: &str = "meta.k8s.io/v1";
