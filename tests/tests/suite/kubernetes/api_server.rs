//! The API server: pods by a watch, and labels of namespaces.

use std::path::PathBuf;

use dev::kube::{ApiServer, Container, Pod, Resource, container_id};
use harness::{Sds, sds_request, trial};
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::{MAIN, Node, Setup, cgroup, kubelet, pod, running, web};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("k8s_watch_tells_the_pods_of_this_node", watch),
        trial("k8s_watch_cut_goes_on", watch_cut),
        trial("k8s_watch_too_old_lists_anew", watch_too_old),
        trial("k8s_watch_refused", watch_refused),
        trial("k8s_watch_down", watch_down),
        trial("k8s_watch_wakes_a_held_sds_stream", held_stream),
        trial("k8s_kubeconfig_absent_at_start", kubeconfig_absent),
        trial("k8s_namespace_labels", namespace_labels),
        trial("k8s_namespace_labels_refused", namespace_labels_refused),
        trial("k8s_namespace_labels_watched", namespace_labels_watched),
    ]
}

/// An API server that has this process's pod, and the folder of its kubeconfig.
fn api_server() -> (ApiServer, TempDir) {
    let server = ApiServer::start().expect("the development API server starts");
    server.apply_pod(&web());
    server.apply_namespace("shop", &[("team", "red")]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("kubeconfig"), server.kubeconfig()).expect("written");
    (server, folder)
}

fn environment(folder: &TempDir) -> Vec<(&'static str, PathBuf)> {
    vec![("KUBECONFIG", folder.path().join("kubeconfig")), ("MY_NODE_NAME", "node".into())]
}

/// A node that watches its pods at the API server.
async fn watching(folder: &TempDir) -> Node {
    watching_with(Setup::new(), folder).await
}

async fn watching_with(setup: Setup, folder: &TempDir) -> Node {
    let setup = Setup {
        kubelet: false,
        files: false,
        experimental: "pod_source = \"api-server\"".into(),
        environment: environment(folder),
        ..setup
    };
    setup.start(kubelet(&[])).await
}

/// A node that reads labels of namespaces.
async fn labelling(folder: &TempDir, plugin: &str) -> Node {
    let setup = Setup { environment: environment(folder), ..Setup::new() };
    // Only the watch needs a node name; the kubelet is at 127.0.0.1.
    let setup =
        setup.plugin("enable_namespace_labels = true").plugin("node_name_env = \"NONE\"").plugin(plugin);
    setup.start(kubelet(&[web()])).await
}

async fn watch() {
    let (api_server, folder) = api_server();
    let mut node = watching(&folder).await;
    node.gets_web().await;
    assert!(node.selectors().await.contains("k8s:container-name:main"));
    assert_eq!(node.kubelet.requests(), []);
    let listed = api_server.listed("/api/v1/pods", 1).await;
    assert!(listed[0].query.contains("fieldSelector=spec.nodeName%3Dnode"), "{:?}", listed[0]);

    // The watch reports a container that starts, and one that is deleted.
    node.proc.set("cgroup", &cgroup("next"));
    let next = Container::running("next", "img", &container_id("next"));
    let start = async {
        api_server.watched("/api/v1/pods", 1).await;
        api_server.apply_pod(&pod().container(running()).container(next));
    };
    tokio::join!(node.gets_web(), start);
    // Events come in order, so an agent that knows the last pod also knows of the deletion.
    let last = Pod::new("shop", "last").service_account("web");
    let last = last.container(Container::running("last", "img", &container_id("last")));
    api_server.delete_pod(&pod());
    api_server.apply_pod(&last);
    node.proc.set("cgroup", &format!("0::/pod{}/{}\n", last.uid, container_id("last")));
    node.gets_web().await;
    node.proc.set("cgroup", &cgroup(MAIN));
    node.is_refused("DeadlineExceeded", "no selectors found after max poll attempts").await;
}

async fn watch_cut() {
    let (api_server, folder) = api_server();
    let node = watching(&folder).await;
    node.gets_web().await;
    api_server.watched("/api/v1/pods", 1).await;
    api_server.cut_watches();
    api_server.watched("/api/v1/pods", 2).await;
    node.proc.set("cgroup", &cgroup("next"));
    let next = Container::running("next", "img", &container_id("next"));
    api_server.apply_pod(&pod().container(running()).container(next));
    node.gets_web().await;
    // The watch continued at its version, without another list.
    assert_eq!(api_server.listed("/api/v1/pods", 1).await.len(), 1);
}

async fn watch_too_old() {
    let (api_server, folder) = api_server();
    let mut node = watching(&folder).await;
    node.gets_web().await;
    api_server.watched("/api/v1/pods", 1).await;
    api_server.expire_watches();
    let line = node.agent.logged("The watch of this node's pods is interrupted; trying again").await;
    assert!(line.contains("too old resource version"), "{line}");
    api_server.listed("/api/v1/pods", 2).await;
    node.gets_web().await;
}

async fn watch_refused() {
    let (api_server, folder) = api_server();
    api_server.refuse(Resource::Pods, Some(403));
    let mut node = watching(&folder).await;
    node.is_refused("Unavailable", "pods is forbidden").await;
    api_server.refuse(Resource::Pods, None);
    node.agent.logged("Watching the pods of this node at the API server").await;
    node.gets_web().await;
}

async fn watch_down() {
    let (api_server, folder) = api_server();
    let mut node = watching(&folder).await;
    node.gets_web().await;
    api_server.watched("/api/v1/pods", 1).await;
    api_server.down().await;
    node.agent.logged("The watch of this node's pods is interrupted; trying again").await;
    node.is_refused("Unavailable", "the watch is interrupted: ").await;
    api_server.up().await;
    api_server.watched("/api/v1/pods", 2).await;
    node.gets_web().await;
}

/// At first only the user of the stream's process is known, and no entry for it has the requested name.
async fn held_stream() {
    let (api_server, folder) = api_server();
    api_server.delete_pod(&web());
    let mut node = watching_with(Setup { unix: true, ..Setup::new() }, &folder).await;
    let name = "spiffe://example.org/web";
    let mut sds = Sds::open(&node.agent.socket(), sds_request(&[name])).await.expect("held");
    node.logs_failure("DeadlineExceeded", "no selectors found after max poll attempts").await;
    api_server.apply_pod(&web());
    let secrets = sds.secrets(&[name]).await.expect("served");
    assert_eq!(secrets.iter().map(|secret| &*secret.name).collect::<Vec<_>>(), [name]);
}

async fn kubeconfig_absent() {
    let (api_server, folder) = api_server();
    std::fs::remove_file(folder.path().join("kubeconfig")).expect("removed");
    let mut node = watching(&folder).await;
    node.is_refused("Unavailable", "unable to configure Kubernetes API client").await;
    std::fs::write(folder.path().join("kubeconfig"), api_server.kubeconfig()).expect("written");
    node.agent.logged("Watching the pods of this node at the API server").await;
    node.gets_web().await;
}

async fn namespace_labels() {
    let (api_server, folder) = api_server();
    let mut node = labelling(&folder, "").await;
    node.gets_web().await;
    assert!(node.selectors().await.contains("k8s:ns-label:team:red"));
    assert_eq!(api_server.listed("/api/v1/namespaces/shop", 1).await.len(), 1);
}

async fn namespace_labels_refused() {
    let (api_server, folder) = api_server();
    api_server.refuse(Resource::Namespaces, Some(403));
    let mut node = labelling(&folder, "").await;
    node.is_refused("Internal", "unable to get namespace labels for").await;
    api_server.refuse(Resource::Namespaces, None);
    api_server.delete_namespace("shop");
    node.is_refused("Internal", "not found").await;
    api_server.down().await;
    node.is_refused("Internal", "unable to get namespace labels for").await;
    api_server.up().await;
    api_server.apply_namespace("shop", &[]);
    node.gets_web().await;
}

async fn namespace_labels_watched() {
    let (api_server, folder) = api_server();
    let mut node = labelling(&folder, "experimental { api_server { cache { enabled = true } } }").await;
    node.gets_web().await;
    assert!(node.selectors().await.contains("k8s:ns-label:team:red"));
    api_server.watched("/api/v1/namespaces", 1).await;
}
