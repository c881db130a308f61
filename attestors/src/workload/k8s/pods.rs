//! The parts of pods that attestation needs, and the list of the pods on this node.

use std::collections::HashMap;
use std::sync::Arc;

use crate::container::Container;

/// A pod, with the fields that attestation needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.labels`.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `metadata.ownerReferences`.
    pub owners: Box<[Owner]>,
    /// `spec.serviceAccountName`.
    pub service_account: Box<str>,
    /// `spec.nodeName`.
    pub node_name: Box<str>,
    /// Ordinary containers.
    pub containers: Containers,
    /// Init containers, native sidecars among them.
    pub init_containers: Containers,
    /// Ephemeral containers (`kubectl debug`).
    pub ephemeral_containers: Containers,
}

/// The containers of one kind (ordinary, init or ephemeral) in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Containers {
    /// Name and image of each, from the pod's `spec`.
    pub specified: Box<[(Box<str>, Box<str>)]>,
    /// Their statuses, from the pod's `status`. Empty until the kubelet has published it.
    pub statuses: Box<[ContainerStatus]>,
}

/// The status of one container, from the kubelet or the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerStatus {
    /// `name`.
    pub name: Box<str>,
    /// `image`.
    pub image: Box<str>,
    /// `imageID`; empty until the container has been made.
    pub image_id: Box<str>,
    /// The ID of `containerID` without the runtime's name; empty until the container has been made.
    pub id: Box<str>,
}

/// The object that owns a pod, such as a ReplicaSet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// `kind`.
    pub kind: Box<str>,
    /// `name`.
    pub name: Box<str>,
    /// `uid`.
    pub uid: Box<str>,
}

/// The pods of this node at one time, by UID.
#[derive(Debug, Default)]
pub struct Pods(HashMap<Box<str>, Arc<Pod>>);

/// Two pods claim one container, so neither is trusted (SPIRE, `k8s.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two pods found with same container Id")]
pub struct TwoPods;

impl Pod {
    /// The status of the container with this ID, of whatever kind.
    #[must_use]
    pub fn status(&self, container: &str) -> Option<&ContainerStatus> {
        [&self.containers, &self.init_containers, &self.ephemeral_containers]
            .into_iter()
            .flat_map(|kind| &kind.statuses)
            .find(|status| &*status.id == container)
    }

    /// Returns this pod with the status of a container that the kubelet has not published yet. The other containers
    /// get the status that the kubelet publishes before they run: the image that is specified. `None` when the pod
    /// specifies no such container.
    #[must_use]
    pub fn with_status(&self, status: &ContainerStatus) -> Option<Self> {
        let mut pod = self.clone();
        let named = |kind: &Containers| kind.specified.iter().any(|(name, _)| *name == status.name);
        let kinds = [&mut pod.containers, &mut pod.init_containers, &mut pod.ephemeral_containers];
        let found = kinds.into_iter().find(|kind| named(kind))?;
        found.publish(status);
        // The kubelet publishes all statuses of a pod at once.
        for kind in [&mut pod.containers, &mut pod.init_containers] {
            kind.publish_specified();
        }
        Some(pod)
    }
}

impl Containers {
    fn publish(&mut self, status: &ContainerStatus) {
        let others = self.statuses.iter().filter(|other| other.name != status.name).cloned();
        self.statuses = others.chain([status.clone()]).collect();
    }

    fn publish_specified(&mut self) {
        let known = |name: &str| self.statuses.iter().any(|status| &*status.name == name);
        let missing = self.specified.iter().filter(|(name, _)| !known(name)).map(|(name, image)| {
            ContainerStatus { name: name.clone(), image: image.clone(), ..ContainerStatus::default() }
        });
        self.statuses = self.statuses.iter().cloned().chain(missing).collect();
    }
}

impl Pods {
    /// The pod with this UID.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.0.get(uid)
    }

    /// Adds a pod, or replaces it.
    pub fn insert(&mut self, pod: Arc<Pod>) {
        self.0.insert(pod.uid.clone(), pod);
    }

    /// All pods, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.0.values()
    }

    /// The number of pods.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no pods.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both lists share all their pods.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let same = |pod: &Arc<Pod>| other.get(&pod.uid).is_some_and(|known| Arc::ptr_eq(known, pod));
        self.len() == other.len() && self.iter().all(same)
    }

    /// The pod that a container belongs to: the one with a status for it. If the container's pod UID is known, no
    /// other pod is considered.
    ///
    /// # Errors
    /// [`TwoPods`].
    pub fn find(&self, container: &Container) -> Result<Option<&Arc<Pod>>, TwoPods> {
        if let Some(uid) = &container.pod_uid {
            return Ok(self.get(uid).filter(|pod| pod.status(&container.id).is_some()));
        }
        let mut found = self.iter().filter(|pod| pod.status(&container.id).is_some());
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(TwoPods),
            (found, _) => Ok(found),
        }
    }
}

impl FromIterator<Arc<Pod>> for Pods {
    fn from_iter<I: IntoIterator<Item = Arc<Pod>>>(pods: I) -> Self {
        Self(pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, id: &str) -> ContainerStatus {
        ContainerStatus { name: name.into(), id: id.into(), image: "i".into(), image_id: "d".into() }
    }

    fn pod(uid: &str, statuses: &[ContainerStatus]) -> Arc<Pod> {
        let containers = Containers { specified: Box::default(), statuses: statuses.into() };
        Arc::new(Pod { uid: uid.into(), containers, ..Pod::default() })
    }

    fn container(id: &str, pod_uid: Option<&str>) -> Container {
        Container { id: id.into(), pod_uid: pod_uid.map(Into::into) }
    }

    #[test]
    fn by_container_id() {
        let pods: Pods = [pod("a", &[status("x", "1")]), pod("b", &[status("x", "2")])].into_iter().collect();
        assert_eq!(&*pods.find(&container("2", None)).unwrap().unwrap().uid, "b");
        assert_eq!(&*pods.find(&container("2", Some("b"))).unwrap().unwrap().uid, "b");
        assert_eq!(pods.find(&container("2", Some("a"))), Ok(None));
        assert_eq!(pods.find(&container("2", Some("c"))), Ok(None));
        assert_eq!(pods.find(&container("3", None)), Ok(None));
    }

    #[test]
    fn two_pods_with_one_container_id() {
        let pods: Pods = [pod("a", &[status("x", "1")]), pod("b", &[status("x", "1")])].into_iter().collect();
        assert_eq!(pods.find(&container("1", None)), Err(TwoPods));
        // The kernel names the pod.
        assert_eq!(&*pods.find(&container("1", Some("b"))).unwrap().unwrap().uid, "b");
    }

    #[test]
    fn a_status_that_is_not_published_yet() {
        let specified = |names: &[&str]| Containers {
            specified: names.iter().map(|name| (Box::from(*name), Box::from("image"))).collect(),
            statuses: Box::default(),
        };
        let pod = Pod {
            containers: specified(&["main", "other"]),
            init_containers: specified(&["once"]),
            ..Pod::default()
        };
        let published = pod.with_status(&status("main", "1")).unwrap();
        let names = |kind: &Containers| {
            kind.statuses.iter().map(|s| (s.name.to_string(), s.image_id.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(
            names(&published.containers),
            [("main".into(), "d".into()), ("other".into(), String::new())]
        );
        assert_eq!(names(&published.init_containers), [("once".into(), String::new())]);
        assert_eq!(pod.with_status(&status("stranger", "1")), None);
    }
}
