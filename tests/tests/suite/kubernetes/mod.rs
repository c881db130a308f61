//! The k8s workload attestor in the program. This process seems to be a container of the pod `shop/web`, and asks for
//! its SVID. A test controls a development kubelet, API server and container runtime.
//!
//! If an attestor fails, the caller gets Unavailable, `workload attestation failed`. The log has the failure, with
//! SPIRE's code.

mod api_server;
mod containers;
mod files;
mod kubelet;
mod runtime;

use std::path::PathBuf;
use std::sync::Arc;

use dev::kube::{Container, Kubelet, KubeletOptions, Pod, Rights, container_id};
use dev::{Entry, Server};
use harness::{Agent, Conf, Proc, unix_attestor, x509_svid};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tonic::Code;

use super::{ids, register, server};

pub(super) fn trials() -> Vec<Trial> {
    [kubelet::trials(), containers::trials(), files::trials(), runtime::trials(), api_server::trials()]
        .into_iter()
        .flatten()
        .collect()
}

/// The configuration of a test's agent.
struct Setup {
    /// The values of `max_poll_attempts` and `poll_retry_interval`.
    budget: (u32, &'static str),
    /// More lines of the k8s attestor's `plugin_data`.
    plugin: String,
    /// Whether `plugin_data` has the kubelet's address, its authority and the token.
    kubelet: bool,
    /// Lines of `agent { experimental { } }`.
    experimental: String,
    /// Whether there is a unix attestor too.
    unix: bool,
    /// The content of this process's cgroup file.
    cgroup: String,
    /// Whether the files with the kubelet's authority and the token are written.
    files: bool,
    environment: Vec<(&'static str, PathBuf)>,
}

/// A node with an agent.
struct Node {
    agent: Agent,
    kubelet: Kubelet,
    proc: Proc,
    folder: Arc<TempDir>,
    failures: usize,
    _server: Server,
}

impl Setup {
    /// An agent that stops looking for a container after two seconds, which is enough for a kubelet that answers.
    fn new() -> Self {
        Self {
            budget: (40, "50ms"),
            plugin: String::new(),
            kubelet: true,
            experimental: String::new(),
            unix: false,
            cgroup: cgroup(MAIN),
            files: true,
            environment: Vec::new(),
        }
    }

    fn plugin(mut self, line: &str) -> Self {
        self.plugin += "\n ";
        self.plugin += line;
        self
    }

    async fn start(self, kubelet: Kubelet) -> Node {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let server = server().await;
        kubelet.accept_token(TOKEN, Rights::Pods);
        let proc = Proc::of_this_process(&self.cgroup);
        let mut environment = self.environment.clone();
        environment.push(("HOST_PROC", proc.path().to_owned()));
        let conf = Conf {
            agent: format!("experimental {{\n {}\n}}", self.experimental),
            workload_attestors: self.workload_attestors(&kubelet, &folder),
            environment,
            ..Conf::join_token(&server)
        };
        let token = conf.join_token.clone().unwrap_or_default();
        let parent = server.join_token_agent_id(&token);
        server.create_entry(Entry::new("spiffe://example.org/web", &*parent, ["k8s:ns:shop", "k8s:sa:web"]));
        if self.unix {
            register(&server, &token, "user");
        }
        if self.files {
            write_files(&folder, kubelet.authority().pem(), TOKEN);
        }
        let agent = Agent::start_in(&conf, Arc::clone(&folder));
        let mut node = Node { agent, kubelet, proc, folder, failures: 0, _server: server };
        node.agent.logged("Agent is ready").await;
        node
    }

    fn workload_attestors(&self, kubelet: &Kubelet, folder: &TempDir) -> String {
        let (port, folder) = (kubelet.address().port(), folder.path().display());
        let reach = match self.kubelet {
            true => format!(
                "kubelet_secure_port = {port}\n kubelet_ca_path = \"{folder}/ca.crt\"\n token_path = \"{folder}/pod-token\""
            ),
            false => String::new(),
        };
        let (attempts, interval) = self.budget;
        let budget = format!("max_poll_attempts = {attempts}\n poll_retry_interval = \"{interval}\"");
        let data = format!("{reach}\n {budget}\n {}", self.plugin);
        let k8s = format!("WorkloadAttestor \"k8s\" {{ plugin_data {{\n {data}\n}} }}");
        if self.unix { format!("{}\n {k8s}", unix_attestor("")) } else { k8s }
    }
}

impl Node {
    /// A node whose kubelet lists this process's pod.
    async fn usual() -> Self {
        Setup::new().start(kubelet(&[web()])).await
    }

    /// The SPIFFE IDs of the SVIDs that this process gets.
    async fn svids(&self) -> Result<Vec<String>, (Code, String)> {
        let refusal = |status: tonic::Status| (status.code(), status.message().to_owned());
        let mut stream = x509_svid(&self.agent.socket()).await.map_err(refusal)?;
        let first = stream.message().await.map_err(refusal)?.expect("a response");
        Ok(ids(&first).into_iter().map(ToOwned::to_owned).collect())
    }

    async fn gets_web(&self) {
        assert_eq!(
            self.svids().await,
            Ok(vec!["spiffe://example.org/web".to_owned()]),
            "{}",
            self.agent.log()
        );
    }

    /// Checks that this process is attested but has no entry.
    async fn gets_nothing(&self) {
        let none = Err((Code::PermissionDenied, "no identity issued".to_owned()));
        assert_eq!(self.svids().await, none, "{}", self.agent.log());
    }

    /// Checks that this process is not attested, and that the log has the reason.
    async fn is_refused(&mut self, code: &str, reason: &str) {
        let refused = Err((Code::Unavailable, "workload attestation failed".to_owned()));
        assert_eq!(self.svids().await, refused, "{}", self.agent.log());
        self.logs_failure(code, reason).await;
    }

    async fn logs_failure(&mut self, code: &str, reason: &str) {
        self.failures += 1;
        let line = self.agent.logged_times("workload attestor \\\"k8s\\\" failed", self.failures).await;
        let code = format!("rpc error: code = {code} desc = workloadattestor(k8s): ");
        assert!(line.contains(&code) && line.contains(reason), "{line}");
    }

    /// The first log line with the selectors of this process.
    async fn selectors(&mut self) -> String {
        self.agent.logged("PID attested to have selectors").await
    }

    fn authority_and_token(&self, authority: &str, token: &str) {
        write_files(&self.folder, authority, token);
    }
}

fn write_files(folder: &TempDir, authority: &str, token: &str) {
    std::fs::write(folder.path().join("ca.crt"), authority).expect("written");
    // With a newline, as in a mounted secret.
    std::fs::write(folder.path().join("pod-token"), format!("{token}\n")).expect("written");
}

fn kubelet(pods: &[Pod]) -> Kubelet {
    let kubelet = Kubelet::start(&KubeletOptions::default()).expect("the development kubelet starts");
    kubelet.pods(pods);
    kubelet
}

/// The pod of this process, without containers.
fn pod() -> Pod {
    Pod::new("shop", "web").service_account("web").label("app", "web")
}

/// The pod of this process, with its container.
fn web() -> Pod {
    pod().container(running())
}

fn running() -> Container {
    Container::running("main", "registry.example.org/web:1", &container_id(MAIN))
}

/// The content of the cgroup file of a container of the pod.
fn cgroup(container: &str) -> String {
    format!("0::/kubepods/burstable/pod{}/{}\n", pod().uid, container_id(container))
}

/// The `budget` of an agent that does not stop looking for a container.
const PATIENT: (u32, &str) = (1000, "500ms");
const MAIN: &str = "main";
const TOKEN: &str = "the-first-token";
