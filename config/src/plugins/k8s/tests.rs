//! Tests of every key of the plugin, and of their conflicts.

use std::time::Duration;

use super::{
    AccessPolicy, K8sBroker, K8sBrokers, K8sOptions, KubeletAuth, KubeletPort, PodReferenceScope, read,
};
use crate::decode::Section;
use crate::hcl;
use crate::plugins::WorkloadAttestor;
use crate::report::Report;

/// Reads the options, and returns them with all problems.
fn options(text: &str) -> (K8sOptions, Vec<String>) {
    let object = hcl::parse(text).unwrap();
    let report = Report::default();
    let attestor = read(Section::new("", vec![&object], Some(1), &report));
    let Some(WorkloadAttestor::K8s(options)) = attestor else { panic!("{text}") };
    let (errors, _) = report.finish();
    let mut messages: Vec<_> = errors.problems.into_iter().map(|problem| problem.message).collect();
    messages.extend(errors.unknown.iter().map(|unknown| format!("unknown: {}", unknown.keys())));
    (*options, messages)
}

#[test]
fn defaults_are_those_of_spire_agent() {
    let (options, problems) = options("max_poll_attempts = -1 poll_retry_interval = \"0s\"");
    assert_eq!(problems, [""; 0]);
    assert_eq!(options.kubelet_port, KubeletPort::Secure(10250));
    assert_eq!(
        options.kubelet_ca_path.to_str(),
        Some("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    );
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token".into();
    assert_eq!(options.kubelet_auth, KubeletAuth::Token(token));
    assert_eq!((options.node_name, options.node_name_env.as_str()), (None, "MY_NODE_NAME"));
    assert_eq!(options.max_poll_attempts, 60);
    assert_eq!(options.poll_retry_interval, Duration::from_millis(500));
    assert_eq!(options.reload_interval, Duration::from_mins(1));
    assert!(options.use_new_container_locator);
    assert!(options.broker.is_none() && !options.api_server_cache);
}

#[test]
fn every_key_is_read() {
    let (options, problems) = options(
        "kubelet_read_only_port = \"10255\" kubelet_ca_path = \"ca\" skip_kubelet_verification = true
         certificate_path = \"c\" private_key_path = \"k\" node_name = \"n\" node_name_env = \"E\"
         max_poll_attempts = 5 poll_retry_interval = \"1s\" reload_interval = \"2s\"
         disable_container_selectors = true use_new_container_locator = false
         verbose_container_locator_logs = true enable_namespace_labels = true
         experimental { api_server { cache { enabled = true } } broker { access_policy = \"enforced\"
           brokers = [{ id = \"spiffe://td/a\" }, { id = \"spiffe://x/b\" pod_reference_scope = \"cluster\" }] } }",
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!(options.kubelet_port, KubeletPort::ReadOnly(10255));
    let certificate = KubeletAuth::Certificate { certificate_path: "c".into(), private_key_path: "k".into() };
    assert_eq!(options.kubelet_auth, certificate);
    assert_eq!((options.node_name.as_deref(), options.node_name_env.as_str()), (Some("n"), "E"));
    assert_eq!((options.max_poll_attempts, options.reload_interval), (5, Duration::from_secs(2)));
    assert!(options.disable_container_selectors && options.verbose_container_locator_logs);
    assert!(
        options.enable_namespace_labels && !options.use_new_container_locator && options.api_server_cache
    );
    let (a, b) = ("spiffe://td/a".to_owned(), "spiffe://x/b".to_owned());
    let brokers = vec![
        K8sBroker { id: a, pod_reference_scope: PodReferenceScope::AgentNode },
        K8sBroker { id: b, pod_reference_scope: PodReferenceScope::Cluster },
    ];
    assert_eq!(options.broker, Some(K8sBrokers { access_policy: AccessPolicy::Enforced, brokers }));
}

#[test]
fn the_chart_wraps_brokers() {
    let (options, problems) = options(
        r#"{"experimental": [{"broker": [{"access_policy": "permissive", "brokers": [{"broker": [
           {"id": "spiffe://td/a"}, {"id": "spiffe://td/b"}]}]}]}], "bogus": 1}"#,
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!(options.broker.unwrap().brokers.len(), 2);
}

#[test]
fn mistakes_are_named_in_the_words_of_spire_agent() {
    for (text, expected) in [
        ("bogus = 1 \"quoted\" = 2", "unknown: bogus"),
        ("experimental { bogus = 1 }", "unknown: bogus"),
        (
            "kubelet_read_only_port = 1 kubelet_secure_port = 2",
            "cannot use both the read-only and secure port",
        ),
        ("kubelet_secure_port = 65536", "kubelet_secure_port must be at most 65535"),
        ("certificate_path = \"c\"", "the private key path is required with the certificate path"),
        ("private_key_path = \"k\"", "the certificate path is required with the private key path"),
        (
            "sigstore { registry_credentials { \"r\" = { password = \"hush\" } } }",
            "not supported yet: WorkloadAttestor \"k8s\" sigstore; remove it",
        ),
        ("poll_retry_interval = \"1\"", "unable to parse poll retry interval: time: missing unit"),
        ("reload_interval = \"x\"", "unable to parse reload interval: time: invalid duration"),
        (
            "disable_kubelet_client = true token_path = \"x\"",
            "disable_kubelet_client cannot be used with token_path",
        ),
        (
            "disable_kubelet_client = true experimental { broker { access_policy = \"permissive\"
             brokers = [{ id = \"spiffe://td/a\" }] } }",
            "experimental.broker.brokers[spiffe://td/a].pod_reference_scope must be \"cluster\" when",
        ),
        (
            "experimental { broker { brokers = [{ id = \"spiffe://td/a\" }] } }",
            "experimental.broker.access_policy: must be specified as one of [permissive, enforced]",
        ),
        (
            "experimental { broker { access_policy = \"permissive\" } }",
            "experimental.broker.brokers: at least one broker is required",
        ),
        (
            "experimental { broker { access_policy = \"permissive\" brokers = [{ id = \"td\" }] } }",
            "experimental.broker.brokers[td].id: scheme is missing or invalid",
        ),
    ] {
        let (_, problems) = options(text);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{text}: {problems:?}");
    }
}
