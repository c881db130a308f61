//! The block plugins: its shapes, and the numbers, names and data of plugins.

use config::{
    HttpChallenge, KeyManager, NodeAttestor, Overrides, Plugins, WorkloadApi, WorkloadAttestor, X509Pop,
};

use crate::{assert_problems, load_with, sound, with_agent, with_plugins};

const UNIX: WorkloadAttestor =
    WorkloadAttestor::Unix { discover_workload_path: false, workload_size_limit: 0 };

#[track_caller]
fn runnable(text: &str) -> Plugins {
    let settings = sound(text);
    settings.plugins().unwrap_or_else(|problems| panic!("{problems:#?}\n{text}")).clone()
}

/// The problems that only `run` reports.
#[track_caller]
fn assert_run_problems(text: &str, expected: &[&str]) {
    let settings = sound(text);
    let found: Vec<_> = settings.plugin_problems().iter().map(ToString::to_string).collect();
    let same = found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e));
    assert!(same, "{text}\nfound {found:#?}\nexpected {expected:#?}");
    assert_eq!(settings.plugins().is_ok(), expected.is_empty());
}

#[test]
fn shapes_mean_the_same() {
    let expected = Plugins {
        node_attestor: NodeAttestor::K8sPsat { cluster: "c".to_owned(), token_path: "t".into() },
        key_manager: KeyManager::Disk { directory: "d".into() },
        workload_attestors: vec![UNIX],
    };
    let data = "cluster = \"c\" token_path = \"t\"";
    for text in [
        with_plugins(&format!(
            "NodeAttestor \"k8s_psat\" {{ plugin_data {{ {data} }} }}
             KeyManager \"disk\" {{ plugin_data {{ directory = \"d\" }} }} WorkloadAttestor \"unix\" {{}}"
        )),
        with_plugins(&format!(
            "NodeAttestor {{ k8s_psat {{ plugin_data = {{ {data} }} }} }}
             KeyManager {{ disk \"plugin_data\" {{ directory = \"d\" }} }} WorkloadAttestor {{ unix {{}} }}"
        )),
        with_agent("").replace("plugins {", "old {").replace("old", "plugins \"KeyManager\" \"disk\" \"plugin_data\" { directory = \"d\" }
             plugins \"WorkloadAttestor\" \"unix\" {} plugins NodeAttestor \"k8s_psat\" plugin_data { cluster = \"c\" token_path = \"t\" } plugins NodeAttestor \"x\" { enabled = false } telemetry ")
            .replace("KeyManager \"memory\" {}", "").replace("NodeAttestor \"join_token\" {}", "")
            .replace("WorkloadAttestor \"unix\" {}\n}", "}"),
    ] {
        assert_eq!(runnable(&text), expected, "{text}");
    }
}

#[test]
fn of_repeated_blocks_the_last_counts() {
    let text = format!("plugins {{ KeyManager \"disk\" {{}} }}\n{}", with_agent(""));
    assert_eq!(runnable(&text).key_manager, KeyManager::Memory);
    let warnings = sound(&text).warnings;
    assert_eq!(
        warnings[0].message,
        "The plugins block of line 1 is ignored: only the last one, of line 6, counts"
    );
}

#[test]
fn blocks_that_cannot_be_read_are_errors_of_the_file() {
    for (plugins, expected) in [
        (
            "KeyManager \"memory\" {}\nKeyManager \"memory\" {}",
            "plugin \"KeyManager\"/\"memory\" declared more than once (line 6)",
        ),
        (
            "KeyManager \"memory\" { plugin_data {} plugin_data_file = \"x\" }",
            "failed to create plugin config for \"KeyManager\"/\"memory\": only one of [plugin_data, \
             plugin_data_file] can be used (line 5)",
        ),
        ("KeyManager = \"memory\"", "plugins.KeyManager: write KeyManager \"name\""),
        (
            "KeyManager \"memory\" { enabled = \"true\" }",
            "plugins.KeyManager.memory.enabled: write true or false",
        ),
        (
            "KeyManager { memory = 1 }",
            "failed to create plugin config for \"KeyManager\"/\"memory\": write a block",
        ),
    ] {
        assert_problems(&with_plugins(plugins), &[expected]);
    }
}

#[test]
fn numbers_of_plugins_are_checked() {
    assert_run_problems(
        &with_plugins(""),
        &[
            "plugin type \"KeyManager\" constraint not satisfied: expected exactly 1 but got 0",
            "plugin type \"NodeAttestor\" constraint not satisfied: expected exactly 1 but got 0",
            "plugin type \"WorkloadAttestor\" constraint not satisfied: expected at least 1 but got 0",
        ],
    );
    let two = "KeyManager \"memory\" {} KeyManager \"disk\" { plugin_data { directory = \"d\" } }
        NodeAttestor \"join_token\" {} NodeAttestor \"k8s_psat\" { enabled = false } WorkloadAttestor \"unix\" {}";
    let expected = "plugin type \"KeyManager\" constraint not satisfied: expected exactly 1 but got 2";
    assert_run_problems(&with_plugins(two), &[expected]);
}

/// A block that is valid without `plugin`, and has it in addition.
fn one_more(plugin: &str) -> String {
    with_agent("").replace("plugins {", &format!("plugins {{ {plugin}"))
}

#[test]
fn names_are_those_of_spire_agent() {
    for (plugin, expected) in [
        ("Bogus \"x\" { enabled = false }", "unsupported plugin type \"Bogus\" (line 5)"),
        (
            "WorkloadAttestor \"x\" {}",
            "failed to load plugin \"x\": no built-in plugin \"x\" for type \"WorkloadAttestor\" (line 5)",
        ),
        (
            "WorkloadAttestor \"x\" { plugin_cmd = \"y\" }",
            "not supported yet: external plugin WorkloadAttestor \"x\"",
        ),
        ("SVIDStore \"aws_secretsmanager\" {}", "not supported yet: SVIDStore \"aws_secretsmanager\""),
        ("WorkloadAttestor \"windows\" {}", "failed to configure plugin \"windows\": not supported in this"),
    ] {
        assert_run_problems(&one_more(plugin), &[expected]);
    }
    for name in ["aws_iid", "gcp_iit", "azure_msi", "azure_imds", "sshpop", "tpm_devid"] {
        let text = with_agent("").replace("\"join_token\"", &format!("\"{name}\""));
        assert_run_problems(&text, &[&format!("not supported yet: NodeAttestor \"{name}\"")]);
    }
}

#[test]
fn data_is_checked_plugin_by_plugin() {
    let replaced = |old: &str, new: &str| with_agent("").replace(old, new);
    let nothing = "no supported configuration interface found";
    for (text, expected) in [
        (
            replaced("\"memory\" {}", "\"memory\" { plugin_data { a = 1 } }"),
            format!("failed to configure plugin \"memory\": {nothing}"),
        ),
        (
            replaced("\"join_token\" {}", "\"join_token\" { plugin_data_file = \"x\" }"),
            format!("failed to configure plugin \"join_token\": {nothing}"),
        ),
        (
            replaced("\"unix\" {}", "\"systemd\" { plugin_data { a = 1 } }"),
            format!("failed to configure plugin \"systemd\": {nothing}"),
        ),
        (
            replaced("\"unix\" {}", "\"slurm\" { plugin_data_file = \"x\" }"),
            format!("failed to configure plugin \"slurm\": {nothing}"),
        ),
        (
            replaced("\"unix\" {}", "\"docker\" { plugin_data { bogus = 1 } }"),
            "failed to configure plugin \"docker\": unknown configurations detected: bogus".to_owned(),
        ),
        (
            replaced("\"join_token\" {}", "\"k8s_psat\" {}"),
            "failed to configure plugin \"k8s_psat\": missing required cluster block".to_owned(),
        ),
        (
            replaced("\"join_token\" {}", "\"k8s_psat\" { plugin_data { cluster = true } }"),
            "failed to configure plugin \"k8s_psat\": cluster: write a quoted string".to_owned(),
        ),
        (
            replaced("\"join_token\" {}", "\"k8s_psat\" { plugin_data = \"x\" }"),
            "failed to configure plugin \"k8s_psat\": unable to decode configuration".to_owned(),
        ),
        (
            replaced("\"memory\" {}", "\"disk\" {}"),
            "failed to configure plugin \"disk\": directory must be configured".to_owned(),
        ),
        (
            replaced("\"memory\" {}", "\"disk\" { plugin_data_file = \"none\" }"),
            "failed to configure plugin \"disk\": failed to load plugin data: no such file".to_owned(),
        ),
    ] {
        let settings = sound(&text);
        let first = settings.plugin_problems().first().map(ToString::to_string).unwrap_or_default();
        assert!(first.starts_with(&expected), "{first}\n{expected}");
    }
    let text = replaced(
        "\"unix\" {}",
        "\"unix\" { plugin_data { discover_workload_path = true workload_size_limit = -1 x = 1 } }",
    );
    let unix = WorkloadAttestor::Unix { discover_workload_path: true, workload_size_limit: -1 };
    assert_eq!(runnable(&text).workload_attestors, [unix]);
    let text = replaced(
        "WorkloadAttestor \"unix\" {}",
        "WorkloadAttestor \"systemd\" { plugin_data {} } WorkloadAttestor \"docker\" {} WorkloadAttestor \"slurm\" {}",
    );
    let attestors = runnable(&text).workload_attestors;
    assert!(
        matches!(
            &attestors[..],
            [WorkloadAttestor::Systemd, WorkloadAttestor::Docker(_), WorkloadAttestor::Slurm]
        ),
        "{attestors:?}"
    );
}

#[test]
fn data_can_come_from_a_file() {
    let text = with_agent("").replace("\"memory\" {}", "\"disk\" { plugin_data_file = \"disk.conf\" }");
    let load = |content| load_with(&text, &Overrides::default(), &[("disk.conf", content)]).unwrap();
    let settings = load("directory = \"$D\"");
    assert_eq!(settings.plugins().unwrap().key_manager, KeyManager::Disk { directory: "$D".into() });
    let settings = load("{\"directory\":");
    let message = &settings.plugin_problems()[0].message;
    assert!(message.contains("unable to decode configuration: disk.conf: line 1, column 14"), "{message}");
}

#[test]
fn x509pop_has_files_or_a_workload_api() {
    let with = |data: &str| {
        with_agent("").replace("\"join_token\" {}", &format!("\"x509pop\" {{ plugin_data {{ {data} }} }}"))
    };
    let files = with("private_key_path = \"k\" certificate_path = \"c\" intermediates_path = \"i\"");
    let expected =
        X509Pop::Files { private_key: "k".into(), certificate: "c".into(), intermediates: Some("i".into()) };
    assert_eq!(runnable(&files).node_attestor, NodeAttestor::X509Pop(expected));
    for (socket, address) in [
        ("unix:///run/agent.sock", WorkloadApi::Unix("/run/agent.sock".into())),
        ("unix:/run/agent.sock", WorkloadApi::Unix("/run/agent.sock".into())),
        ("tcp://127.0.0.1:1", WorkloadApi::Tcp(([127, 0, 0, 1], 1).into())),
    ] {
        // Files are not looked at then.
        let api = with(&format!("spiffe_endpoint_socket = \"{socket}\" private_key_path = \"k\""));
        let expected = X509Pop::WorkloadApi { address };
        assert_eq!(runnable(&api).node_attestor, NodeAttestor::X509Pop(expected));
    }
    let blank = with("private_key_path = \"k\" certificate_path = \"c\" intermediates_path = \" \"");
    let expected = X509Pop::Files { private_key: "k".into(), certificate: "c".into(), intermediates: None };
    assert_eq!(runnable(&blank).node_attestor, NodeAttestor::X509Pop(expected));
    let missing = "failed to configure plugin \"x509pop\": certificate_path is required";
    assert_run_problems(&with("private_key_path = \"k\""), &[missing]);
    let relative = "failed to configure plugin \"x509pop\": spiffe_endpoint_socket: workload endpoint socket URI must \
                    have a \"tcp\" or \"unix\" scheme (line";
    assert_run_problems(&with("spiffe_endpoint_socket = \"agent.sock\""), &[relative]);
}

#[test]
fn http_challenge_has_names_and_ports() {
    let with =
        |data: &str| with_agent("").replace("\"join_token\" {}", &format!("\"http_challenge\" {{ {data} }}"));
    let default =
        HttpChallenge { hostname: None, agent_name: "default".into(), port: 0, advertised_port: None };
    for data in [
        "",
        "plugin_data {}",
        "plugin_data { hostname = \"\" agentname = \"\" port = 0 advertised_port = 0 }",
    ] {
        let expected = NodeAttestor::HttpChallenge(default.clone());
        assert_eq!(runnable(&with(data)).node_attestor, expected, "{data}");
    }
    // The official Helm chart writes `advertisedPort`, which spire-agent ignores.
    let all = with(
        "plugin_data { hostname = \"node.example\" agentname = \"b-2\" port = \"80\" advertised_port = 8080 advertisedPort = 1 }",
    );
    let expected = HttpChallenge {
        hostname: Some("node.example".into()),
        agent_name: "b-2".into(),
        port: 80,
        advertised_port: Some(8080),
    };
    assert_eq!(runnable(&all).node_attestor, NodeAttestor::HttpChallenge(expected));
    let warning = &sound(&all).warnings;
    // The official chart writes this one.
    assert!(warning.len() == 1 && warning[0].message.contains("advertisedPort is ignored"), "{warning:?}");
    for (data, expected) in [
        (
            "hostname = true",
            "hostname: write a quoted string instead of true or false without quotes (line 7)",
        ),
        ("agentname = [\"a\"]", "agentname: write a quoted string instead of a list (line 7)"),
        ("port = \"http\"", "port: write a whole number instead of a string that is none (line 7)"),
        ("port = 65536", "port must be from 0 to 65535, not 65536 (line 7)"),
        ("advertised_port = -1", "advertised_port must be from 0 to 65535, not -1 (line 7)"),
        ("agentname = \"a.b\"", "agentname: no server takes \"a.b\"; write a letter, then letters"),
        ("agentname = \"7\"", "agentname: no server takes \"7\""),
        ("agentname = \"a2345678901234567890123456789012-\"", "agentname: no server takes \"a2345"),
    ] {
        let expected = format!("failed to configure plugin \"http_challenge\": {expected}");
        assert_run_problems(&with(&format!("plugin_data {{ {data} }}")), &[&expected]);
    }
}
