//! Nothing is ignored silently: each key that does nothing is a warning, or is refused by name.

use config::{Overrides, Settings};

use crate::{assert_problems, load_with, sound, with_agent};

fn with_unix(data: &str) -> String {
    with_agent("").replace("\"unix\" {}", &format!("\"unix\" {{ {data} }}"))
}

#[track_caller]
fn warnings(text: &str) -> Vec<String> {
    messages(&sound(text))
}

fn messages(settings: &Settings) -> Vec<String> {
    settings.warnings.iter().map(|warning| warning.message.clone()).collect()
}

#[test]
fn default_values_say_nothing() {
    let defaults = "allowed_foreign_jwt_claims = []
        profiling_enabled = false profiling_port = 0 profiling_freq = 0 profiling_names = []
        x509_svid_cache_max_size = 1000 jwt_svid_cache_max_size = 0
        trust_bundle_url = \"\"
        experimental { require_pq_kem = false feature_flags = [] ratelimit { fetch_x509_svid = 0 }
                       jwt_svid_cache_hit_timeout = \"\" sync_interval = \"\" }";
    let text = format!(
        "{}\ntelemetry {{ EnableHostnameLabel = true MetricPrefix = \"spire_agent\" }}",
        with_agent(defaults)
    );
    assert_eq!(warnings(&text), [""; 0]);
}

#[test]
fn keys_of_the_agent_that_do_nothing_are_warnings() {
    for (keys, expected) in [
        (
            "x509_svid_cache_max_size = 5",
            "agent.x509_svid_cache_max_size does nothing: the cache of X.509-SVIDs has no limit; \
             experimental.x509_svid_prefetch (\"all\", \"auto\" or \"live\") says which of them are minted before a \
             caller asks (line 3)",
        ),
        (
            "profiling_enabled = true",
            "profiling_enabled does nothing without profiling_port or profiling_freq (line 3)",
        ),
        (
            "profiling_port = 1\nprofiling_freq = 5\nprofiling_names = [\"heap\"]",
            "Nothing is done for profiling_port, profiling_freq, profiling_names: profiling_enabled is not true (line 3)",
        ),
        (
            "profiling_enabled = true profiling_port = 6060\nprofiling_names = [\"cpu\"]",
            "profiling_names does nothing without profiling_freq (line 4)",
        ),
        (
            "profiling_enabled = true profiling_freq = 5\nprofiling_port = 65536",
            "profiling_port does nothing: it must be from 1 to 65535, not 65536 (line 4)",
        ),
        (
            "profiling_enabled = true profiling_port = 6060\nprofiling_freq = -1",
            "profiling_freq does nothing: it must be from 1 to 31536000 seconds, not -1 (line 4)",
        ),
        (
            "profiling_enabled = true profiling_freq = 5\nprofiling_names = [\"heap\", \"goroutine\", \"x\"]",
            "profiling_names: finial has \"cpu\" and \"heap\" only, so nothing is written for \"goroutine\", \"x\" (line 4)",
        ),
        ("\"quoted\" = 1", "Unknown key agent.quoted is ignored (line 3)"),
        ("sds { x = 1 }", "Unknown key agent.sds.x is ignored (line 3)"),
        (
            "sds { default_svid_nam = \"x\" }",
            "Unknown key agent.sds.default_svid_nam is ignored; did you mean default_svid_name? (line 3)",
        ),
    ] {
        assert_eq!(warnings(&with_agent(keys)), [expected], "{keys}");
    }
    let broker = "experimental { broker { socket_path = \"x\" brokers = [{ id = \"x\" }] } }";
    assert_problems(&with_agent(broker), &["not supported yet: agent.experimental.broker; remove it"]);
}

#[test]
fn experimental_keys_that_do_nothing_are_warnings() {
    for (keys, expected) in [
        (
            "disable_lru_cache = true",
            "Unknown key agent.experimental.disable_lru_cache is ignored: remove it; spire-agent has it no longer \
             (line 3)",
        ),
        (
            "x509_svid_cache_max_size = 7",
            "Unknown key agent.experimental.x509_svid_cache_max_size is ignored: write it in agent { } itself (line 3)",
        ),
        (
            "sync_intervall = \"1s\"",
            "Unknown key agent.experimental.sync_intervall is ignored; did you mean sync_interval? (line 3)",
        ),
        ("of_the_future = 1", "Unknown key agent.experimental.of_the_future is ignored (line 3)"),
    ] {
        assert_eq!(warnings(&with_agent(&format!("experimental {{ {keys} }}"))), [expected], "{keys}");
    }
    let said = warnings(&with_agent("experimental { jwt_svid_cache_hit_timeout = \"5s\" }"));
    let idle = "agent.experimental.jwt_svid_cache_hit_timeout does nothing: a cached JWT-SVID is served at once, and renewed \
         meanwhile (line 3)";
    assert_eq!(said[1], idle, "{said:?}");
    let said = warnings(&with_agent("experimental { feature_flags = [\"wit-svid\"] }"));
    assert_eq!(said[0], "Developer feature flag \"wit-svid\" has been enabled");
    for keys in ["require_pq_kem = true", "ratelimit { fetch_secrets = 1 }", "sync_interval = \"1s\""] {
        let said = warnings(&with_agent(&format!("experimental {{ {keys} }}")));
        assert!(
            matches!(&said[..], [one] if one.starts_with("Experimental features have been enabled.")),
            "{said:?}"
        );
    }
}

#[test]
fn keys_of_plugins_that_do_nothing_are_warnings() {
    for (unix, expected) in [
        (
            "plugin_checksums = \"x\"",
            "Unknown key plugins.WorkloadAttestor.unix.plugin_checksums is ignored; did you mean plugin_checksum? \
             (line 8)",
        ),
        (
            "plugin_data {\n discover_workload_paths = true }",
            "Plugin \"unix\": Unknown key discover_workload_paths is ignored; did you mean discover_workload_path? \
             (line 9)",
        ),
        ("plugin_data { other = true }", "Plugin \"unix\": Unknown key other is ignored (line 8)"),
    ] {
        assert_eq!(warnings(&with_unix(unix)), [expected], "{unix}");
    }
    let text = with_unix("plugin_data_file = \"unix.conf\"");
    let settings = load_with(&text, &Overrides::default(), &[("unix.conf", "\n\nother = 1")]).unwrap();
    assert_eq!(messages(&settings), ["Plugin \"unix\": Unknown key other is ignored (line 3 of unix.conf)"]);
    let brokers = "experimental { broker { brokers = [{ id = \"spiffe://x/y\" }] } }";
    let k8s = with_agent("").replace("\"unix\" {}", &format!("\"k8s\" {{ plugin_data {{ {brokers} }} }}"));
    let idle = "Plugin \"k8s\": experimental.broker does nothing yet: finial has no Broker API (line 8)";
    assert_eq!(warnings(&k8s), [idle]);
}

#[test]
fn paths_that_no_socket_can_have_keep_the_agent_from_running() {
    let long = "s".repeat(200);
    for (keys, expected) in [
        (format!("socket_path = \"/{long}\""), "socket_path is 201 bytes long, a socket path may have 107"),
        (format!("admin_socket_path = \"/{long}\""), "admin_socket_path is 201 bytes long, a socket path"),
        ("socket_path = \"/a\\u0000b\"".to_owned(), "socket_path has a NUL, which no path may have (line 3)"),
        ("data_dir = \"/a\\u0000b\"".to_owned(), "data_dir has a NUL, which no path may have (line 3)"),
    ] {
        let settings = sound(&with_agent(&keys));
        let found: Vec<_> = settings.obstacles().map(ToString::to_string).collect();
        assert!(matches!(&found[..], [one] if one.starts_with(expected)), "{keys}: {found:?}");
    }
    let off = format!("disable_workload_api = true disable_sds_api = true socket_path = \"/{long}\"");
    assert_eq!(sound(&with_agent(&off)).obstacles().count(), 0);
}
