//! Where the first trust bundle comes from: what each program says about a source, or several.

use std::path::Path;
use std::process::Command;

use harness::{build_finial, needs, skipped};
use libtest_mimic::{Failed, Trial};

pub(super) fn trial() -> Trial {
    let name = "sources_of_the_bundle_are_refused_in_the_words_of_the_real_agent";
    match needs("SPIRE_AGENT", "spire-agent") {
        Ok(real) => Trial::test(name, move || refuse(&real)),
        Err(reason) => skipped(name, &reason),
    }
}

/// The real agent stops at the first problem.
fn refuse(real: &Path) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("agent.conf");
    for keys in SOURCES {
        let text = format!(
            "agent {{ trust_domain = \"td\" server_address = \"s\" server_port = 1 {keys} }} plugins {{ \
             KeyManager \"memory\" {{}} NodeAttestor \"join_token\" {{}} WorkloadAttestor \"unix\" {{}} }}"
        );
        std::fs::write(&file, text)?;
        let said = |program: &Path| {
            let output = Command::new(program).args(["validate", "-config"]).arg(&file).output();
            let output = output.expect("it runs");
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
        };
        let ((real_takes, real), (ours_takes, ours)) = (said(real), said(&build_finial()));
        assert_eq!(real_takes, ours_takes, "{keys}\n{real}\n{ours}");
        // Go's own reason for a URL that is none is left out.
        let words = real.split(": parse ").next().unwrap_or_default();
        let words = words.trim_start_matches("SPIRE agent configuration file is invalid: ");
        assert!(ours.contains(words), "{keys}\n{real}\n{ours}");
    }
    Ok(())
}

const SOURCES: &[&str] = &[
    "",
    "trust_bundle_path = \"b\"",
    "insecure_bootstrap = true",
    "insecure_bootstrap = true trust_bundle_path = \"b\"",
    "insecure_bootstrap = true trust_bundle_url = \"https://h/\"",
    "insecure_bootstrap = true trust_bundle_url = \"https://h/\" trust_bundle_path = \"b\"",
    "insecure_bootstrap = true rebootstrap_mode = \"auto\"",
    "trust_bundle_path = \"b\" rebootstrap_mode = \"x\"",
    "trust_bundle_path = \"b\" trust_bundle_format = \"x\"",
    "trust_bundle_path = \"b\" trust_bundle_url = \"https://h/\"",
    "trust_bundle_path = \"b\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_url = \"https://h/?spire-x=1\"",
    "trust_bundle_url = \"HTTPS://h/\" rebootstrap_mode = \"always\"",
    "trust_bundle_url = \"http://h/\"",
    "trust_bundle_url = \"h\"",
    "trust_bundle_url = \"https://h/%zz\"",
    "trust_bundle_url = \"http://h/\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_url = \"https://h/\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_url = \"http://h/?spire-x=1\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_url = \"http://h/?spiffe-x\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_url = \"http://h/?spiffe%2dx\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_url = \"http://h/?spiffe-x;\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_url = \"http://h/?Spiffe-x\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_spiffe_workload_api = \"unix:///s\"",
    "trust_bundle_spiffe_workload_api = \"unix:///s\" insecure_bootstrap = true",
    "trust_bundle_spiffe_workload_api = \"unix:///s\" trust_bundle_path = \"b\"",
    "trust_bundle_spiffe_workload_api = \"unix:///s\" trust_bundle_url = \"https://h/\"",
    "trust_bundle_spiffe_workload_api = \"unix:///s\" trust_bundle_unix_socket = \"s\"",
    "trust_bundle_spiffe_workload_api = \"/s\"",
    "trust_bundle_spiffe_workload_api = \"unix:s\"",
    "trust_bundle_spiffe_workload_api = \"unix:/s\"",
    "trust_bundle_spiffe_workload_api = \"unix://\"",
    "trust_bundle_spiffe_workload_api = \"unix://me@/s\"",
    "trust_bundle_spiffe_workload_api = \"unix:///s?a\"",
    "trust_bundle_spiffe_workload_api = \"unix:///s#a\"",
    "trust_bundle_spiffe_workload_api = \"unix://%zz\"",
    "trust_bundle_spiffe_workload_api = \"tcp://127.0.0.1:1\"",
    "trust_bundle_spiffe_workload_api = \"tcp://[::1]:1\"",
    "trust_bundle_spiffe_workload_api = \"tcp:127.0.0.1:1\"",
    "trust_bundle_spiffe_workload_api = \"tcp://h:1\"",
    "trust_bundle_spiffe_workload_api = \"tcp://127.0.0.1\"",
    "trust_bundle_spiffe_workload_api = \"tcp://127.0.0.1:1/a\"",
    "trust_bundle_spiffe_workload_api = \"tcp:///a\"",
    "trust_bundle_spiffe_workload_api = \"tcp://127.0.0.1:1?a\"",
    "trust_bundle_spiffe_workload_api = \"tcp://127.0.0.1:1#a\"",
    "trust_bundle_spiffe_workload_api = \"tcp://me@127.0.0.1:1\"",
    "trust_bundle_path = \"b\" join_token = \"a\" join_token_file = \"b\"",
];
