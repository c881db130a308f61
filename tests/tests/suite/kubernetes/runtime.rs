//! `experimental { cri_socket_path }`: the container runtime supplies what the kubelet has not published yet.

use dev::kube::{Container, Runtime, RuntimeContainer, container_id};
use harness::trial;
use libtest_mimic::Trial;
use tempfile::TempDir;
use tonic::Code;

use super::{MAIN, Node, Setup, kubelet, pod, web};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("k8s_runtime_names_a_container_that_is_not_published", names_it),
        trial("k8s_runtime_failing_leaves_it_to_the_kubelet", failing),
        trial("k8s_runtime_absent_leaves_it_to_the_kubelet", absent),
        trial("k8s_runtime_that_knows_another_pod_is_not_believed", another_pod),
    ]
}

/// A node whose kubelet has published no status of the container.
async fn node(folder: &TempDir) -> Node {
    let socket = folder.path().join("cri.sock");
    let setup = Setup { experimental: format!("cri_socket_path = \"{}\"", socket.display()), ..Setup::new() };
    let unpublished = pod().container(Container::unpublished("main", IMAGE));
    setup.start(kubelet(&[unpublished])).await
}

fn runtime(folder: &TempDir, uid: &str) -> Runtime {
    let runtime = Runtime::start(&folder.path().join("cri.sock")).expect("the development runtime starts");
    runtime.containers(&[RuntimeContainer::of_pod(&container_id(MAIN), "main", IMAGE, uid)]);
    runtime
}

async fn names_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runtime = runtime(&folder, &pod().uid);
    let mut node = node(&folder).await;
    node.gets_web().await;
    let line = node.selectors().await;
    let image_id = format!("{IMAGE}@sha256:{}", container_id(IMAGE));
    for selector in
        ["k8s:container-name:main", "k8s:pod-image-count:1", &format!("k8s:container-image:{image_id}")]
    {
        assert!(line.contains(selector), "{selector}: {line}");
    }
    // The agent did not poll the kubelet.
    assert_eq!(node.kubelet.asked("/pods", 1).await.len(), 1);
    assert_eq!(runtime.calls(), ["ContainerStatus"]);
}

async fn failing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let runtime = runtime(&folder, &pod().uid);
    runtime.fail(Some((Code::Internal, "out of order")));
    let mut node = node(&folder).await;
    node.is_refused("DeadlineExceeded", "no selectors found after max poll attempts").await;
    let line = node.agent.logged("The container runtime does not answer at cri_socket_path").await;
    assert!(line.contains("out of order"), "{line}");
    node.kubelet.pods(&[web()]);
    node.gets_web().await;
}

async fn absent() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = node(&folder).await;
    node.is_refused("DeadlineExceeded", "no selectors found after max poll attempts").await;
    node.agent.logged("The container runtime does not answer at cri_socket_path").await;
    // The runtime runs now, and the agent asks it for what the kubelet has still not published.
    let runtime = runtime(&folder, &pod().uid);
    node.gets_web().await;
    runtime.called(1).await;
}

async fn another_pod() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _runtime = runtime(&folder, "00000000-0000-4000-8000-000000000000");
    let mut node = node(&folder).await;
    node.is_refused("DeadlineExceeded", "no selectors found after max poll attempts").await;
}

const IMAGE: &str = "registry.example.org/web:1";
