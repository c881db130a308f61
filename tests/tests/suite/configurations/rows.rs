//! Configurations with each key at its limits, and the verdict on each.

use super::table::Verdict::{self, NotRun, Ours, OwnWords, Quiet, Refused, Serves, Warns};

/// One configuration: `keys` are added to a sound block `agent`, where the last value of a key counts, and `rest` to the
/// file. `DIR` in them is a folder of the test, `LONG` 200 letters, `TD300` 300 letters.
pub(super) struct Row {
    pub(super) keys: &'static str,
    pub(super) rest: &'static str,
    pub(super) verdict: Verdict,
}

const fn agent(keys: &'static str, verdict: Verdict) -> Row {
    Row { keys, rest: "", verdict }
}

const fn file(rest: &'static str, verdict: Verdict) -> Row {
    Row { keys: "", rest, verdict }
}

pub(super) const ROWS: &[Row] = &[
    agent("", Serves),
    // The trust domain, and the address and port of the server.
    agent(r#"server_address = """#, Refused("server_address must be configured")),
    agent(r#"server_address = "a b""#, Serves),
    agent(r#"server_address = "a\u0000b""#, Serves),
    agent(r#"server_address = "https://x/""#, Serves),
    agent(r#"server_address = "[::1]""#, Serves),
    agent(r#"server_address = "fe80::1%lo""#, Serves),
    agent(r#"server_address = "bücher.example""#, Serves),
    agent(r#"server_address = "user@LONG""#, Serves),
    agent("server_port = 0", Refused("server_port must be configured")),
    agent("server_port = 65535", Serves),
    agent("server_port = \"0x1F90\"", Serves),
    agent("server_port = 65536", Ours("server_port must be from 1 to 65535, not 65536")),
    agent("server_port = 70000", Ours("server_port must be from 1 to 65535, not 70000")),
    agent("server_port = -1", Ours("server_port must be from 1 to 65535, not -1")),
    agent(
        "server_port = 99999999999999999999",
        OwnWords("agent.server_port: write a whole number instead of one that"),
    ),
    agent("server_port = \"http\"", OwnWords("agent.server_port: write a whole number instead of a string")),
    agent("server_port = \" 80\"", OwnWords("agent.server_port: write a whole number instead of a string")),
    agent("server_port = \"08\"", OwnWords("agent.server_port: write a whole number instead of a string")),
    agent("server_port = \"\"", OwnWords("agent.server_port: write a whole number instead of a string")),
    agent("server_port = 1.5", OwnWords("agent.server_port: write a whole number instead of a number with")),
    agent("server_port = true", OwnWords("agent.server_port: write a whole number instead of true")),
    // Trust domain.
    agent(r#"trust_domain = """#, Refused("trust_domain must be configured")),
    agent(r#"trust_domain = "spiffe://example.org""#, Serves),
    agent(r#"trust_domain = "spiffe://example.org/any/path""#, Serves),
    agent(r#"trust_domain = "example.org.""#, Serves),
    agent(r#"trust_domain = "..""#, Serves),
    agent(r#"trust_domain = "-""#, Serves),
    agent(
        r#"trust_domain = "Example.org""#,
        Refused(r#"could not parse trust_domain "Example.org": trust domain characters"#),
    ),
    agent(
        r#"trust_domain = "example.org:80""#,
        Refused(r#"could not parse trust_domain "example.org:80": trust domain char"#),
    ),
    agent(
        r#"trust_domain = "bücher.example""#,
        Refused(r#"could not parse trust_domain "bücher.example": trust domain char"#),
    ),
    agent(
        r#"trust_domain = "a/b""#,
        Refused(r#"could not parse trust_domain "a/b": trust domain characters"#),
    ),
    agent(
        r#"trust_domain = "spiffe://example.org/""#,
        Refused(r#"could not parse trust_domain "spiffe://example.org/": path cannot"#),
    ),
    agent(
        r#"trust_domain = "spiffe://""#,
        Refused(r#"could not parse trust_domain "spiffe://": trust domain is missing"#),
    ),
    agent(
        r#"trust_domain = "http://td""#,
        Refused(r#"could not parse trust_domain "http://td": scheme is missing or inv"#),
    ),
    agent(r#"trust_domain = "ex\u0000ample""#, OwnWords("could not parse trust_domain")),
    agent(r#"trust_domain = "TD300""#, Ours("trust_domain has 300 characters")),
    agent(r#"trust_domain = "spiffe://TD300""#, Ours("trust_domain has 300 characters")),
    // Join tokens, the first trust bundle, and rebootstrap_mode.
    agent(
        "insecure_bootstrap = false",
        Refused("trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must"),
    ),
    agent(
        r#"trust_bundle_path = "x""#,
        Refused("only one of insecure_bootstrap or trust_bundle_path can be specified"),
    ),
    agent(
        r#"trust_bundle_format = "PEM""#,
        Refused(r#"invalid value for trust_bundle_format, expected "pem" or "spiffe""#),
    ),
    agent(r#"rebootstrap_mode = "sometimes""#, Refused("unknown rebootstrap mode specified: sometimes")),
    agent(r#"rebootstrap_mode = "AUTO""#, Refused("unknown rebootstrap mode specified: AUTO")),
    agent(
        r#"rebootstrap_mode = "auto""#,
        Refused("insecure_bootstrap option can not be used with rebootstrapping"),
    ),
    agent(r#"rebootstrap_delay = "0""#, Serves),
    agent(r#"rebootstrap_delay = "2562047h""#, Serves),
    agent(
        r#"rebootstrap_delay = "-1s""#,
        Ours("error parsing rebootstrap delay duration: duration \"-1s\" must not be neg"),
    ),
    agent(
        r#"rebootstrap_delay = "soon""#,
        Refused("error parsing rebootstrap delay duration: time: invalid duration \"soon\""),
    ),
    agent(
        r#"join_token = "x" join_token_file = "/etc/hostname""#,
        Refused("only one of join_token or join_token_file can be specified"),
    ),
    agent(
        r#"join_token_file = "/nope""#,
        Refused(r#"unable to read join token file "/nope": open /nope: no such file or directory"#),
    ),
    agent(
        r#"join_token_file = "/""#,
        OwnWords(r#"unable to read join token file "/": /: is not a regular file"#),
    ),
    agent(
        r#"join_token_file = "/dev/null""#,
        OwnWords("unable to read join token file \"/dev/null\": /dev/null: is not a regular file"),
    ),
    agent(r#"join_token = "a\u0000b""#, Serves),
    agent(r#"join_token = "ü""#, Serves),
    // Level, format and file of the log.
    agent(r#"log_level = "PANIC""#, Quiet),
    agent(r#"log_level = "fatal""#, Quiet),
    agent(r#"log_level = "loud""#, Refused("could not start logger: not a valid logrus Level: \"loud\"")),
    agent(r#"log_format = "xml""#, Refused("could not start logger: unknown logger format: \"xml\"")),
    agent(r#"log_file = "/nope/agent.log""#, Refused("open /nope/agent.log: no such file or directory")),
    agent(r#"log_file = "/""#, Refused("open /: is a directory")),
    agent(r#"log_file = "DIR/a\u0000b""#, OwnWords("open ")),
    agent("log_source_location = true", Serves),
    agent(r#"log_selectors = ["", "k8s", "\u0000"]"#, Serves),
    // Sockets and folders.
    agent(r#"socket_path = """#, Quiet),
    agent(r#"socket_path = "DIR/ünï/api.sock""#, Serves),
    agent(r#"socket_path = "/LONG""#, NotRun("socket_path is 201 bytes long, a socket path may have 107")),
    agent(r#"socket_path = "DIR/a\u0000b""#, NotRun("socket_path has a NUL, which no path may have")),
    agent(
        r#"admin_socket_path = "DIR/admin/admin.sock" disable_workload_api = true disable_sds_api = true"#,
        Serves,
    ),
    agent(
        r#"admin_socket_path = "DIR/s/admin.sock""#,
        Refused("admin socket cannot be in the same directory or a subdirectory"),
    ),
    agent(
        r#"admin_socket_path = "DIR/s/deep/admin.sock""#,
        Refused("admin socket cannot be in the same directory or a subdirectory"),
    ),
    agent(
        r#"admin_socket_path = "DIR/x/../s/admin.sock""#,
        Refused("admin socket cannot be in the same directory or a subdirectory"),
    ),
    agent(r#"admin_socket_path = "DIR/sa/admin.sock""#, Serves),
    agent(
        r#"admin_socket_path = "/LONG""#,
        NotRun("admin_socket_path is 201 bytes long, a socket path may have 107"),
    ),
    agent(
        r#"admin_socket_path = "/a\u0000b""#,
        NotRun("admin_socket_path has a NUL, which no path may have"),
    ),
    agent(r#"data_dir = "/a\u0000b""#, NotRun("data_dir has a NUL, which no path may have")),
    agent(r#"data_dir = "/etc/passwd/x""#, Quiet),
    agent(r#"authorized_delegates = ["spiffe://example.org/d", "spiffe://example.org"]"#, Serves),
    agent(
        r#"authorized_delegates = ["spiffe://other.org/d"]"#,
        Refused(
            "error validating authorized delegate: SPIFFE ID \"spiffe://other.org/d\" is not a member of trust domain \"example.org\"",
        ),
    ),
    agent(
        r#"authorized_delegates = ["spiffe://example.orgx/d"]"#,
        Refused("error validating authorized delegate: SPIFFE ID \"spiffe://example.orgx/d\" is not a mem"),
    ),
    agent(
        r#"authorized_delegates = ["spiffe://example.org/"]"#,
        Refused("error validating authorized delegate: path cannot have a trailing slash"),
    ),
    agent(
        r#"authorized_delegates = ["spiffe://example.org//d"]"#,
        Refused("error validating authorized delegate: path cannot contain empty segments"),
    ),
    agent(
        r#"authorized_delegates = ["spiffe://example.org/../d"]"#,
        Refused("error validating authorized delegate: path cannot contain dot segments"),
    ),
    agent(
        r#"authorized_delegates = ["spiffe://example.org/\u0000"]"#,
        Refused("error validating authorized delegate: path segment characters are"),
    ),
    agent(
        r#"authorized_delegates = ["d"]"#,
        Refused("error validating authorized delegate: scheme is missing or invalid"),
    ),
    agent(r#"authorized_delegates = [""]"#, Refused("error validating authorized delegate: cannot be empty")),
    agent(
        r#"authorized_delegates = "spiffe://example.org/d""#,
        OwnWords("agent.authorized_delegates: write a list of strings"),
    ),
    // Keys, times and sizes.
    agent(r#"workload_x509_svid_key_type = "EC-P384""#, Serves),
    agent(
        r#"workload_x509_svid_key_type = "rsa-4096""#,
        Refused("key type \"rsa-4096\" is unknown; must be one of [rsa-2048, ec-p256, ec-p384]"),
    ),
    agent(r#"availability_target = "24h""#, Serves),
    agent(r#"availability_target = "2562047h""#, Serves),
    agent(r#"availability_target = "23h59m59s""#, Refused("availability_target must be at least 24h0m0s")),
    agent(r#"availability_target = "0""#, Refused("availability_target must be at least 24h0m0s")),
    agent(r#"availability_target = "-24h""#, Refused("availability_target must be at least 24h0m0s")),
    agent(
        r#"availability_target = "9999999999h""#,
        Refused("unable to parse availability_target: time: invalid duration"),
    ),
    agent("x509_svid_cache_max_size = 0", Serves),
    agent("x509_svid_cache_max_size = 1", Warns("agent.x509_svid_cache_max_size does nothing")),
    agent(
        "x509_svid_cache_max_size = 9223372036854775807",
        Warns("agent.x509_svid_cache_max_size does nothing"),
    ),
    agent("x509_svid_cache_max_size = -1", Refused("x509_svid_cache_max_size should not be negative")),
    agent(
        "x509_svid_cache_max_size = 9223372036854775808",
        OwnWords("agent.x509_svid_cache_max_size: write a whole number"),
    ),
    agent("jwt_svid_cache_max_size = 7", Serves),
    agent("jwt_svid_cache_max_size = -1", Refused("jwt_svid_cache_max_size should not be negative")),
    agent(r#"allowed_foreign_jwt_claims = ["a"]"#, Serves),
    agent("profiling_enabled = false profiling_port = 0 profiling_freq = 0 profiling_names = []", Serves),
    agent("profiling_enabled = true", Warns("profiling_enabled does nothing without")),
    agent("profiling_port = 6060", Warns("Nothing is done for profiling_port")),
    agent("profiling_enabled = true profiling_port = 65536", Warns("profiling_port does nothing")),
    agent("profiling_enabled = true profiling_port = -1", Warns("profiling_port does nothing")),
    agent("profiling_enabled = true profiling_freq = -1", Warns("profiling_freq does nothing")),
    agent("profiling_enabled = true profiling_freq = 86400 profiling_names = []", Serves),
    agent(
        r#"profiling_enabled = true profiling_freq = 86400 profiling_names = ["goroutine", "x"]"#,
        Warns("profiling_names: finial has"),
    ),
    agent(
        "disable_sds_api = \"true\"",
        OwnWords("agent.disable_sds_api: write true or false without quotes"),
    ),
    agent("disable_sds_api = 1", OwnWords("agent.disable_sds_api: write true or false without quotes")),
    agent("allow_unauthenticated_verifiers = true", Serves),
    agent(
        r#"sds { default_bundle_name = "ALL" }"#,
        Warns("The \\\"default_bundle_name\\\" and \\\"default_all_bundles_name\\\" configurables"),
    ),
    agent("sds { other = 1 }", Warns("Unknown key agent.sds.other is ignored")),
    agent("other = 1", Refused("unknown configuration detected")),
    agent("enable_sds = true", Refused("unknown configuration detected")),
    agent(r#"configpath = "x" expandenv = true"#, Serves),
    // Keys of experimental { }.
    agent(r#"experimental { sync_interval = "0s" }"#, Serves),
    agent(r#"experimental { sync_interval = "1ns" }"#, Serves),
    agent(r#"experimental { sync_interval = "2562047h" }"#, Serves),
    agent(
        r#"experimental { sync_interval = "-5m" }"#,
        Ours("could not parse synchronization interval: duration \"-5m\" must not be negative"),
    ),
    agent(
        r#"experimental { sync_interval = "5" }"#,
        Refused("could not parse synchronization interval: time: missing unit in duration \"5\""),
    ),
    agent(
        r#"experimental { sync_interval = "1 d" }"#,
        Refused("could not parse synchronization interval: time: unknown unit \" d\" in duration"),
    ),
    agent(
        "experimental { use_sync_authorized_entries = false }",
        Warns("The 'use_sync_authorized_entries' configuration is deprecated."),
    ),
    agent("experimental { require_pq_kem = true }", Warns("Experimental features have been enabled.")),
    agent(
        r#"experimental { jwt_svid_cache_hit_timeout = "5s" }"#,
        Warns("agent.experimental.jwt_svid_cache_hit_timeout does nothing"),
    ),
    agent(
        r#"experimental { jwt_svid_cache_hit_timeout = "-5s" }"#,
        Refused("jwt_svid_cache_hit_timeout (-5s) must be greater than 5s"),
    ),
    agent(
        r#"experimental { jwt_svid_cache_hit_timeout = "4s" }"#,
        Refused("jwt_svid_cache_hit_timeout (4s) must be greater than 5s"),
    ),
    agent(
        r#"experimental { jwt_svid_cache_hit_timeout = "30s" }"#,
        Refused("jwt_svid_cache_hit_timeout (30s) must be less than 30s"),
    ),
    agent("experimental { ratelimit { fetch_x509_svid = 9223372036854775807 } }", Serves),
    agent(
        "experimental { ratelimit { fetch_x509_svid = -1 } }",
        Refused("experimental.ratelimit.fetch_x509_svid must not be negative"),
    ),
    agent("experimental { ratelimit { fetch_jwt_svid = 1 } }", Serves),
    agent("experimental { ratelimit { fetch_x = 1 } }", Refused("unknown configuration detected")),
    // A block of finial's own there, which spire-agent ignores.
    agent(r#"experimental { otlp { endpoint = "http://127.0.0.1:9" headers { key = "value" } } }"#, Serves),
    agent(r#"experimental { otlp { endpoint = "https://localhost:9" logs = true } }"#, Serves),
    agent(
        r#"experimental { otlp { endpoint = "http://192.0.2.1:9" headers { key = "value" } } }"#,
        Warns("experimental.otlp.headers are sent without encryption"),
    ),
    agent("experimental { otlp { } }", Ours("experimental.otlp.endpoint must be configured")),
    agent(
        r#"experimental { otlp { endpoint = "http://127.0.0.1:9" end = 1 } }"#,
        Ours("unknown configuration detected"),
    ),
    agent(
        r#"experimental { feature_flags = ["wit-svid"] }"#,
        Warns("Developer feature flag \\\"wit-svid\\\" has been enabled"),
    ),
    agent(
        r#"experimental { feature_flags = ["x", "a"] }"#,
        Refused("error loading feature flags: unknown feature flag(s): [a x]"),
    ),
    agent(
        r#"experimental { named_pipe_name = "x" }"#,
        Refused("invalid configuration: named_pipe_name is not supported in this platform"),
    ),
    agent(
        r#"experimental { broker { socket_path = "/b.sock" brokers = [{ id = "spiffe://x/y" allowed_reference_types = [{ type_url = "*" }] }] } }"#,
        Ours("not supported yet: agent.experimental.broker"),
    ),
    agent(
        "experimental { of_the_future = 1 }",
        Warns("Unknown key agent.experimental.of_the_future is ignored"),
    ),
    // Other blocks.
    file("other = 1", Refused("unknown configuration detected")),
    file("telemetry { }", Serves),
    file(r#"telemetry { Prometheus { host = "0.0.0.0" port = 9988 } }"#, Serves),
    file(
        r#"telemetry { InMem {} Statsd = [{ address = "127.0.0.1:1" }, { address = "b:1" }] MetricPrefix = "x" }"#,
        Serves,
    ),
    file("telemetry { other = 1 }", Warns("Unknown key telemetry.other is ignored")),
    file(r#"telemetry { Prometheus { hots = "0.0.0.0" } }"#, Refused("unknown configuration detected")),
    file(
        r#"telemetry { Prometheus { port = "x" } }"#,
        OwnWords("telemetry.Prometheus.port: write a whole number"),
    ),
    file(r#"health_checks { listener_enabled = true bind_address = "127.0.0.1" bind_port = "0" }"#, Serves),
    file(r#"health_checks { listener_enabled = true bind_port = "99999" }"#, Serves),
    file(r#"health_checks { listener_enabled = true bind_address = "no such\u0000host" }"#, Serves),
    file("health_checks { other = 1 }", Refused("unknown configuration detected")),
];
