//! The selectors of pods and containers (SPIRE, `k8s.go`).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::sync::{Arc, Mutex};

use identity::Selector;

use super::pods::{ContainerStatus, Containers, Pod};
use crate::lock;

/// A cache of the selectors of containers that have called, as long as their pods do not change: for two hundred
/// streams of one Envoy they are made once.
#[derive(Debug, Default)]
pub(super) struct Memo(Mutex<HashMap<Box<str>, Cached>>);

#[derive(Debug)]
struct Cached {
    pod: Arc<Pod>,
    found: PodSelectors,
}

impl Memo {
    /// Returns the selectors of a container. `find` makes them, unless they are cached for this very `Arc` of the
    /// pod: lists share the pods that have not changed.
    pub(super) fn selectors(
        &self,
        container: &str,
        pod: &Arc<Pod>,
        find: impl FnOnce(&mut PodSelectors),
    ) -> PodSelectors {
        let mut cached = lock(&self.0);
        if let Some(cached) = cached.get(container).filter(|cached| Arc::ptr_eq(&cached.pod, pod)) {
            return cached.found.clone();
        }
        let mut found = PodSelectors::default();
        find(&mut found);
        if cached.len() >= CONTAINERS_CACHED {
            cached.clear();
        }
        cached.insert(container.into(), Cached { pod: Arc::clone(pod), found: found.clone() });
        found
    }
}

/// Selectors of kind `k8s`, as they are collected.
#[derive(Debug, Clone, Default)]
pub(super) struct PodSelectors(Vec<Selector>);

impl PodSelectors {
    /// Adds the selectors of a pod. Images appear by name and by ID. An ID that is not known yet appears as an empty
    /// one, because entries that were written for spire-agent may use that.
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

    /// Adds the selectors of the caller's own container.
    pub(super) fn container(&mut self, status: &ContainerStatus) {
        self.add("container-name", &status.name);
        self.image("container-image", status);
    }

    /// Adds the selectors of the pod's namespace.
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

/// Containers that are cached. A node has fewer.
const CONTAINERS_CACHED: usize = 4096;
