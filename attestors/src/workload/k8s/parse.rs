//! Parses the kubelet's pod list as a stream. One pod at a time is read from the text, and reduced to the fields that
//! attestation needs. A pod that is the same as in the list before is shared with that list. So neither the text nor
//! a second copy of a pod stays in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use tracing::warn;

use super::pods::{ContainerStatus, Containers, Owner, Pod, Pods};

/// Why a text is no pod list.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not JSON, not complete, or of another shape.
    #[error("unable to parse kubelet response: {0}")]
    Json(#[from] serde_json::Error),
    /// It is an object without `items`.
    #[error("invalid kubelet response: expected an items array")]
    NoItems,
}

/// Parses a pod list. Pods of `before` that have not changed are shared.
///
/// # Errors
/// [`ParseError`].
pub fn pods(text: impl Read, before: &Pods) -> Result<Pods, ParseError> {
    let mut deserializer = serde_json::Deserializer::from_reader(text);
    let found = List(before).deserialize(&mut deserializer)?;
    deserializer.end()?;
    found.ok_or(ParseError::NoItems)
}

/// Visits the top-level object.
struct List<'a>(&'a Pods);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Option<Pods>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Option<Pods>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pod list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                found = Some(map.next_value_seed(Items(self.0))?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Visits `items`: an array, or null if Go has an empty list.
struct Items<'a>(&'a Pods);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Pods;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Pods, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Pods;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an items array")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Pods, E> {
        Ok(Pods::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Pods, A::Error> {
        let mut pods = Pods::default();
        while let Some(raw) = items.next_element::<RawPod>()? {
            let pod = Pod::from(raw);
            if pod.uid.is_empty() {
                warn!(pod_name = %pod.name, "Pod has no UID");
                continue;
            }
            pods.insert(share_unchanged(self.0, pod));
        }
        Ok(pods)
    }
}

/// Returns the pod of the list before if it is the same, and `pod` otherwise.
pub(super) fn share_unchanged(before: &Pods, pod: Pod) -> Arc<Pod> {
    before.get(&pod.uid).filter(|known| ***known == pod).cloned().unwrap_or_else(|| Arc::new(pod))
}

/// The fields that are read of a pod in JSON. Go writes null for empty values.
#[derive(Deserialize)]
struct RawPod {
    #[serde(default, deserialize_with = "or_null")]
    metadata: RawMetadata,
    #[serde(default, deserialize_with = "or_null")]
    spec: RawSpec,
    #[serde(default, deserialize_with = "or_null")]
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawMetadata {
    #[serde(deserialize_with = "or_null")]
    uid: Box<str>,
    #[serde(deserialize_with = "or_null")]
    name: Box<str>,
    #[serde(deserialize_with = "or_null")]
    namespace: Box<str>,
    #[serde(deserialize_with = "or_null")]
    labels: BTreeMap<Box<str>, Box<str>>,
    #[serde(deserialize_with = "or_null")]
    owner_references: Vec<RawOwner>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawOwner {
    #[serde(deserialize_with = "or_null")]
    kind: Box<str>,
    #[serde(deserialize_with = "or_null")]
    name: Box<str>,
    #[serde(deserialize_with = "or_null")]
    uid: Box<str>,
}

/// The fields that are read of a pod's `spec`.
#[derive(Deserialize, Default, Debug, Clone)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawSpec {
    #[serde(deserialize_with = "or_null")]
    service_account_name: Box<str>,
    #[serde(deserialize_with = "or_null")]
    node_name: Box<str>,
    #[serde(deserialize_with = "or_null")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "or_null")]
    init_containers: Vec<RawContainer>,
    #[serde(deserialize_with = "or_null")]
    ephemeral_containers: Vec<RawContainer>,
}

#[derive(Deserialize, Default, Debug, Clone)]
#[serde(default)]
struct RawContainer {
    #[serde(deserialize_with = "or_null")]
    name: Box<str>,
    #[serde(deserialize_with = "or_null")]
    image: Box<str>,
}

/// The fields that are read of a pod's `status`.
#[derive(Deserialize, Default, Debug, Clone)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RawStatus {
    #[serde(deserialize_with = "or_null")]
    container_statuses: Vec<RawContainerStatus>,
    #[serde(deserialize_with = "or_null")]
    init_container_statuses: Vec<RawContainerStatus>,
    #[serde(deserialize_with = "or_null")]
    ephemeral_container_statuses: Vec<RawContainerStatus>,
}

#[derive(Deserialize, Default, Debug, Clone)]
#[serde(default, rename_all = "camelCase")]
struct RawContainerStatus {
    #[serde(deserialize_with = "or_null")]
    name: Box<str>,
    #[serde(deserialize_with = "or_null")]
    image: Box<str>,
    #[serde(rename = "imageID", deserialize_with = "or_null")]
    image_id: Box<str>,
    #[serde(rename = "containerID", deserialize_with = "or_null")]
    container_id: Box<str>,
}

fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let owner = |raw: RawOwner| Owner { kind: raw.kind, name: raw.name, uid: raw.uid };
        Self {
            uid: raw.metadata.uid,
            name: raw.metadata.name,
            namespace: raw.metadata.namespace,
            labels: raw.metadata.labels.into_iter().collect(),
            owners: raw.metadata.owner_references.into_iter().map(owner).collect(),
            ..body(raw.spec, raw.status)
        }
    }
}

/// Makes a pod without its metadata.
pub(super) fn body(spec: RawSpec, status: RawStatus) -> Pod {
    Pod {
        service_account: spec.service_account_name,
        node_name: spec.node_name,
        containers: containers(spec.containers, status.container_statuses),
        init_containers: containers(spec.init_containers, status.init_container_statuses),
        ephemeral_containers: containers(spec.ephemeral_containers, status.ephemeral_container_statuses),
        ..Pod::default()
    }
}

fn containers(specified: Vec<RawContainer>, statuses: Vec<RawContainerStatus>) -> Containers {
    let status = |raw: RawContainerStatus| ContainerStatus {
        name: raw.name,
        image: raw.image,
        image_id: raw.image_id,
        id: container_id(&raw.container_id).into(),
    };
    Containers {
        specified: specified.into_iter().map(|container| (container.name, container.image)).collect(),
        statuses: statuses.into_iter().map(status).collect(),
    }
}

/// The ID in `containerd://ID`; empty if there is none.
fn container_id(url: &str) -> &str {
    url.split_once("://").map_or("", |(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Pods, ParseError> {
        pods(text.as_bytes(), &Pods::default())
    }

    #[test]
    fn what_attestation_needs() {
        let list = read(
            r#"{"kind":"PodList","items":[{"metadata":{"uid":"u","name":"n","namespace":"ns","labels":{"b":"2","a":"1"},
            "ownerReferences":[{"kind":"ReplicaSet","name":"rs","uid":"o","controller":true}],"managedFields":[{"x":[1,2]}]},
            "spec":{"serviceAccountName":"sa","nodeName":"node","containers":[{"name":"c","image":"i","env":[]}]},
            "status":{"phase":"Running","containerStatuses":[{"name":"c","image":"i","imageID":"d","containerID":"containerd://id"}]}}]}"#,
        )
        .unwrap();
        let pod = list.get("u").unwrap();
        assert_eq!(
            (&*pod.name, &*pod.namespace, &*pod.service_account, &*pod.node_name),
            ("n", "ns", "sa", "node")
        );
        assert_eq!(*pod.labels, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert_eq!(*pod.owners, [Owner { kind: "ReplicaSet".into(), name: "rs".into(), uid: "o".into() }]);
        let status = pod.status("id").unwrap();
        assert_eq!((&*status.name, &*status.image, &*status.image_id), ("c", "i", "d"));
    }

    #[test]
    fn go_writes_null() {
        assert!(read(r#"{"items":null}"#).unwrap().is_empty());
        let list = read(
            r#"{"items":[{"metadata":{"uid":"u","labels":null,"ownerReferences":null},"spec":null,"status":null},
            {"metadata":{"uid":"v"},"status":{"containerStatuses":null}}]}"#,
        );
        assert_eq!(list.unwrap().len(), 2);
    }

    #[test]
    fn a_pod_without_a_uid_is_left_out() {
        let list = read(r#"{"items":[{"metadata":{"name":"x"}},{},{"metadata":{"uid":"u"}}]}"#).unwrap();
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn a_pod_that_has_not_changed_is_the_same() {
        let text = |label: &str| {
            format!(
                r#"{{"items":[{{"metadata":{{"uid":"u"}}}},{{"metadata":{{"uid":"v","labels":{{"a":"{label}"}}}}}}]}}"#
            )
        };
        let first = read(&text("1")).unwrap();
        assert!(pods(text("1").as_bytes(), &first).unwrap().same_as(&first));
        let changed = pods(text("2").as_bytes(), &first).unwrap();
        assert!(!changed.same_as(&first));
        assert!(Arc::ptr_eq(changed.get("u").unwrap(), first.get("u").unwrap()));
    }

    #[test]
    fn refusals() {
        assert!(matches!(read("{}"), Err(ParseError::NoItems)));
        let deep = format!("{{\"items\":{}", "[".repeat(100_000));
        for text in [
            "",
            "[]",
            "null",
            "{",
            r#"{"items":7}"#,
            r#"{"items":[}"#,
            r#"{"items":[7]}"#,
            r#"{"items":[]} x"#,
            &deep,
        ] {
            assert!(matches!(read(text), Err(ParseError::Json(_))), "{text:.40}");
        }
    }

    #[test]
    fn container_ids() {
        assert_eq!(container_id("containerd://abc"), "abc");
        assert_eq!(container_id("docker://abc"), "abc");
        assert_eq!(container_id("abc"), "");
        assert_eq!(container_id(""), "");
    }
}
