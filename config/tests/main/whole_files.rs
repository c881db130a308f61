//! The files of the official chart, and of Finial's demo scenario.

use std::path::PathBuf;
use std::time::Duration;

use config::{
    BundleFormat, HealthChecks, KeyManager, LogFormat, LogLevel, NodeAttestor, Overrides, RebootstrapMode,
    TrustBundleSource, WorkloadAttestor,
};

use crate::{load, load_with, sound};

const DEFAULT_CHART: &str = include_str!("../../testdata/official-chart-default.agent.conf");
const RICH_CHART: &str = include_str!("../../testdata/official-chart-rich.agent.conf");
const SCENARIO: &str = include_str!("../../testdata/scenario.agent.conf");
const OLD_CHART: &str = include_str!("../../testdata/old-chart.agent.conf");

#[test]
fn the_default_of_the_official_chart_is_valid() {
    let settings = sound(DEFAULT_CHART);
    assert_eq!(settings.trust_domain, "am-multi-account-mesh");
    assert_eq!(settings.server_host_port(), "t-server.spire-system:443");
    assert_eq!(settings.data_dir, PathBuf::from("/var/lib/spire"));
    assert_eq!(settings.socket_path, PathBuf::from("/tmp/spire-agent/public/spire-agent.sock"));
    assert_eq!(settings.log_format, LogFormat::Text);
    assert_eq!(settings.log_level, LogLevel::Info);
    assert_eq!(settings.rebootstrap_mode, RebootstrapMode::Always);
    assert_eq!(settings.rebootstrap_delay, Duration::from_mins(10));
    let path = PathBuf::from("/run/spire/bundle/bundle.spiffe");
    assert_eq!(settings.trust_bundle, TrustBundleSource::File { path, format: BundleFormat::Spiffe });
    assert_eq!(settings.health_checks.address(), "0.0.0.0:9982");
    assert_eq!(settings.warnings, []);
    assert_eq!(settings.plugin_problems(), []);
}

#[test]
fn of_the_rich_chart_every_key_counts() {
    let settings = sound(RICH_CHART);
    assert_eq!(settings.warnings, []);
    assert!(!settings.telemetry.dog_statsd.is_empty());
    assert_eq!(settings.obstacles().count(), 0);
}

#[test]
fn the_scenario_is_understood() {
    let settings = sound(SCENARIO);
    assert_eq!(settings.server_port, 8081);
    assert_eq!(settings.log_level, LogLevel::Debug);
    assert_eq!(
        settings.health_checks,
        HealthChecks {
            listener_enabled: true,
            bind_address: "0.0.0.0".to_owned(),
            bind_port: "8080".to_owned(),
            live_path: "/live".to_owned(),
            ready_path: "/ready".to_owned(),
        }
    );
    let plugins = settings.plugins().expect("sound plugins");
    let expected = NodeAttestor::K8sPsat {
        cluster: "frontend-k8s-cluster".to_owned(),
        token_path: "/var/run/secrets/tokens/spire-agent".into(),
    };
    assert_eq!(plugins.node_attestor, expected);
    assert_eq!(plugins.key_manager, KeyManager::Memory);
    let unix = WorkloadAttestor::Unix { discover_workload_path: false, workload_size_limit: 0 };
    let [WorkloadAttestor::K8s(k8s), second] = &plugins.workload_attestors[..] else { panic!("{plugins:?}") };
    assert!(k8s.skip_kubelet_verification);
    assert_eq!(*second, unix);
}

#[test]
fn old_charts_are_told_what_to_write() {
    let errors = load(OLD_CHART).expect_err("refused");
    let [unknown] = &errors.unknown[..] else { panic!("{errors:?}") };
    assert_eq!((unknown.section.as_str(), unknown.keys().as_str()), ("agent", "enable_sds"));
    let text = errors.to_string();
    let expected = "unknown configuration detected\n  agent: enable_sds (line 3): remove it;";
    assert!(text.contains(expected), "{text}");

    let [problem] = &errors.problems[..] else { panic!("{errors:?}") };
    let expected = "failed to load plugin \"k8s_sat\": no built-in plugin \"k8s_sat\" for type \
                    \"NodeAttestor\"; write NodeAttestor \"k8s_psat\" { plugin_data { cluster = \
                    \"frontend-k8s-cluster\" } } and";
    assert!(problem.message.starts_with(expected), "{problem}");
}

#[test]
fn the_empty_file_misses_everything_at_once() {
    let errors = load_with("", &Overrides::default(), &[]).expect_err("empty");
    assert_eq!(
        errors.to_string(),
        "plugins section must be configured\n\
         server_address must be configured\n\
         server_port must be configured\n\
         trust_domain must be configured\n\
         trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless \
         insecure_bootstrap is set"
    );
}

#[test]
fn a_syntax_error_names_its_place() {
    let errors = load("agent {\n  trust_domain = \"td\n}").expect_err("open string");
    let expected = "unable to decode configuration: literal not terminated";
    let text = errors.to_string();
    assert!(text.starts_with(expected) && text.ends_with("at column 18 (line 2)"), "{text}");
}
