//! Converts the k8s section of agent.conf into the options of the k8s workload attestor.

use std::env;
use std::net::IpAddr;
use std::path::Path;

use attestors::container::Locator;
use attestors::workload::k8s::{Auth, KubeletOptions, NamespaceLabels, Options, PodSource, Port};
use config::{Experimental, K8sOptions, KubeletAuth, KubeletPort};

/// The attestor's options. `proc` is the folder in which procfs is mounted.
///
/// # Errors
/// A text that tells the operator what to configure: the watch at the API server needs the node's name.
pub(crate) fn options(k8s: &K8sOptions, experimental: &Experimental, proc: &Path) -> Result<Options, String> {
    let node_name = k8s.node_name.clone().or_else(|| env::var(&k8s.node_name_env).ok());
    let node_name = node_name.filter(|name| !name.is_empty());
    let source = match experimental.pod_source {
        _ if k8s.disable_kubelet_client => None,
        config::PodSource::Kubelet => Some(PodSource::Kubelet(kubelet(k8s, node_name))),
        config::PodSource::ApiServer => {
            // Some manifests give an IP address here. It is enough to reach the kubelet, but no pod's spec.nodeName has
            // it.
            let name = node_name.filter(|name| name.parse::<IpAddr>().is_err()).ok_or_else(|| {
                let variable = &k8s.node_name_env;
                format!(
                    "experimental.pod_source = \"api-server\" needs the node's name: set the environment variable \
                     {variable} from spec.nodeName, or node_name in the plugin_data of WorkloadAttestor \"k8s\""
                )
            })?;
            Some(PodSource::ApiServer { node_name: name })
        }
    };
    let namespace_labels = match k8s.api_server_cache {
        _ if !k8s.enable_namespace_labels => None,
        true => Some(NamespaceLabels::Watched),
        false => Some(NamespaceLabels::Asked),
    };
    Ok(Options {
        source,
        max_poll_attempts: k8s.max_poll_attempts,
        poll_retry_interval: k8s.poll_retry_interval,
        disable_container_selectors: k8s.disable_container_selectors,
        locator: if k8s.use_new_container_locator { Locator::Segments } else { Locator::Legacy },
        verbose_container_locator_logs: k8s.verbose_container_locator_logs,
        namespace_labels,
        cri_socket_path: experimental.cri_socket_path.clone(),
        proc: proc.to_owned(),
    })
}

fn kubelet(k8s: &K8sOptions, node_name: Option<String>) -> KubeletOptions {
    KubeletOptions {
        port: match k8s.kubelet_port {
            KubeletPort::ReadOnly(port) => Port::ReadOnly(port),
            KubeletPort::Secure(port) => Port::Secure(port),
        },
        ca_path: (!k8s.skip_kubelet_verification).then(|| k8s.kubelet_ca_path.clone()),
        auth: match &k8s.kubelet_auth {
            KubeletAuth::Token(path) => Auth::Token(path.clone()),
            KubeletAuth::Certificate { certificate_path, private_key_path } => {
                Auth::Certificate(certificate_path.clone(), private_key_path.clone())
            }
            KubeletAuth::Anonymous => Auth::Anonymous,
        },
        node_name,
        reload_interval: k8s.reload_interval,
    }
}
