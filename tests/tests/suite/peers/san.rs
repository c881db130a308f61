//! The SAN checker against a real Envoy. Every peer is checked by every policy, and both must agree.
//!
//! * `peers`: certificates, and the client that presents them. `policies`: validation contexts, one listener for each.

mod peers;
mod policies;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use harness::{Envoy, build_finial, envoy_program, trial};
use libtest_mimic::Trial;
use san::{Peer, Policy, read};
use serde_json::{Value, json};

use super::trial_with;
use peers::Peers;
use policies::{Column, Roots};

pub(super) fn trials() -> Vec<Trial> {
    let envoy = envoy_program();
    vec![
        trial_with("san_checker_says_what_envoy_says", envoy.clone(), verdicts),
        trial_with("san_checker_refuses_what_envoy_refuses_to_load", envoy, refused),
        trial("san_check_command", command),
    ]
}

async fn verdicts(program: PathBuf) {
    let folder = tempfile::tempdir().expect("made");
    let peers = Peers::new();
    let columns = policies::columns(&peers);
    let configuration = bootstrap(&peers, &columns);
    let envoy = Envoy::start_with(&program, folder.path(), "san", &configuration).await;
    let ports = envoy.ports().await;
    let mut differences = Vec::new();
    let (mut asked, mut accepted) = (0, 0);
    for column in &columns {
        let policy = column.policy();
        let asking = peers.names().map(async |name| (name, peers.ask(name, ports[column.name]).await));
        for (name, theirs) in futures_util::future::join_all(asking).await {
            let judged = policy.check(peers.chain(name), SystemTime::now(), Peer::Client);
            let ours = judged.unwrap_or_else(|reason| panic!("{name} at {}: {reason}", column.name)).refusal;
            asked += 1;
            accepted += usize::from(theirs);
            if theirs != ours.is_none() {
                differences.push(format!("{name} at {}: Envoy {theirs}, the checker {ours:?}", column.name));
            }
            let measured = policies::TABLE
                .iter()
                .find(|row| row.0 == name)
                .zip(policies::TABLE_COLUMNS.iter().position(|other| *other == column.name));
            if let Some((row, place)) = measured
                && theirs != (row.1.as_bytes()[place] == b'+')
            {
                differences
                    .push(format!("{name} at {}: Envoy {theirs}, not as it was measured", column.name));
            }
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
    eprintln!("{asked} handshakes at {} policies: {accepted} accepted", columns.len());
    assert!(accepted > asked / 5 && accepted < asked * 4 / 5);
}

/// A policy that the checker refuses also keeps Envoy from starting, for the same reason.
async fn refused(program: PathBuf) {
    let folder = tempfile::tempdir().expect("made");
    let peers = Peers::new();
    let good = [Column::plain("good", Roots::Ca.of(&peers))];
    assert!(loads(&program, folder.path(), &bootstrap(&peers, &good)));
    for (name, context) in policies::refused(&peers) {
        let reading = read::policy(&context, &|_| Err(std::io::ErrorKind::NotFound.into()));
        let compiled = reading.map(|reading| Policy::compile(&reading.context));
        assert!(!matches!(compiled, Ok(Ok(_))), "{name}");
        let columns = [Column::plain(name, context)];
        assert!(!loads(&program, folder.path(), &bootstrap(&peers, &columns)), "{name}");
    }
}

fn loads(program: &Path, folder: &Path, configuration: &Value) -> bool {
    let file = folder.join("validate.json");
    std::fs::write(&file, configuration.to_string()).expect("written");
    let mut envoy = Command::new(program);
    envoy.args(["--mode", "validate", "-l", "off", "-c"]).arg(&file);
    envoy.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("Envoy runs").success()
}

/// The command: its input files, output and exit code.
async fn command() {
    let folder = tempfile::tempdir().expect("made");
    let peers = Peers::new();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let certificate = write("b.pem", &peers.pem("b"));
    let roots = write("roots.pem", &peers.pem("root"));
    let policy = write("policy.yaml", POLICY);
    let sds = write(
        "sds.yaml",
        &format!(
            "name: spiffe://example.org\nvalidation_context:\n  trusted_ca: {{ filename: {roots:?} }}\n"
        ),
    );
    let spiffe = json!({ "name": "spiffe://example.org", "validation_context": Roots::Spiffe.of(&peers) });
    let spiffe = write("spiffe.json", &spiffe.to_string());
    let bad = write("bad.yaml", "trusted_ca: [");
    let run = |flags: &[&str]| {
        let output = Command::new(build_finial()).args(["san", "check"]).args(flags).output().expect("runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let (cert, policy) = (format!("--cert={certificate}"), format!("--policy={policy}"));
    let (code, text) = run(&[&cert, &policy, "--sds", &sds]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("reject: no matcher matches a name of the certificate (Envoy's counter: ssl.fail_verify_san)\n  DNS exact \"b.local\": matches no name\n"), "{text}");
    let (code, text) = run(&[&cert, &policy, "--sds", &spiffe]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("accept\n  DNS exact \"b.local\": ignored by the SPIFFE validator\nwarning: the SPIFFE validator ignores all SAN matchers"), "{text}");
    let (code, text) = run(&[&cert, &policy, "--sds", &spiffe, "--at", "2001-01-01T00:00:00Z"]);
    assert!(
        code == Some(1) && text.starts_with("reject: a certificate of the chain is not valid before"),
        "{text}"
    );
    for (flags, part) in [
        (
            vec![&*cert, &policy],
            "the secret \"spiffe://example.org\", by SDS: give what is delivered for it with -sds",
        ),
        (vec![&*cert], "-policy is needed"),
        (vec![&*policy], "-cert is needed"),
        (vec!["--nope"], "flag provided but not defined: -nope"),
        (vec![&*cert, "--policy", &bad], "bad.yaml: "),
        (vec![&*cert, "--policy", &certificate], "b.pem: "),
        (vec!["--cert", &bad, &policy, "--sds", &sds], "bad.yaml: the certificate cannot be read"),
        (vec![&*cert, &policy, "--at", "now"], "-at \"now\" is not a time"),
        (vec!["--cert", "/nowhere", &policy, "--sds", &sds], "cannot read \"/nowhere\""),
    ] {
        let (code, text) = run(&flags);
        assert!(code == Some(2) && text.contains(part), "{code:?} {text}");
    }
}

/// The bootstrap of an Envoy with one listener per policy. A listener answers the peers that it accepts.
fn bootstrap(peers: &Peers, columns: &[Column]) -> Value {
    let certificate = json!({
        "certificate_chain": { "inline_string": peers.pem("server") },
        "private_key": { "inline_string": peers.key("server") },
    });
    let listener = |column: &Column| {
        let mut tls = column.tls.clone();
        tls["tls_certificates"] = json!([certificate]);
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            } }],
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{
                "match": { "prefix": "/" },
                "direct_response": { "status": 200 },
            }] }] },
        });
        json!({
            "name": column.name,
            "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
            "filter_chains": [{
                "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
                "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": true,
                    "common_tls_context": tls,
                } },
            }],
        })
    };
    let secrets: Vec<_> = columns.iter().filter_map(|column| column.secret.clone()).collect();
    json!({
        "node": { "id": "san", "cluster": "test" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
        "static_resources": { "listeners": columns.iter().map(listener).collect::<Vec<_>>(), "secrets": secrets },
    })
}

const POLICY: &str = "
common_tls_context:
  combined_validation_context:
    default_validation_context:
      match_typed_subject_alt_names:
      - san_type: DNS
        matcher: { exact: b.local }
    validation_context_sds_secret_config: { name: 'spiffe://example.org', sds_config: { ads: {} } }
";
