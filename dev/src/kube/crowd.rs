//! A big node: many pods, each as large as real ones.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::{Container, Pod};

/// Makes this many running pods, of about ten KiB each, with two containers each. Their container IDs are
/// `container_id("crowd-N/main")` and `container_id("crowd-N/proxy")`.
pub fn crowd(pods: usize) -> Vec<Pod> {
    let container = |pod: &str, name: &str, image: &str| {
        Container::running(name, image, &container_id(&format!("{pod}/{name}")))
    };
    let pod = |number: usize| {
        let name = format!("crowd-{number}");
        let pod = Pod::new("crowd", &name)
            .service_account("crowd")
            .label("app", "crowd")
            .label("pod-template-hash", "59c4d7f6bd")
            .owner("ReplicaSet", "crowd-59c4d7f6bd")
            .container(container(&name, "main", "registry.example.org/crowd/main:1.2.3"))
            .container(container(&name, "proxy", "registry.example.org/crowd/envoy:1.34.0"));
        Pod { bulky: true, ..pod }
    };
    (0..pods).map(pod).collect()
}

/// A container ID made from this word: 64 hexadecimal digits, the same in every run.
pub fn container_id(word: &str) -> String {
    let part = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, word).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    (0..4).map(part).collect()
}

/// Adds annotations, managed fields, environment, volumes, probes and conditions.
pub(super) fn add_bulk(pod: &mut Value) {
    let names: Vec<String> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str().map(ToOwned::to_owned))
        .collect();
    pod["metadata"]["resourceVersion"] = json!("123456789");
    pod["metadata"]["annotations"] = annotations();
    pod["metadata"]["managedFields"] =
        ["kube-controller-manager", "kubelet", "kubectl-edit"].map(|who| managed_by(who, &names)).into();
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        add(container, container_bulk());
    }
    let taints = ["not-ready", "unreachable"].map(toleration);
    let conditions = CONDITIONS.map(|kind| json!({ "type": kind, "status": "True", "lastProbeTime": null }));
    let volumes: Vec<_> = (0..VOLUMES).map(volume).collect();
    add(
        &mut pod["spec"],
        json!({ "volumes": volumes, "tolerations": taints, "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "enableServiceLinks": true }),
    );
    add(
        &mut pod["status"],
        json!({ "conditions": conditions, "hostIP": "10.0.0.1", "podIP": "10.1.2.3",
        "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable" }),
    );
}

fn annotations() -> Value {
    json!({
        "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
        "kubernetes.io/config.source": "api",
        "prometheus.io/scrape": "true",
        "kubectl.kubernetes.io/last-applied-configuration": json!({ "spec": container_bulk() }).to_string(),
    })
}

fn managed_by(manager: &str, containers: &[String]) -> Value {
    let managed = |name: &str| (format!("f:{name}"), json!({}));
    let setting =
        |n: usize| (format!("k:{{\"name\":\"SETTING_{n}\"}}"), json!({ "f:name": {}, "f:value": {} }));
    let container = |name: &String| {
        let mut fields: Map<_, _> = FIELDS.into_iter().map(managed).collect();
        fields.insert("f:env".into(), (0..SETTINGS).map(setting).collect::<Map<_, _>>().into());
        (format!("k:{{\"name\":\"{name}\"}}"), Value::Object(fields))
    };
    let containers: Map<_, _> = containers.iter().map(container).collect();
    json!({
        "manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:containers": containers } },
    })
}

fn container_bulk() -> Value {
    let setting = |n: usize| json!({ "name": format!("SETTING_{n}"), "value": format!("some value {n}") });
    let mount = |n: usize| json!({ "name": format!("volume-{n}"), "mountPath": format!("/mnt/{n}") });
    let settings: Vec<_> = (0..SETTINGS).map(setting).collect();
    let mounts: Vec<_> = (0..VOLUMES).map(mount).collect();
    let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 10 });
    json!({
        "command": ["/bin/sh", "-c", "trap \"exit 0\" TERM; while :; do sleep 1 & wait $!; done"],
        "env": settings, "volumeMounts": mounts, "livenessProbe": probe, "readinessProbe": probe,
        "resources": { "limits": { "memory": "128Mi" }, "requests": { "cpu": "50m", "memory": "64Mi" } },
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    })
}

fn toleration(taint: &str) -> Value {
    json!({ "key": format!("node.kubernetes.io/{taint}"), "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 300 })
}

fn volume(number: usize) -> Value {
    json!({ "name": format!("volume-{number}"), "projected": { "defaultMode": 420, "sources": [
        { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
    ] } })
}

fn add(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

const CONDITIONS: [&str; 4] = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];
const FIELDS: [&str; 5] = ["image", "imagePullPolicy", "name", "ports", "resources"];
const SETTINGS: usize = 12;
const VOLUMES: usize = 4;
