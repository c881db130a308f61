//! Reads the configuration of WorkloadAttestor `k8s`.

mod broker;

use std::path::PathBuf;
use std::time::Duration;

pub use broker::{AccessPolicy, K8sBroker, K8sBrokers, PodReferenceScope};

use super::WorkloadAttestor;
use crate::decode::{Section, Setting, Strictness, no_hint};
use crate::duration;

/// The options of the `k8s` attestor, with defaults (SPIRE: `plugins.WorkloadAttestor.k8s.plugin_data`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sOptions {
    /// The port of the kubelet (SPIRE: `kubelet_read_only_port` or `kubelet_secure_port`).
    pub kubelet_port: KubeletPort,
    /// The file of the authorities that may sign the kubelet's certificate (SPIRE: `kubelet_ca_path`).
    pub kubelet_ca_path: PathBuf,
    /// Whether any certificate of the kubelet is accepted (SPIRE: `skip_kubelet_verification`).
    pub skip_kubelet_verification: bool,
    /// How the agent authenticates to the kubelet (SPIRE: `token_path`, `certificate_path` and `private_key_path`,
    /// `use_anonymous_authentication`).
    pub kubelet_auth: KubeletAuth,
    /// The name of the node; it overrides the environment variable (SPIRE: `node_name`).
    pub node_name: Option<String>,
    /// The environment variable that holds the name of the node (SPIRE: `node_name_env`).
    pub node_name_env: String,
    /// How often a container is looked for in the pod list (SPIRE: `max_poll_attempts`).
    pub max_poll_attempts: u32,
    /// The pause between two such looks (SPIRE: `poll_retry_interval`).
    pub poll_retry_interval: Duration,
    /// How often the token and certificate files are read again (SPIRE: `reload_interval`).
    pub reload_interval: Duration,
    /// Whether to give only the pod's selectors (SPIRE: `disable_container_selectors`).
    pub disable_container_selectors: bool,
    /// Whether the container of a process is found by spire-agent's newer rules (SPIRE: `use_new_container_locator`).
    pub use_new_container_locator: bool,
    /// Whether the search for the container of a process is logged (SPIRE: `verbose_container_locator_logs`).
    pub verbose_container_locator_logs: bool,
    /// Whether to give selectors for labels of the pod's namespace (SPIRE: `enable_namespace_labels`).
    pub enable_namespace_labels: bool,
    /// Whether the kubelet must not be asked (SPIRE: `disable_kubelet_client`).
    pub disable_kubelet_client: bool,
    /// Whether all namespaces are watched at the API server (SPIRE: `experimental.api_server.cache.enabled`).
    pub api_server_cache: bool,
    /// SPIRE: `experimental.broker`. Unused as long as there is no Broker API (`agent.experimental.broker` is
    /// refused).
    pub broker: Option<K8sBrokers>,
}

/// The port of the kubelet to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeletPort {
    /// Plain HTTP on 127.0.0.1 (the read-only port).
    ReadOnly(u16),
    /// HTTPS (the secure port).
    Secure(u16),
}

/// How to authenticate to the secure port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletAuth {
    /// With the bearer token in this file.
    Token(PathBuf),
    /// With a client certificate.
    Certificate {
        /// The file of the certificate chain in PEM.
        certificate_path: PathBuf,
        /// The file of the private key in PEM.
        private_key_path: PathBuf,
    },
    /// Not at all.
    Anonymous,
}

pub(super) fn read(section: Section<'_>) -> Option<WorkloadAttestor> {
    let experimental = section.block("experimental");
    let broker = broker::read(experimental.block("broker"));
    if broker.is_some() {
        let message = "experimental.broker does nothing yet: finial has no Broker API";
        section.report().ignored(experimental.block("broker").line, message);
    }
    let api_server_cache = api_server_cache(experimental.block("api_server"));
    check_disabled_client(&section, broker.as_ref());
    refuse_sigstore(&section.block("sigstore"));
    let options = K8sOptions {
        kubelet_port: kubelet_port(&section),
        kubelet_ca_path: path(&section, "kubelet_ca_path").unwrap_or_else(|| DEFAULT_CA_PATH.into()),
        skip_kubelet_verification: section.is_set("skip_kubelet_verification"),
        kubelet_auth: kubelet_auth(&section),
        node_name: section.text("node_name").map(|name| name.value),
        node_name_env: section
            .text("node_name_env")
            .map_or_else(|| DEFAULT_NODE_NAME_ENV.to_owned(), |name| name.value),
        max_poll_attempts: section
            .int("max_poll_attempts")
            .filter(|attempts| attempts.value > 0)
            .map_or(DEFAULT_ATTEMPTS, |attempts| u32::try_from(attempts.value).unwrap_or(u32::MAX)),
        poll_retry_interval: interval(&section, "poll_retry_interval", DEFAULT_POLL_INTERVAL),
        reload_interval: interval(&section, "reload_interval", DEFAULT_RELOAD_INTERVAL),
        disable_container_selectors: section.is_set("disable_container_selectors"),
        use_new_container_locator: section.flag("use_new_container_locator").is_none_or(|flag| flag.value),
        verbose_container_locator_logs: section.is_set("verbose_container_locator_logs"),
        enable_namespace_labels: section.is_set("enable_namespace_labels"),
        disable_kubelet_client: section.is_set("disable_kubelet_client"),
        api_server_cache,
        broker,
    };
    experimental.finish(Strictness::RefuseBare, "experimental", no_hint);
    section.finish(Strictness::RefuseBare, "plugin_data", no_hint);
    Some(WorkloadAttestor::K8s(Box::new(options)))
}

fn path(section: &Section<'_>, key: &'static str) -> Option<PathBuf> {
    section.text(key).map(|path| path.value.into())
}

fn kubelet_port(section: &Section<'_>) -> KubeletPort {
    let port = |key| section.int(key).filter(|port| port.value > 0);
    let checked = |key: &str, port: Setting<i64>| {
        u16::try_from(port.value).unwrap_or_else(|_| {
            section.report().problem(port.line, format!("{key} must be at most 65535"));
            DEFAULT_SECURE_PORT
        })
    };
    match (port("kubelet_read_only_port"), port("kubelet_secure_port")) {
        (None, None) => KubeletPort::Secure(DEFAULT_SECURE_PORT),
        (None, Some(secure)) => KubeletPort::Secure(checked("kubelet_secure_port", secure)),
        (Some(plain), secure) => {
            if let Some(secure) = secure {
                section.report().problem(secure.line, "cannot use both the read-only and secure port");
            }
            KubeletPort::ReadOnly(checked("kubelet_read_only_port", plain))
        }
    }
}

fn kubelet_auth(section: &Section<'_>) -> KubeletAuth {
    let token = path(section, "token_path").unwrap_or_else(|| DEFAULT_TOKEN_PATH.into());
    let certificate = path(section, "certificate_path");
    let private_key = path(section, "private_key_path");
    let anonymous = section.is_set("use_anonymous_authentication");
    match (certificate, private_key) {
        _ if anonymous => KubeletAuth::Anonymous,
        (Some(certificate_path), Some(private_key_path)) => {
            KubeletAuth::Certificate { certificate_path, private_key_path }
        }
        (None, None) => KubeletAuth::Token(token),
        (certificate, _) => {
            let message = match certificate {
                Some(_) => "the private key path is required with the certificate path",
                None => "the certificate path is required with the private key path",
            };
            section.report().problem(section.line, message);
            KubeletAuth::Token(token)
        }
    }
}

/// Reads a duration. Zero means the default.
fn interval(section: &Section<'_>, key: &'static str, default: Duration) -> Duration {
    let Some(Setting { value, line }) = section.text(key) else { return default };
    match duration::parse(&value) {
        Ok(Duration::ZERO) => default,
        Ok(interval) => interval,
        Err(error) => {
            let name = key.replace('_', " ");
            section.report().problem(line, format!("unable to parse {name}: {error}"));
            default
        }
    }
}

fn api_server_cache(section: Section<'_>) -> bool {
    let cache = section.block("cache");
    let enabled = cache.is_set("enabled");
    cache.finish(Strictness::RefuseBare, "cache", no_hint);
    section.finish(Strictness::RefuseBare, "api_server", no_hint);
    enabled
}

fn refuse_sigstore(section: &Section<'_>) {
    if section.is_present() {
        section.report().not_supported(section.line, "WorkloadAttestor \"k8s\" sigstore");
    }
}

/// Reports keys that have no meaning without a kubelet client.
fn check_disabled_client(section: &Section<'_>, brokers: Option<&K8sBrokers>) {
    let Some(disabled) = section.flag("disable_kubelet_client").filter(|flag| flag.value) else { return };
    let numbers = ["kubelet_read_only_port", "kubelet_secure_port"];
    let flags = ["skip_kubelet_verification", "use_anonymous_authentication"];
    let texts = [
        "kubelet_ca_path",
        "token_path",
        "certificate_path",
        "private_key_path",
        "node_name_env",
        "node_name",
        "reload_interval",
    ];
    let set = |key: &&'static str| section.int(key).is_some_and(|number| number.value > 0);
    let mut conflicts: Vec<&str> = numbers.into_iter().filter(set).collect();
    conflicts.extend(flags.into_iter().filter(|key| section.is_set(key)));
    conflicts.extend(texts.into_iter().filter(|key| section.text(key).is_some()));
    for key in conflicts {
        let message = format!("disable_kubelet_client cannot be used with {key}");
        section.report().problem(disabled.line, message);
    }
    for broker in brokers.map_or(&[][..], |brokers| &brokers.brokers) {
        if broker.pod_reference_scope != PodReferenceScope::Cluster {
            let message = format!(
                "experimental.broker.brokers[{}].pod_reference_scope must be \"cluster\" when \
                 disable_kubelet_client is true",
                broker.id
            );
            section.report().problem(disabled.line, message);
        }
    }
}

const DEFAULT_SECURE_PORT: u16 = 10250;
const DEFAULT_CA_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
const DEFAULT_TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const DEFAULT_NODE_NAME_ENV: &str = "MY_NODE_NAME";
const DEFAULT_ATTEMPTS: u32 = 60;
const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(500);
const DEFAULT_RELOAD_INTERVAL: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
