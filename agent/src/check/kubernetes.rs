//! What the k8s workload attestor needs: the kubelet, the API server, the container runtime.

use std::path::Path;
use std::time::Duration;

use attestors::workload::k8s::{
    ApiError, KubeletError, KubeletOptions, Options, PodSource, Port, Right, probe_api_server, probe_kubelet,
    probe_right, probe_runtime,
};
use config::{K8sOptions, Settings, WorkloadAttestor};
use tokio::time::{Instant, timeout_at};

use super::Line;
use crate::kubernetes;
use crate::wiring::proc_folder;

/// The lines, and the number of the node's pods if the kubelet tells it. There are none without the attestor.
pub(super) async fn lines(settings: &Settings, until: Instant) -> (Vec<Line>, Option<usize>) {
    let Ok(plugins) = settings.plugins() else { return (Vec::new(), None) };
    let configured = plugins
        .workload_attestors
        .iter()
        .find_map(|attestor| if let WorkloadAttestor::K8s(k8s) = attestor { Some(&**k8s) } else { None });
    let Some(k8s) = configured else { return (Vec::new(), None) };
    let options = match kubernetes::options(k8s, &settings.experimental, &proc_folder()) {
        Ok(options) => options,
        Err(reason) => {
            let action = "Set the variable from `spec.nodeName` by the downward API.";
            return (vec![Line::failure("node-name", reason, action)], None);
        }
    };
    let (kubelet, api_server, runtime) = tokio::join!(
        kubelet(&options, until),
        api_server(&options, until),
        runtime(options.cri_socket_path.as_deref(), until),
    );
    let mut lines = vec![node_name(k8s, &options)];
    let (line, pods) = kubelet;
    lines.extend([line, api_server, runtime].into_iter().flatten());
    (lines, pods)
}

/// The line of the name of the node.
fn node_name(k8s: &K8sOptions, options: &Options) -> Line {
    let variable = &k8s.node_name_env;
    match &options.source {
        Some(PodSource::ApiServer { node_name }) => {
            Line::ok("node-name", format!("pods of the node {node_name:?} are watched"))
        }
        Some(PodSource::Kubelet(KubeletOptions { node_name: Some(name), port: Port::Secure(_), .. })) => {
            Line::ok(
                "node-name",
                format!("the kubelet is asked at {name:?}, and its certificate must have that name"),
            )
        }
        Some(PodSource::Kubelet(_)) => Line::ok(
            "node-name",
            format!("{variable} is not set, or not needed: the kubelet is asked at 127.0.0.1 (hostNetwork)"),
        ),
        None => Line::ok("node-name", "disable_kubelet_client: no name is needed"),
    }
}

async fn kubelet(options: &Options, until: Instant) -> (Option<Line>, Option<usize>) {
    let Some(PodSource::Kubelet(kubelet)) = &options.source else { return (None, None) };
    match timeout_at(until, probe_kubelet(kubelet)).await.unwrap_or(Err(KubeletError::Slow)) {
        Ok(pods) => {
            let right = timeout_at(until, probe_right(kubelet)).await.unwrap_or_default();
            (Some(listed(pods.len(), right)), Some(pods.len()))
        }
        Err(reason) => (Some(refused(&reason)), None),
    }
}

fn listed(pods: usize, right: Option<Right>) -> Line {
    let right = match right {
        Some(Right::Pods) => ", by the right to nodes/pods",
        Some(Right::Proxy) => {
            ", by the right to nodes/proxy (with Kubernetes 1.33 or later, nodes/pods suffices)"
        }
        None => "",
    };
    Line::ok(KUBELET, format!("the kubelet lists {pods} pods{right}"))
}

fn refused(reason: &KubeletError) -> Line {
    let text = reason.to_string();
    let action = match reason {
        KubeletError::Inputs(_) => {
            "Give the agent's user a readable file: mount the service account (automountServiceAccountToken), or set \
             token_path and kubelet_ca_path."
        }
        KubeletError::Status { code: 401, .. } => {
            "The kubelet does not know the token: give one of this cluster, and see that the kubelet runs with \
             --authentication-token-webhook."
        }
        KubeletError::Status { code: 403, .. } => {
            "Bind a ClusterRole that may `get` `nodes/pods` (before Kubernetes 1.33 `nodes/proxy`) to the agent's \
             service account."
        }
        KubeletError::Connect { .. } if text.contains("unknown authority") => {
            "The kubelet's certificate is of an authority that kubelet_ca_path does not have, as with kubelets that sign \
             their own: set kubelet_ca_path to the right one, have serving certificates signed (serverTLSBootstrap), \
             or set skip_kubelet_verification."
        }
        KubeletError::Connect { .. } if text.contains("x509: certificate is ") => {
            "The kubelet's certificate has another name: set node_name to one that it has."
        }
        KubeletError::Connect { .. } => {
            "See that the kubelet listens on that port and that the node's name leads to it; without one, the agent's \
             pod needs hostNetwork."
        }
        KubeletError::Slow => "Look at the kubelet, and at firewalls before its port.",
        _ => "Look at the kubelet's log.",
    };
    Line::failure(KUBELET, text, action)
}

async fn api_server(options: &Options, until: Instant) -> Option<Line> {
    let pods_of = match &options.source {
        Some(PodSource::ApiServer { node_name }) => Some(node_name.as_str()),
        _ => None,
    };
    let namespaces = options.namespace_labels;
    if pods_of.is_none() && namespaces.is_none() {
        return None;
    }
    let asked = timeout_at(until, probe_api_server(pods_of, namespaces)).await.unwrap_or(Err(ApiError::Slow));
    Some(match asked {
        Ok(()) => Line::ok(
            "api-server",
            "the API server lists what the attestor needs; it must let it watch as well",
        ),
        Err(reason) => api_refused(&reason),
    })
}

fn api_refused(reason: &ApiError) -> Line {
    let text = reason.to_string();
    let action = match reason {
        ApiError::Config(_) => {
            "Run in a pod with a service account (automountServiceAccountToken), or set KUBECONFIG."
        }
        _ if text.to_lowercase().contains("forbidden") => {
            "Bind a ClusterRole that may get, list and watch `pods` (pod_source = \"api-server\") or `namespaces` \
             (enable_namespace_labels) to the agent's service account."
        }
        _ => "See that the API server is reachable from this pod, and look at network policies.",
    };
    Line::failure("api-server", text, action)
}

async fn runtime(socket: Option<&Path>, until: Instant) -> Option<Line> {
    let socket = socket?;
    let shown = socket.display();
    let limit = (Instant::now() + RUNTIME).min(until);
    let failed = |reason: String| {
        Line::warning(
            "container-runtime",
            format!("the container runtime does not answer at {shown}: {reason}"),
            "Mount its socket (containerd: /run/containerd/containerd.sock) and correct cri_socket_path; meanwhile the \
             agent waits for the kubelet instead.",
        )
    };
    Some(match timeout_at(limit, probe_runtime(socket.to_owned())).await {
        Ok(Ok(())) => Line::ok("container-runtime", format!("the container runtime answers at {shown}")),
        Ok(Err(reason)) => failed(reason.message().to_owned()),
        Err(_) => failed("no answer in time".to_owned()),
    })
}

const KUBELET: &str = "kubelet";
/// How long the attestor itself would wait, with time to connect.
const RUNTIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_refusal_of_the_kubelet_has_its_advice() {
        let status = |code| KubeletError::Status { code, body: String::new() };
        let connect = |reason: &str| KubeletError::Connect {
            address: "n:10250".to_owned(),
            source: io::Error::other(reason.to_owned()),
        };
        for (reason, words) in [
            (status(401), "token"),
            (status(403), "ClusterRole"),
            (status(500), "log"),
            (connect("x509: certificate signed by unknown authority"), "kubelet_ca_path"),
            (connect("x509: certificate is valid for a, not b"), "node_name"),
            (connect("Connection refused"), "hostNetwork"),
            (KubeletError::Slow, "firewalls"),
        ] {
            let line = refused(&reason);
            assert!(line.action.contains(words), "{line:?}");
        }
        assert!(listed(3, Some(Right::Proxy)).summary.contains("nodes/pods suffices"));
    }
}
