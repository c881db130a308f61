//! What a pod and a container are called in registration entries (SPIRE, `k8s.go`).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use identity::Selector;

use super::pods::{ContainerStatus, Containers, Pod};

/// The selectors of containers that have called, for as long as their pods stay what they were: two hundred streams of
/// one Envoy have them made once.
#[derive(Debug, Default)]
pub(super) struct Memo(Mutex<HashMap<Box<str>, Known>>);

#[derive(Debug)]
struct Known {
    of: Arc<Pod>,
    found: Found,
}

impl Memo {
    /// The selectors of a container, made by `find` if this very pod is not the one that they were made of. Lists share
    /// the pods that have not changed.
    pub(super) fn selectors(&self, container: &str, pod: &Arc<Pod>, find: impl FnOnce(&mut Found)) -> Found {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(container).filter(|known| Arc::ptr_eq(&known.of, pod)) {
            return known.found.clone();
        }
        let mut found = Found::default();
        find(&mut found);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(container.into(), Known { of: Arc::clone(pod), found: found.clone() });
        found
    }
}

/// Selectors of kind `k8s`.
#[derive(Debug, Clone, Default)]
pub(super) struct Found(Vec<Selector>);

impl Found {
    /// Those of the pod. Images appear by name and by ID, an ID that is not known yet as an empty one: entries of
    /// spire-agent's may be written for that.
    pub(super) fn pod(&mut self, pod: &Pod) {
        self.add("sa", &pod.service_account);
        self.add("ns", &pod.namespace);
        self.add("node-name", &pod.node_name);
        self.add("pod-uid", &pod.uid);
        self.add("pod-name", &pod.name);
        self.add("pod-image-count", pod.containers.statuses.len());
        self.add("pod-init-image-count", pod.init_containers.statuses.len());
        self.images("pod-image", &pod.containers);
        self.images("pod-init-image", &pod.init_containers);
        for (key, value) in &pod.labels {
            self.add("pod-label", format_args!("{key}:{value}"));
        }
        for owner in &pod.owners {
            self.add("pod-owner", format_args!("{}:{}", owner.kind, owner.name));
            self.add("pod-owner-uid", format_args!("{}:{}", owner.kind, owner.uid));
        }
    }

    /// Those of the caller's own container.
    pub(super) fn container(&mut self, status: &ContainerStatus) {
        self.add("container-name", &status.name);
        self.image("container-image", status);
    }

    /// Those of the pod's namespace.
    pub(super) fn namespace(&mut self, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            self.add("ns-label", format_args!("{key}:{value}"));
        }
    }

    pub(super) fn into_selectors(self) -> Vec<Selector> {
        self.0
    }

    fn images(&mut self, name: &str, containers: &Containers) {
        for status in &containers.statuses {
            self.image(name, status);
        }
    }

    fn image(&mut self, name: &str, status: &ContainerStatus) {
        self.add(name, &status.image);
        self.add(name, &status.image_id);
    }

    fn add(&mut self, name: &str, value: impl Display) {
        self.0.extend(Selector::new("k8s", &format!("{name}:{value}")));
    }
}

/// Containers; a node has fewer.
const MOST_KNOWN: usize = 4096;
