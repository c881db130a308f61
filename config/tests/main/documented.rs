//! `docs/configuration.md` has every key of spire-agent 1.15.3, and each of them is known here.

use crate::{load, with_agent};

/// Whether a key is known: anything but "unknown" may be said of its value.
fn is_known(text: &str) -> bool {
    match load(text) {
        Ok(settings) => !settings.warnings.iter().any(|warning| warning.message.starts_with("Unknown key")),
        Err(errors) => errors.unknown.is_empty(),
    }
}

#[track_caller]
fn assert_documented(key: &str, text: &str) {
    assert!(DOCUMENT.contains(&format!("`{key}`")), "{key} is not in docs/configuration.md");
    assert!(is_known(text), "{key} is not known");
}

#[test]
fn every_key_of_spire_agent_is_known_and_documented() {
    for key in AGENT {
        assert_documented(key, &with_agent(&format!("{key} = {{}}")));
    }
    for key in EXPERIMENTAL {
        assert_documented(key, &with_agent(&format!("experimental {{ {key} = {{}} }}")));
    }
    for key in RATES {
        assert_documented(key, &with_agent(&format!("experimental {{ ratelimit {{ {key} = 1 }} }}")));
    }
    for (key, value) in OTLP {
        let text = with_agent(&format!("experimental {{ otlp {{ {key} = {value} }} }}"));
        assert_documented(&format!("otlp.{key}"), &text);
    }
    for key in SDS {
        assert_documented(key, &with_agent(&format!("sds {{ {key} = {{}} }}")));
    }
    for key in TELEMETRY {
        assert_documented(key, &format!("{}\ntelemetry {{ {key} = {{}} }}", with_agent("")));
    }
    for key in HEALTH {
        assert_documented(key, &format!("{}\nhealth_checks {{ {key} = {{}} }}", with_agent("")));
    }
    assert!(!is_known(&with_agent("another = {}")) && !is_known(&with_agent("sds { another = {} }")));
}

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// SPIRE: `agentConfig`, without its inner blocks.
const AGENT: [&str; 36] = [
    "data_dir",
    "admin_socket_path",
    "insecure_bootstrap",
    "rebootstrap_mode",
    "rebootstrap_delay",
    "join_token",
    "join_token_file",
    "log_file",
    "log_format",
    "log_level",
    "log_selectors",
    "log_source_location",
    "server_address",
    "server_port",
    "socket_path",
    "disable_workload_api",
    "disable_sds_api",
    "workload_x509_svid_key_type",
    "trust_bundle_format",
    "trust_bundle_path",
    "trust_bundle_spiffe_workload_api",
    "trust_bundle_unix_socket",
    "trust_bundle_url",
    "trust_domain",
    "allow_unauthenticated_verifiers",
    "allowed_foreign_jwt_claims",
    "availability_target",
    "x509_svid_cache_max_size",
    "jwt_svid_cache_max_size",
    "authorized_delegates",
    "configpath",
    "expandenv",
    "profiling_enabled",
    "profiling_port",
    "profiling_freq",
    "profiling_names",
];

/// SPIRE: `experimentalConfig`, without `broker` and `ratelimit`; then Finial's own.
const EXPERIMENTAL: [&str; 11] = [
    "sync_interval",
    "named_pipe_name",
    "admin_named_pipe_name",
    "use_sync_authorized_entries",
    "require_pq_kem",
    "jwt_svid_cache_hit_timeout",
    "feature_flags",
    "x509_svid_prefetch",
    "pod_source",
    "cri_socket_path",
    "unix_paths",
];

/// Finial's own: `otlp`, with one of the values that each of them can have.
const OTLP: [(&str, &str); 7] = [
    ("endpoint", "\"http://c:1\""),
    ("protocol", "\"grpc\""),
    ("metrics", "true"),
    ("logs", "true"),
    ("interval", "\"1m\""),
    ("headers", "{}"),
    ("ca_file", "\"ca.pem\""),
];

const RATES: [&str; 6] = [
    "fetch_x509_svid",
    "fetch_jwt_svid",
    "fetch_x509_bundles",
    "fetch_jwt_bundles",
    "stream_secrets",
    "fetch_secrets",
];

const SDS: [&str; 4] = [
    "default_svid_name",
    "default_bundle_name",
    "default_all_bundles_name",
    "disable_spiffe_cert_validation",
];

const TELEMETRY: [&str; 12] = [
    "Prometheus",
    "DogStatsd",
    "Statsd",
    "M3",
    "InMem",
    "MetricPrefix",
    "EnableTrustDomainLabel",
    "EnableHostnameLabel",
    "AllowedPrefixes",
    "BlockedPrefixes",
    "AllowedLabels",
    "BlockedLabels",
];

const HEALTH: [&str; 5] = ["listener_enabled", "bind_address", "bind_port", "live_path", "ready_path"];
