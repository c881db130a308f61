//! Pods and their containers, in the form of the kubelet and the API server.

use serde_json::{Map, Value, json};

use crate::ids;

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`. [`Pod::new`] makes it from namespace and name.
    pub uid: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `spec.nodeName`.
    pub node: String,
    /// `metadata.labels`.
    pub labels: Vec<(String, String)>,
    /// Kind, name and UID of each of `metadata.ownerReferences`.
    pub owners: Vec<(String, String, String)>,
    /// Ordinary containers.
    pub containers: Vec<Container>,
    /// Init containers.
    pub init_containers: Vec<Container>,
    /// Ephemeral containers.
    pub ephemeral_containers: Vec<Container>,
    /// Whether the JSON also has what attestation does not need, as much as real pods have of it.
    pub bulky: bool,
}

/// A container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// The container's name.
    pub name: String,
    /// The image in the pod's spec.
    pub image: String,
    /// The published status; `None` if the kubelet has not published one yet.
    pub status: Option<ContainerStatus>,
}

/// The status of a container that the kubelet publishes.
#[derive(Clone, Debug, Default)]
pub struct ContainerStatus {
    /// The image's name, as the container runtime has it.
    pub image: String,
    /// `imageID`; empty until the container is created.
    pub image_id: String,
    /// `containerID` without its scheme; empty until the container is created.
    pub container_id: String,
}

impl Pod {
    /// A pod of the `default` service account, without containers.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            uid: ids::stable_uuid(&[namespace, name]),
            service_account: "default".into(),
            node: NODE.into(),
            labels: Vec::new(),
            owners: Vec::new(),
            containers: Vec::new(),
            init_containers: Vec::new(),
            ephemeral_containers: Vec::new(),
            bulky: false,
        }
    }

    /// Sets the service account.
    pub fn service_account(self, name: &str) -> Self {
        Self { service_account: name.into(), ..self }
    }

    /// Sets the node.
    pub fn on_node(self, node: &str) -> Self {
        Self { node: node.into(), ..self }
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Adds an owner.
    pub fn owner(mut self, kind: &str, name: &str) -> Self {
        self.owners.push((kind.into(), name.into(), ids::stable_uuid(&[kind, name])));
        self
    }

    /// Adds a container.
    pub fn container(mut self, container: Container) -> Self {
        self.containers.push(container);
        self
    }

    /// Adds an init container.
    pub fn init_container(mut self, container: Container) -> Self {
        self.init_containers.push(container);
        self
    }

    /// Adds an ephemeral container.
    pub fn ephemeral_container(mut self, container: Container) -> Self {
        self.ephemeral_containers.push(container);
        self
    }

    /// The pod as JSON.
    pub fn json(&self) -> Value {
        let mut pod = json!({
            "metadata": { "name": self.name, "namespace": self.namespace, "uid": self.uid,
                "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "serviceAccountName": self.service_account, "nodeName": self.node },
            "status": { "phase": "Running" },
        });
        if !self.labels.is_empty() {
            let labels = self.labels.iter().map(|(key, value)| (key.clone(), json!(value)));
            pod["metadata"]["labels"] = Value::Object(labels.collect());
        }
        if !self.owners.is_empty() {
            let owner = |(kind, name, uid): &(String, String, String)| json!({ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true });
            pod["metadata"]["ownerReferences"] = self.owners.iter().map(owner).collect();
        }
        for (kind, statuses, containers) in [
            ("containers", "containerStatuses", &self.containers),
            ("initContainers", "initContainerStatuses", &self.init_containers),
            ("ephemeralContainers", "ephemeralContainerStatuses", &self.ephemeral_containers),
        ] {
            if containers.is_empty() {
                continue;
            }
            pod["spec"][kind] = containers.iter().map(Container::spec).collect();
            let published: Vec<_> = containers.iter().filter_map(Container::published).collect();
            if !published.is_empty() {
                pod["status"][statuses] = published.into();
            }
        }
        if self.bulky {
            super::crowd::add_bulk(&mut pod);
        }
        pod
    }
}

impl Container {
    /// A running container with this ID.
    pub fn running(name: &str, image: &str, id: &str) -> Self {
        let status = ContainerStatus {
            image: image.into(),
            image_id: format!("{image}@sha256:{}", super::container_id(image)),
            container_id: id.into(),
        };
        Self { status: Some(status), ..Self::unpublished(name, image) }
    }

    /// A container that waits to be created. Its status has no IDs.
    pub fn waiting(name: &str, image: &str) -> Self {
        let status = ContainerStatus { image: image.into(), ..ContainerStatus::default() };
        Self { status: Some(status), ..Self::unpublished(name, image) }
    }

    /// A container without a published status.
    pub fn unpublished(name: &str, image: &str) -> Self {
        Self { name: name.into(), image: image.into(), status: None }
    }

    fn spec(&self) -> Value {
        json!({ "name": self.name, "image": self.image, "imagePullPolicy": "IfNotPresent" })
    }

    fn published(&self) -> Option<Value> {
        let status = self.status.as_ref()?;
        let mut json = Map::new();
        json.insert("name".into(), json!(self.name));
        json.insert("image".into(), json!(status.image));
        json.insert("imageID".into(), json!(status.image_id));
        json.insert("restartCount".into(), json!(0));
        if status.container_id.is_empty() {
            json.insert("ready".into(), json!(false));
            json.insert("state".into(), json!({ "waiting": { "reason": "PodInitializing" } }));
        } else {
            json.insert("containerID".into(), json!(format!("containerd://{}", status.container_id)));
            json.insert("ready".into(), json!(true));
            json.insert("state".into(), json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } }));
        }
        Some(Value::Object(json))
    }
}

/// The JSON text of the kubelet's list of these pods.
pub fn pod_list(pods: &[Pod]) -> String {
    let items: Vec<_> = pods.iter().map(Pod::json).collect();
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }).to_string()
}

const NODE: &str = "node";
