//! Every key of the blocks agent and health_checks, and the flags that override them. `idle` has the keys that do nothing.

use std::path::PathBuf;
use std::time::Duration;

use config::{
    BundleFormat, JoinToken, KeyType, LogFormat, LogLevel, Overrides, PodSource, Prefetch, RebootstrapMode,
    TrustBundleSource, UnixPaths, UnknownNames, Withdrawal,
};

use crate::{PLUGINS, assert_problems, load, load_with, sound, with_agent};

fn with_telemetry(keys: &str) -> String {
    format!("{}\ntelemetry {{ {keys} }}", with_agent(""))
}

#[test]
fn defaults_are_those_of_spire_agent() {
    let settings = sound(&with_agent(""));
    assert_eq!(settings.data_dir, PathBuf::from("."));
    assert_eq!(settings.socket_path, PathBuf::from("/tmp/spire-agent/public/api.sock"));
    assert_eq!((settings.log_level, settings.log_format), (LogLevel::Info, LogFormat::Default));
    assert_eq!(settings.log_file, None);
    let path = PathBuf::from("b.pem");
    assert_eq!(settings.trust_bundle, TrustBundleSource::File { path, format: BundleFormat::Pem });
    assert_eq!(settings.rebootstrap_mode, RebootstrapMode::Never);
    assert_eq!(settings.rebootstrap_delay, Duration::from_mins(10));
    assert_eq!(settings.workload_x509_svid_key_type, KeyType::EcP256);
    assert_eq!(settings.availability_target, None);
    assert_eq!((settings.x509_svid_cache_max_size, settings.jwt_svid_cache_max_size), (1000, 1000));
    assert_eq!(settings.sds.default_svid_name, "default");
    assert_eq!(settings.sds.default_bundle_name, "ROOTCA");
    assert_eq!(settings.sds.default_all_bundles_name, "ALL");
    assert_eq!((settings.sds.unknown_names, settings.sds.jwt), (UnknownNames::Hold, true));
    assert_eq!(settings.experimental.sync_interval, Duration::from_secs(5));
    assert!(settings.experimental.use_sync_authorized_entries);
    assert_eq!(settings.experimental.jwt_svid_cache_hit_timeout, Duration::from_secs(30));
    assert_eq!(settings.experimental.x509_svid_prefetch, Prefetch::Auto);
    assert_eq!(settings.experimental.withdrawal, Withdrawal::Confirmed);
    assert_eq!(settings.experimental.unix_paths, UnixPaths::Any);
    assert_eq!(settings.experimental.pod_source, PodSource::Kubelet);
    assert_eq!(settings.experimental.cri_socket_path, None);
    assert!(!settings.health_checks.listener_enabled);
    assert_eq!(settings.health_checks.address(), "localhost:80");
    assert_eq!(settings.warnings, []);
    assert_eq!(settings.join_token, None);
}

#[test]
fn values_are_read_by_the_rules_of_hcl_1() {
    // The case of keys does not matter, the last scalar counts, lists are joined, blocks are merged.
    let text = format!(
        "{}\nAgent {{ Log_Level = \"debug\" log_level = \"trace\" SDS {{ default_svid_name = \"a\" }}
           log_selectors = [\"k8s\"] log_selectors = [\"unix:uid\", 7] allowed_foreign_jwt_claims = [\"team\"] x509_svid_cache_max_size = \"0x10\"
           jwt_svid_cache_max_size = 010 join_token = 12345 log_format = \"JSON\"
           workload_x509_svid_key_type = \"RSA-2048\" availability_target = \"24h\" }}
         agent {{ sds {{ default_bundle_name = \"b\" unknown_names = \"reject\" jwt = false }}
           experimental {{ x509_svid_prefetch = \"live\" withdrawal = \"immediate\" unix_paths = \"host\" pod_source = \"api-server\"
             cri_socket_path = \"unix:///run/containerd/containerd.sock\" }} configpath = \"x\" ExpandEnv = true }}
         health_checks {{ bind_address = \"[::1]\" bind_port = 8080 }}",
        with_agent("log_level = \"info\"")
    );
    let settings = sound(&text);
    assert_eq!(settings.log_level, LogLevel::Trace);
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.log_selectors, ["k8s", "unix:uid", "7"]);
    assert_eq!(settings.allowed_foreign_jwt_claims, ["team"]);
    assert_eq!((settings.x509_svid_cache_max_size, settings.jwt_svid_cache_max_size), (16, 8));
    assert_eq!(settings.join_token.as_ref().map(JoinToken::expose), Some("12345"));
    assert!(!format!("{settings:?}").contains("12345"));
    assert_eq!(settings.workload_x509_svid_key_type, KeyType::Rsa2048);
    assert_eq!(settings.availability_target, Some(Duration::from_hours(24)));
    assert_eq!(
        (settings.sds.default_svid_name.as_str(), settings.sds.default_bundle_name.as_str()),
        ("a", "b")
    );
    assert_eq!((settings.sds.unknown_names, settings.sds.jwt), (UnknownNames::Reject, false));
    assert_eq!(settings.experimental.x509_svid_prefetch, Prefetch::Live);
    assert_eq!(settings.experimental.withdrawal, Withdrawal::Immediate);
    assert_eq!(settings.experimental.unix_paths, UnixPaths::Host);
    assert_eq!(settings.experimental.pod_source, PodSource::ApiServer);
    let runtime = "/run/containerd/containerd.sock".into();
    assert_eq!(settings.experimental.cri_socket_path, Some(runtime));
    assert_eq!(settings.health_checks.address(), "[::1]:8080");
}

#[test]
fn json_wraps_objects_in_lists_and_null_is_nothing() {
    let text = r#"{"agent": [{"trust_domain": "td", "server_address": "s", "server_port": "1",
      "insecure_bootstrap": true, "log_file": null, "sds": [{"default_svid_name": null}],
      "authorized_delegates": null, "admin_socket_path": null, "log_level": ""}],
      "plugins": [{"KeyManager": {"memory": null}}, {"NodeAttestor": [{"join_token": [{"plugin_data": {}}]}]},
        {"WorkloadAttestor": [{"unix": {}}]}],
      "telemetry": [{"Prometheus": null, "DogStatsd": []}], "health_checks": null}"#;
    let settings = sound(text);
    assert_eq!(settings.trust_bundle, TrustBundleSource::Insecure);
    assert_eq!(settings.sds.default_svid_name, "default");
    assert!(settings.plugins().is_ok(), "{:?}", settings.plugin_problems());
}

#[test]
fn wrong_kinds_are_refused_with_their_lines() {
    let text = with_agent(
        "data_dir = true\nlog_source_location = \"true\"\nlog_selectors = \"k8s\"\nlog_file = 1.5\nsds = 1\n\
         x509_svid_cache_max_size = \"many\"\nsocket_path = [\"a\"]\nlog_selectors = [true]",
    );
    assert_problems(
        &text,
        &[
            "agent.data_dir: write a quoted string instead of true or false without quotes (line 3)",
            "agent.log_source_location: write true or false without quotes instead of a quoted string (line 4)",
            "agent.log_selectors: write a list of strings, [\"…\"], instead of a quoted string (line 5)",
            "agent.log_file: write a quoted string instead of a number with a fraction or exponent (line 6)",
            "agent.sds: write a block, { … }, instead of a whole number (line 7)",
            "agent.x509_svid_cache_max_size: write a whole number instead of a string that is none (line 8)",
            "agent.socket_path: write a quoted string instead of a list (line 9)",
            "agent.log_selectors: write a quoted string instead of true or false without quotes (line 10)",
        ],
    );
}

#[test]
fn values_out_of_range_are_refused_in_the_words_of_spire_agent() {
    for (keys, expected) in [
        ("server_port = 0", "server_port must be configured"),
        (
            "server_port = \"http\"",
            "agent.server_port: write a whole number instead of a string that is none",
        ),
        (
            "server_port = 99999999999999999999",
            "agent.server_port: write a whole number instead of one that does not",
        ),
        ("server_port = 70000", "server_port must be from 1 to 65535, not 70000 (line 3)"),
        ("trust_domain = \"TD\"", "could not parse trust_domain \"TD\": trust domain characters are limited"),
        (
            "trust_bundle_format = \"PEM\"",
            "invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\"",
        ),
        ("rebootstrap_mode = \"Auto\"", "unknown rebootstrap mode specified: Auto"),
        ("rebootstrap_delay = \"10\"", "error parsing rebootstrap delay duration: time: missing unit"),
        ("log_level = \"loud\"", "could not start logger: not a valid logrus Level: \"loud\""),
        ("log_format = \"xml\"", "could not start logger: unknown logger format: \"xml\""),
        (
            "workload_x509_svid_key_type = \"x\"",
            "key type \"x\" is unknown; must be one of [rsa-2048, ec-p256, ec",
        ),
        ("availability_target = \"23h\"", "availability_target must be at least 24h0m0s"),
        ("availability_target = \"-24h\"", "availability_target must be at least 24h0m0s"),
        ("availability_target = \"1d\"", "unable to parse availability_target: time: unknown unit \"d\""),
        ("x509_svid_cache_max_size = -1", "x509_svid_cache_max_size should not be negative"),
        ("jwt_svid_cache_max_size = -1", "jwt_svid_cache_max_size should not be negative"),
        ("experimental { sync_interval = \"x\" }", "could not parse synchronization interval: time: invalid"),
        (
            "experimental { jwt_svid_cache_hit_timeout = \"4s\" }",
            "jwt_svid_cache_hit_timeout (4s) must be greater than 5s",
        ),
        (
            "experimental { jwt_svid_cache_hit_timeout = \"30s\" }",
            "jwt_svid_cache_hit_timeout (30s) must be less than 30s",
        ),
        (
            "experimental { x509_svid_prefetch = \"x\" }",
            "experimental.x509_svid_prefetch is \"all\", \"auto\" or",
        ),
        ("experimental { unix_paths = \"x\" }", "experimental.unix_paths is \"any\" or \"host\", not \"x\""),
        (
            "experimental { withdrawal = \"x\" }",
            "experimental.withdrawal is \"confirmed\" or \"immediate\", not \"x\"",
        ),
        ("authorized_delegates = [\"\"]", "error validating authorized delegate: cannot be empty"),
        (
            "authorized_delegates = [\"d\"]",
            "error validating authorized delegate: scheme is missing or invalid",
        ),
        (
            "authorized_delegates = [\"spiffe://td//d\"]",
            "error validating authorized delegate: path cannot contain empty",
        ),
        (
            "authorized_delegates = [\"spiffe://tdx/d\", \"spiffe://td\", \"spiffe://td/d\"]",
            "error validating authorized delegate: SPIFFE ID \"spiffe://tdx/d\" is not a member of trust domain \"td\"",
        ),
        (
            "socket_path = \"/x/../p/api.sock\" admin_socket_path = \"/p/q/../a.sock\"",
            "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API",
        ),
        ("sds { unknown_names = \"x\" }", "sds.unknown_names is \"hold\" or \"reject\", not \"x\""),
        (
            "experimental { ratelimit { fetch_secrets = -1 } }",
            "experimental.ratelimit.fetch_secrets must not be negative",
        ),
        (
            "experimental { feature_flags = [\"b\", \"wit-svid\", \"a\"] }",
            "error loading feature flags: unknown feature flag(s): [a b]",
        ),
        (
            "experimental { named_pipe_name = \"x\" }",
            "invalid configuration: named_pipe_name is not supported in this platform; please use socket_path",
        ),
    ] {
        assert_problems(&with_agent(keys), &[expected]);
    }
}

#[test]
fn rate_limits_are_calls_a_second_of_each_method() {
    assert_eq!(sound(&with_agent("")).experimental.rate_limits, config::RateLimits::default());
    let keys = "experimental { ratelimit { fetch_x509_svid = 1 fetch_jwt_svid = 2 fetch_x509_bundles = 3
        fetch_jwt_bundles = 4 stream_secrets = 5 fetch_secrets = 6 } }";
    let expected = config::RateLimits {
        fetch_x509_svid: 1,
        fetch_jwt_svid: 2,
        fetch_x509_bundles: 3,
        fetch_jwt_bundles: 4,
        stream_secrets: 5,
        fetch_secrets: 6,
    };
    assert_eq!(sound(&with_agent(keys)).experimental.rate_limits, expected);
}

#[test]
fn unknown_keys_are_fatal_where_spire_agent_sees_them() {
    let unknown = |text: &str| {
        let errors = load(text).expect_err(text);
        let unknown: Vec<_> = errors.unknown.iter().map(|u| format!("{}: {}", u.section, u.keys())).collect();
        assert!(errors.to_string().contains("unknown configuration detected"));
        unknown.join("; ")
    };
    assert_eq!(unknown(&format!("{}\nb = 1 a {{}} b = 2", with_agent(""))), "top-level: a,b");
    assert_eq!(unknown(&with_agent("zz = 1\nretry_bootstrap = true")), "agent: retry_bootstrap,zz");
    assert_eq!(unknown(&with_agent("experimental { ratelimit { x = 1 } }")), "ratelimit: x");
    assert_eq!(unknown(&with_agent("experimental { broker { x = 1 } }")), "experimental.broker: x");
    assert_eq!(unknown(&format!("{}\nhealth_checks {{ x = 1 }}", with_agent(""))), "health check: x");
    assert_eq!(unknown(&with_telemetry("Prometheus { x = 1 }")), "Prometheus: x");
    let json = with_agent("").replace("server_port", "\"server_port\"");
    assert!(load(&json).is_ok(), "keys can stand in quotes");
    assert_eq!(unknown(r#"{"agent": {"x": 1}}"#), "agent: x");
}

#[test]
fn warnings_are_those_of_spire_agent() {
    let long = "a".repeat(255);
    let text = with_agent(&format!(
        "trust_domain = \"spiffe://{long}\" sds {{ default_bundle_name = \"ALL\" }} experimental {{
         use_sync_authorized_entries = false jwt_svid_cache_hit_timeout = \"5s\" sync_interval = \"0s\" }}"
    ));
    let settings = sound(&text);
    assert_eq!(settings.trust_domain, long);
    assert!(!settings.experimental.use_sync_authorized_entries);
    assert_eq!(settings.experimental.sync_interval, Duration::from_secs(5));
    let starts: Vec<_> = settings.warnings.iter().map(|w| w.message.get(..30).unwrap_or_default()).collect();
    assert_eq!(
        starts,
        [
            "The \"default_bundle_name\" and ",
            "The 'use_sync_authorized_entri",
            "The use of 'jwt_svid_cache_hit",
            "agent.experimental.jwt_svid_ca",
            "Experimental features have bee",
        ]
    );
    let alert = [("alert", "true".to_owned()), ("alert_type", "deprecated_config".to_owned())];
    assert_eq!(settings.warnings[1].fields(), alert);
}

#[test]
fn flags_stand_above_the_file_unless_they_are_zero() {
    let given = |text: &str| Some(text.to_owned());
    let overrides = Overrides {
        data_dir: given("cli"),
        socket_path: given(""),
        server_port: Some(0),
        server_address: given("::1"),
        trust_domain: given("spiffe://cli"),
        log_level: given("WARNING"),
        disable_sds_api: Some(false),
        disable_workload_api: Some(true),
        join_token: Some(JoinToken::new("hush".to_owned())),
        trust_bundle_path: given("cli.pem"),
        rebootstrap_delay: given("1s"),
        ..Overrides::default()
    };
    assert!(!format!("{overrides:?}").contains("hush"));
    let text =
        with_agent("data_dir = \"file\" socket_path = \"s\" disable_sds_api = true log_level = \"debug\"");
    let settings = load_with(&text, &overrides, &[]).unwrap();
    assert_eq!(settings.data_dir, PathBuf::from("cli"));
    assert_eq!(settings.socket_path, PathBuf::from("s"));
    assert_eq!(settings.server_host_port(), "[::1]:8081");
    assert_eq!(settings.trust_domain, "cli");
    assert_eq!(settings.log_level, LogLevel::Warn);
    assert!(settings.disable_sds_api && settings.disable_workload_api);
    assert_eq!(settings.join_token.as_ref().map(JoinToken::expose), Some("hush"));
    assert_eq!(settings.rebootstrap_delay, Duration::from_secs(1));

    let only_flags = Overrides {
        server_port: Some(1),
        insecure_bootstrap: Some(true),
        trust_bundle_path: None,
        ..overrides
    };
    let settings = load_with(PLUGINS, &only_flags, &[]).unwrap();
    assert_eq!(settings.trust_bundle, TrustBundleSource::Insecure);
}
