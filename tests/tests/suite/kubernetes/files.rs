//! The files that the agent reads to reach the kubelet: missing and rotated.

use dev::kube::{Authority, Kubelet, Pod, Rights, container_id};
use harness::trial;
use libtest_mimic::Trial;

use super::{MAIN, Node, Setup, TOKEN, cgroup, kubelet, pod, running, web};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("k8s_files_absent_at_start", absent_at_start),
        trial("k8s_token_rotated", token_rotated),
        trial("k8s_authority_rotated", authority_rotated),
        trial("k8s_client_certificate", client_certificate),
    ]
}

async fn absent_at_start() {
    let setup = Setup { files: false, ..Setup::new() };
    let mut node = setup.start(kubelet(&[web()])).await;
    node.is_refused("Unavailable", "unable to load kubelet CA").await;
    node.authority_and_token(node.kubelet.authority().pem(), "\n");
    node.is_refused("Unavailable", "unable to load token").await;
    node.authority_and_token(node.kubelet.authority().pem(), TOKEN);
    node.gets_web().await;
}

async fn token_rotated() {
    let mut node = Node::usual().await;
    node.gets_web().await;
    node.kubelet.refuse_token(TOKEN);
    node.kubelet.accept_token("the-second-token", Rights::Pods);
    let next = another_container(&node);
    node.is_refused("Unavailable", "401 Unauthorized").await;
    node.authority_and_token(node.kubelet.authority().pem(), "the-second-token");
    node.gets_web().await;
    assert!(node.selectors_hold(&next).await);
}

async fn authority_rotated() {
    let mut node = Node::usual().await;
    node.gets_web().await;
    let successor = Authority::new().expect("made");
    node.kubelet.certificate(&successor, &["127.0.0.1"]).await.expect("made");
    let next = another_container(&node);
    node.is_refused("Unavailable", "x509: certificate signed by unknown authority").await;
    // A damaged block is passed over.
    let damaged = "-----BEGIN CERTIFICATE-----\nno base64!\n-----END CERTIFICATE-----\n";
    let both = format!("{}{damaged}{}", node.kubelet.authority().pem(), successor.pem());
    node.authority_and_token(&both, TOKEN);
    node.gets_web().await;
    assert!(node.selectors_hold(&next).await);
}

async fn client_certificate() {
    let kubelet = kubelet(&[web()]);
    kubelet.accept_certificate("agent", Rights::Pods);
    let setup = Setup::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let write = |kubelet: &Kubelet, name: &str| {
        let own = kubelet.authority().client(name).expect("made");
        std::fs::write(path("chain"), own.chain).expect("written");
        std::fs::write(path("key"), own.key).expect("written");
    };
    write(&kubelet, "nobody");
    let line = format!("certificate_path = \"{}\"\n private_key_path = \"{}\"", path("chain"), path("key"));
    let mut node = setup.plugin(&line).start(kubelet).await;
    node.is_refused("Unavailable", "401 Unauthorized").await;
    write(&node.kubelet, "agent");
    node.gets_web().await;
    assert!(!node.agent.log().contains("PRIVATE KEY"));
}

/// Moves this process into another container, which no list has had yet, and returns the container's name.
fn another_container(node: &Node) -> String {
    let id = container_id("next");
    let next = dev::kube::Container::running("next", "registry.example.org/next:1", &id);
    let both: Pod = pod().container(running()).container(next);
    node.kubelet.pods(&[both]);
    node.proc.set("cgroup", &cgroup("next"));
    assert_ne!(cgroup("next"), cgroup(MAIN));
    "k8s:container-name:next".to_owned()
}

impl Node {
    async fn selectors_hold(&mut self, selector: &str) -> bool {
        self.agent.logged_times("PID attested to have selectors", 2).await.contains(selector)
    }
}
