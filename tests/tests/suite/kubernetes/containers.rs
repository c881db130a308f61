//! The container of a process, by its cgroup and by the kubelet's list.

use dev::kube::{Container, KubeletFault, Pod, container_id};
use harness::trial;
use libtest_mimic::Trial;

use super::{MAIN, Node, PATIENT, Setup, cgroup, kubelet, pod, running, web};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("k8s_selectors_of_a_container", selectors),
        trial("k8s_pod_without_container_statuses", no_statuses),
        trial("k8s_pod_without_container_statuses_when_the_pod_is_enough", pod_is_enough),
        trial("k8s_container_that_never_shows", never_shows),
        trial("k8s_status_published_late", published_late),
        trial("k8s_two_pods_with_one_container_id", two_pods),
        trial("k8s_conflicting_cgroup_lines", conflicting_lines),
        trial("k8s_malformed_cgroup_lines", malformed_lines),
        trial("k8s_process_without_a_container", no_container),
        trial("k8s_container_found_in_mountinfo", found_in_mountinfo),
        trial("k8s_legacy_container_locator", legacy_locator),
        trial("k8s_init_container", init_container),
        trial("k8s_ephemeral_container", ephemeral_container),
        trial("k8s_many_callers_share_one_request", many_callers),
    ]
}

async fn selectors() {
    let pod = web().owner("ReplicaSet", "web-59c4");
    let (uid, owner) = (pod.uid.clone(), pod.owners[0].2.clone());
    let mut node = Setup::new().start(kubelet(&[pod])).await;
    node.gets_web().await;
    let line = node.selectors().await;
    let image_id =
        format!("registry.example.org/web:1@sha256:{}", container_id("registry.example.org/web:1"));
    for selector in [
        "sa:web",
        "ns:shop",
        "node-name:node",
        &format!("pod-uid:{uid}"),
        "pod-name:web",
        "pod-image-count:1",
        "pod-init-image-count:0",
        "pod-image:registry.example.org/web:1",
        &format!("pod-image:{image_id}"),
        "pod-label:app:web",
        "pod-owner:ReplicaSet:web-59c4",
        &format!("pod-owner-uid:ReplicaSet:{owner}"),
        "container-name:main",
        "container-image:registry.example.org/web:1",
        &format!("container-image:{image_id}"),
    ] {
        assert!(line.contains(&format!("k8s:{selector}")), "{selector}: {line}");
    }
}

async fn no_statuses() {
    let unpublished = pod().container(Container::unpublished("main", "img"));
    let mut node = Setup::new().start(kubelet(&[unpublished])).await;
    node.is_refused("DeadlineExceeded", "no selectors found after max poll attempts").await;
}

async fn pod_is_enough() {
    let unpublished = pod().container(Container::unpublished("main", "img"));
    let setup = Setup::new().plugin("disable_container_selectors = true");
    let mut node = setup.start(kubelet(&[unpublished])).await;
    node.gets_web().await;
    assert!(!node.selectors().await.contains("container-name"));
}

async fn never_shows() {
    let mut node = Node::usual().await;
    node.proc.set("cgroup", &cgroup("never"));
    node.is_refused("DeadlineExceeded", "no selectors found after max poll attempts").await;
    // The agent asked repeatedly, but not more than ten times a second.
    let asked = node.kubelet.asked("/pods", 2).await;
    assert!(asked.len() <= 30, "{} requests", asked.len());
}

async fn published_late() {
    let unpublished = pod().container(Container::unpublished("main", "img"));
    let node = Setup { budget: PATIENT, ..Setup::new() }.start(kubelet(&[unpublished])).await;
    let publish = async {
        node.kubelet.asked("/pods", 3).await;
        node.kubelet.pods(&[web()]);
    };
    tokio::join!(node.gets_web(), publish);
}

async fn two_pods() {
    let other = Pod::new("shop", "other").container(running());
    let mut node = Setup::new().start(kubelet(&[web(), other])).await;
    // If the cgroup names the pod, another pod that claims the container does not matter.
    node.gets_web().await;
    node.proc.set("cgroup", &format!("0::/system.slice/crio-{}.scope\n", container_id(MAIN)));
    node.is_refused("Internal", "two pods found with same container Id").await;
}

async fn conflicting_lines() {
    let mut node = Node::usual().await;
    let (one, other) = (container_id(MAIN), container_id("other"));
    node.proc.set("cgroup", &format!("2:memory:/docker/{one}\n1:cpu:/docker/{other}\n"));
    node.is_refused("FailedPrecondition", "multiple container IDs found").await;
    let (uid, another) = (pod().uid, Pod::new("shop", "other").uid);
    node.proc.set("cgroup", &format!("2:memory:/pod{uid}/{one}\n1:cpu:/pod{another}/{one}\n"));
    node.is_refused("FailedPrecondition", "multiple pod UIDs found").await;
    assert_eq!(node.kubelet.requests(), []);
}

async fn malformed_lines() {
    let mut node = Node::usual().await;
    node.proc.set("cgroup", "0:no path\n");
    let text = "unable to obtain cgroups: invalid cgroup entry, contains 2 colon separated fields but expected at least 3";
    node.is_refused("Internal", text).await;
    node.proc.set("cgroup", "0::/\n");
    node.proc.set("mountinfo", "868 867 0:38 / /sys/fs/cgroup ro cgroup2 cgroup rw\n");
    node.is_refused("Internal", "failed to parse mount info at").await;
}

async fn no_container() {
    let setup = Setup { cgroup: "0::/system.slice/sshd.service\n".into(), ..Setup::new() };
    let mut node = setup.start(kubelet(&[web()])).await;
    node.gets_nothing().await;
    assert!(!node.selectors().await.contains("k8s:"));
    assert_eq!(node.kubelet.requests(), []);
}

async fn found_in_mountinfo() {
    let node = Setup { cgroup: "0::/\n".into(), ..Setup::new() }.start(kubelet(&[web()])).await;
    let root = format!("/../../pod{}/{}", pod().uid, container_id(MAIN));
    node.proc.set("mountinfo", &format!("868 867 0:38 {root} /sys/fs/cgroup ro - cgroup2 cgroup rw\n"));
    node.gets_web().await;
}

async fn legacy_locator() {
    let uid = pod().uid.replace('-', ".");
    let cgroup = format!("0::/x-pod{uid}.slice/cri-containerd-{}.scope\n", container_id(MAIN));
    let setup = Setup { cgroup, ..Setup::new() }.plugin("use_new_container_locator = false");
    let node = setup.start(kubelet(&[web()])).await;
    node.gets_web().await;
}

/// While the init container runs, the other containers have only names.
async fn init_container() {
    let pod = pod()
        .init_container(Container::running("first", "img:0", &container_id("first")))
        .container(Container::waiting("main", "img:1"));
    let setup = Setup { cgroup: cgroup("first"), ..Setup::new() };
    let mut node = setup.start(kubelet(&[pod])).await;
    node.gets_web().await;
    let line = node.selectors().await;
    for selector in ["k8s:container-name:first", "k8s:pod-init-image-count:1", "k8s:pod-image:img:1"] {
        assert!(line.contains(selector), "{line}");
    }
}

async fn ephemeral_container() {
    let pod = web().ephemeral_container(Container::running("debug", "img:2", &container_id("debug")));
    let setup = Setup { cgroup: cgroup("debug"), ..Setup::new() };
    let mut node = setup.start(kubelet(&[pod])).await;
    node.gets_web().await;
    let line = node.selectors().await;
    assert!(line.contains("k8s:container-name:debug") && line.contains("k8s:pod-image-count:1"), "{line}");
}

async fn many_callers() {
    let node = Setup { budget: PATIENT, ..Setup::new() }.start(kubelet(&[web()])).await;
    node.kubelet.fault(KubeletFault::Silent);
    let callers = futures_util::future::join_all((0..50).map(|_| node.gets_web()));
    let answer = async {
        node.kubelet.asked("/pods", 1).await;
        node.kubelet.fault(KubeletFault::None);
    };
    tokio::join!(callers, answer);
    // One request, if all callers come while its list arrives.
    let requests = node.kubelet.asked("/pods", 1).await.len();
    assert!(requests <= 10, "{requests} requests");
}
