//! The kubelet, the API server and the container runtime.

use std::path::PathBuf;

use dev::kube::{
    ApiServer, Authority, Kubelet, KubeletFault, KubeletOptions, Pod, Resource, Rights, Runtime,
};
use harness::{Conf, trial, trial_as_root};
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::Found;
use crate::suite::server;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("check_counts_the_pods_of_the_kubelet", good),
        trial_as_root("check_names_a_pid_namespace_of_its_own", own_pids),
        trial("check_names_a_kubelet_that_refuses", refused),
        trial("check_names_a_kubelet_of_an_unknown_authority", unknown_authority),
        trial("check_names_a_kubelet_that_does_not_answer", silent),
        trial("check_names_files_for_the_kubelet_that_are_missing", no_files),
        trial("check_names_an_api_server_that_refuses", api_server),
        trial("check_names_a_container_runtime_that_is_not_there", runtime),
    ]
}

/// A node of a cluster.
struct Node {
    kubelet: Kubelet,
    folder: TempDir,
    plugin: String,
    agent: String,
    environment: Vec<(&'static str, PathBuf)>,
    shell: Option<String>,
}

impl Node {
    fn new() -> Self {
        let kubelet = Kubelet::start(&KubeletOptions::default()).expect("the development kubelet starts");
        kubelet.pods(&[Pod::new("shop", "web"), Pod::new("shop", "db")]);
        kubelet.accept_token(TOKEN, Rights::Pods);
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("ca.crt"), kubelet.authority().pem()).expect("written");
        std::fs::write(folder.path().join("pod-token"), format!("{TOKEN}\n")).expect("written");
        Self {
            kubelet,
            folder,
            plugin: String::new(),
            agent: String::new(),
            environment: Vec::new(),
            shell: None,
        }
    }

    /// What is found, but for the pid namespace, which is that of the tests.
    async fn found(&self) -> Found {
        let server = server().await;
        let (port, path) = (self.kubelet.address().port(), self.folder.path().display());
        let k8s = format!(
            "WorkloadAttestor \"k8s\" {{ plugin_data {{\n kubelet_secure_port = {port}\n kubelet_ca_path = \
             \"{path}/ca.crt\"\n token_path = \"{path}/pod-token\"\n {}\n}} }}",
            self.plugin
        );
        let conf = Conf {
            agent: self.agent.clone(),
            workload_attestors: k8s,
            environment: self.environment.clone(),
            shell: self.shell.clone(),
            ..Conf::join_token(&server)
        };
        Found::within(&conf, &self.folder).await
    }
}

async fn good() {
    let node = Node::new();
    let found = node.found().await;
    found.says("kubelet", "ok", "lists 2 pods, by the right to nodes/pods", "");
    found.says("node-name", "ok", "", "");
    assert!(!found.text.contains(TOKEN), "the token is shown");
    node.kubelet.accept_token(TOKEN, Rights::Proxy);
    node.found().await.says("kubelet", "ok", "by the right to nodes/proxy", "");
    assert!(node.kubelet.requests().iter().all(|request| request.path != "/containerLogs/shop/web/main"));
}

/// As a pod without `hostPID`: the program is process 1 of its namespace.
async fn own_pids() {
    let shell = "exec unshare --pid --fork --mount-proc \"$0\" \"$@\"".to_owned();
    let node = Node { shell: Some(shell), ..Node::new() };
    let found = node.found().await;
    found.only_fails("host-pid", "callers of other containers have no pid here", "hostPID: true");
}

async fn refused() {
    let node = Node::new();
    node.kubelet.accept_token(TOKEN, Rights::Nothing);
    node.found().await.says(
        "kubelet",
        "failure",
        "403 Forbidden",
        "Bind a ClusterRole that may `get` `nodes/pods`",
    );
    node.kubelet.refuse_token(TOKEN);
    node.found().await.says("kubelet", "failure", "401", "The kubelet does not know the token");
    node.kubelet.accept_token(TOKEN, Rights::Pods);
    // What it says is shown, and cannot move a terminal's cursor.
    node.kubelet.fault(KubeletFault::Status(500, "out\u{1b}[2Jof order".into()));
    node.found().await.says("kubelet", "failure", "out", "Look at the kubelet's log");
}

async fn unknown_authority() {
    let node = Node::new();
    let strange = Authority::new().expect("made");
    node.kubelet.certificate(&strange, &["127.0.0.1"]).await.expect("made");
    node.found().await.says(
        "kubelet",
        "failure",
        "certificate signed by unknown authority",
        "set kubelet_ca_path",
    );
    let node = Node { plugin: "node_name = \"localhost\"".into(), ..Node::new() };
    node.found().await.says("kubelet", "failure", "not localhost", "set node_name to one that it has");
}

async fn silent() {
    let node = Node::new();
    node.kubelet.fault(KubeletFault::Silent);
    node.found().await.says("kubelet", "failure", "did not answer", "firewalls");
    node.kubelet.fault(KubeletFault::None);
    node.kubelet.down().await;
    node.found().await.says("kubelet", "failure", "Connection refused", "hostNetwork");
}

async fn no_files() {
    let node = Node::new();
    std::fs::remove_file(node.folder.path().join("pod-token")).expect("removed");
    node.found().await.says("kubelet", "failure", "unable to load token", "automountServiceAccountToken");
}

async fn api_server() {
    let api_server = ApiServer::start().expect("the development API server starts");
    let agent = "experimental { pod_source = \"api-server\" }".to_owned();
    let node = Node { agent, plugin: "enable_namespace_labels = true".into(), ..Node::new() };
    node.found().await.says("node-name", "failure", "MY_NODE_NAME", "spec.nodeName");
    let kubeconfig = node.folder.path().join("kubeconfig");
    let environment = vec![("KUBECONFIG", kubeconfig.clone()), ("MY_NODE_NAME", PathBuf::from("node"))];
    let node = Node { environment, ..node };
    node.found().await.says("api-server", "failure", "unable to configure", "KUBECONFIG");
    std::fs::write(&kubeconfig, api_server.kubeconfig()).expect("written");
    node.found().await.says("api-server", "ok", "", "");
    let asked = api_server.listed("/api/v1/pods", 1).await;
    assert!(asked[0].query.contains("fieldSelector=spec.nodeName%3Dnode"), "{asked:?}");
    api_server.refuse(Resource::Pods, Some(403));
    node.found().await.says(
        "api-server",
        "failure",
        "",
        "Bind a ClusterRole that may get, list and watch `pods`",
    );
    api_server.refuse(Resource::Pods, None);
    api_server.refuse(Resource::Namespaces, Some(403));
    node.found().await.says("api-server", "failure", "", "`namespaces` (enable_namespace_labels)");
    assert_eq!(node.kubelet.requests(), []);
}

async fn runtime() {
    let mut node = Node::new();
    node.agent =
        format!("experimental {{ cri_socket_path = \"{}/cri.sock\" }}", node.folder.path().display());
    node.found().await.says("container-runtime", "warning", "does not answer", "cri_socket_path");
    let _runtime =
        Runtime::start(&node.folder.path().join("cri.sock")).expect("the development runtime starts");
    node.found().await.says("container-runtime", "ok", "answers", "");
}

const TOKEN: &str = "the-token-of-the-pod";
