//! What is on the node itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dev::Server;
use harness::{Agent, Conf, build_finial, trial, trial_as_root};
use libtest_mimic::Trial;
use serde_json::json;
use tokio::net::TcpListener;

use super::Found;
use crate::suite::{server, server_with};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("check_finds_nothing_on_a_good_node_and_leaves_it_as_it_was", good_node),
        trial("check_names_a_bad_configuration_and_bad_flags", bad_configuration),
        trial("check_names_plugins_and_keys_of_the_configuration", plugins_and_keys),
        trial("check_names_a_socket_folder_that_is_a_file", folder_is_a_file),
        trial("check_names_what_is_in_the_socket_s_place", in_the_way),
        trial("check_names_an_agent_that_is_running", running),
        trial_as_root("check_names_a_mount_of_the_socket_itself", mounted),
        trial("check_names_a_data_dir_that_is_read_only", read_only),
        trial("check_names_few_open_files", few_files),
        trial("check_names_a_token_that_cannot_be_read", unreadable_token),
        trial("check_names_a_token_that_is_expired_or_for_others", wrong_token),
        trial("check_names_a_join_token_that_is_missing_or_spent", join_tokens),
        trial("check_names_keys_of_another_certificate", x509pop),
        trial("check_names_a_port_that_is_taken", http_challenge),
        trial("check_names_corrupt_files_and_keeps_them", corrupt_files),
    ]
}

/// A token of a service account, as the API server makes it. Nobody has signed it.
fn psat(audience: &str, lives: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or_default();
    let claims =
        json!({"aud": [audience], "iat": now - 60, "exp": now + lives, "sub": "system:serviceaccount:a:b"});
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part("{\"alg\":\"RS256\"}".into()), part(claims.to_string()), part("secret".into()))
}

fn with_token(server: &Server, token: Option<String>) -> Conf {
    Conf { psat: Some(("cluster".into(), token)), ..Conf::psat(server) }
}

/// The files of a folder, with their content.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .expect("readable")
        .map(|entry| {
            let path = entry.expect("readable").path();
            (path.display().to_string(), fs::read(&path).unwrap_or_default())
        })
        .collect();
    found.sort();
    found
}

async fn good_node() {
    let server = server().await;
    let conf = Conf { disk_keys: true, ..Conf::join_token(&server) };
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
    fs::create_dir(folder.path().join("keys")).expect("made");
    let found = Found::within(&conf, &folder).await;
    found.passes();
    let names: Vec<_> =
        found.report["checks"].as_array().expect("lines").iter().map(|line| &line["name"]).collect();
    let expected = [
        "configuration",
        "socket",
        "socket-mount",
        "host-pid",
        "data-dir",
        "key-store",
        "stored-svid",
        "node-attestor",
        "trust-bundle",
        "server-dns",
        "server-connect",
        "server-tls",
        "clock",
        "memory",
        "open-files",
    ];
    assert_eq!(names, expected);
    found.says("server-tls", "ok", "identity of this trust domain's server", "");
    found.says("clock", "ok", "within the times of the server's certificate", "");
    let left: Vec<_> = files(folder.path()).into_iter().map(|(name, _)| name).collect();
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(left, [path("agent.conf"), path("bundle"), path("keys")]);
    assert_eq!(files(&folder.path().join("keys")), []);
    assert_eq!(server.counters().attested, 0);
    // The token is not spent.
    let mut agent = Agent::start_in(&conf, Arc::clone(&folder));
    agent.logged("Agent is ready").await;
    assert_eq!(agent.stop().await.code, Some(0));
    let conf = Conf { join_token: None, ..conf };
    let found = Found::within(&conf, &folder).await;
    found.passes().says("stored-svid", "ok", "the agent goes on with it", "");
    found.says("node-attestor", "ok", "none is needed", "");
    // For people, the same.
    let output = conf.command(&build_finial(), "check", folder.path()).output().await.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("ok       server-tls") && output.status.success(), "{text}");
}

async fn bad_configuration() {
    let server = server().await;
    let conf = Conf { agent: "log_level = \"loud\"\n nonsense = 1".into(), ..Conf::join_token(&server) };
    let found = Found::of(&conf).await;
    found.says("configuration", "failure", "loud", "validate").says(
        "configuration",
        "failure",
        "nonsense",
        "",
    );
    assert_eq!(found.code, Some(2));
    let folder = tempfile::tempdir().expect("a temporary folder");
    for flags in [&["-config", "/nope/agent.conf"][..], &["-timeout", "-1s"]] {
        let found = Found::with(&Conf::join_token(&server), folder.path(), flags).await;
        assert_eq!((found.code, found.failures()), (Some(2), vec!["configuration"]), "{found:?}");
    }
    let found = Found::with(&Conf::join_token(&server), folder.path(), &["-nope"]).await;
    assert!(found.code == Some(2) && found.text.contains("Usage of check:"), "{found:?}");
}

async fn plugins_and_keys() {
    let server = server().await;
    let attestor = "NodeAttestor \"k8s_psat\" { plugin_data {} }".to_owned();
    let conf = Conf { node_attestor: Some(attestor), ..Conf::join_token(&server) };
    Found::of(&conf).await.says(
        "configuration",
        "failure",
        "missing required cluster",
        "Change the configuration",
    );
    let conf = Conf { agent: "profiling_enabled = true".into(), ..Conf::join_token(&server) };
    Found::of(&conf).await.passes().says(
        "configuration",
        "warning",
        "profiling_enabled",
        "Change the configuration",
    );
}

async fn folder_is_a_file() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("run"), "precious").expect("written");
    let agent = format!("socket_path = \"{}/run/api.sock\"", folder.path().display());
    let conf = Conf { agent, ..Conf::join_token(&server) };
    let found = Found::within(&conf, &folder).await;
    found.only_fails("socket", "run is not a folder", "choose another socket_path");
}

async fn in_the_way() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(folder.path().join("api.sock/full")).expect("made");
    let private = tempfile::tempdir().expect("a temporary folder");
    let admin = private.path().join("admin.sock");
    fs::write(&admin, "precious").expect("written");
    let agent = format!("admin_socket_path = \"{}\"", admin.display());
    let found = Found::within(&Conf { agent, ..Conf::join_token(&server) }, &folder).await;
    found.says("socket", "failure", "a folder that is not empty", "Move it away");
    found.says("admin-socket", "failure", "a regular file", "admin_socket_path");
    assert!(admin.exists() && folder.path().join("api.sock/full").exists());
}

/// As a pod has it whose volume is the socket and not its folder.
async fn mounted() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("api.sock");
    fs::write(&socket, "").expect("written");
    let mount = format!("mount --bind '{0}' '{0}'", socket.display());
    let found =
        Found::within(&Conf { shell: Some(mounting(&mount)), ..Conf::join_token(&server) }, &folder).await;
    found.says("socket-mount", "failure", "api.sock is a mount of its own", "Mount the folder of the socket");
    assert_eq!(found.failures(), ["socket", "socket-mount"], "{found:#?}");
}

/// A script that runs the program with these mounts, which nobody else sees. The program and its arguments are those of
/// the outer shell.
fn mounting(mounts: &str) -> String {
    format!("exec unshare --mount sh -c \"{mounts} && exec \\\"\\$0\\\" \\\"\\$@\\\"\" \"$0\" \"$@\"")
}

async fn running() {
    let server = server().await;
    let agent = Agent::start(&Conf::join_token(&server));
    agent.wait_for_socket().await;
    let found = Found::within(&Conf::join_token(&server), &agent.folder()).await;
    found.only_fails("socket", "an agent is already running", "Stop it first");
    // It was only looked at.
    assert!(agent.socket().exists());
    agent.stop().await;
    let found = Found::within(&Conf::join_token(&server), &tempfile::tempdir().expect("a folder")).await;
    found.passes();
}

/// As root by a mount, because root may write to any folder.
async fn read_only() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, keys) = (folder.path().join("data"), folder.path().join("keys"));
    for made in [&data, &keys] {
        fs::create_dir(made).expect("made");
        fs::set_permissions(made, fs::Permissions::from_mode(0o555)).expect("set");
    }
    let mount = format!(
        "mount -t tmpfs -o ro none '{}' && mount -t tmpfs -o ro none '{}'",
        data.display(),
        keys.display()
    );
    let shell = nix::unistd::geteuid().is_root().then(|| mounting(&mount));
    let found = Found::within(&Conf { shell, disk_keys: true, ..Conf::join_token(&server) }, &folder).await;
    found.says("data-dir", "failure", "cannot be written", "Mount it writable");
    found.says("key-store", "failure", "cannot be written", "Mount it writable");
    assert_eq!(found.failures(), ["data-dir", "key-store"], "{found:#?}");
}

async fn few_files() {
    let server = server().await;
    let conf = Conf { shell: Some("ulimit -n 64; exec \"$0\" \"$@\"".into()), ..Conf::join_token(&server) };
    Found::of(&conf).await.only_fails("open-files", "64 files may be open", "LimitNOFILE");
}

async fn unreadable_token() {
    let server = server().await;
    let found = Found::of(&with_token(&server, None)).await;
    found.only_fails("node-attestor", "unable to load token", "readable file");
    let found = Found::of(&with_token(&server, Some("not a token".into()))).await;
    found.only_fails("node-attestor", "no JSON Web Token", "audience: spire-server");
}

async fn wrong_token() {
    let server = server().await;
    let found = Found::of(&with_token(&server, Some(psat("spire-server", 3600)))).await;
    found.passes().says("node-attestor", "ok", "audience spire-server and 59 minutes of 61 minutes left", "");
    let expired = psat("spire-server", -120);
    let found = Found::of(&with_token(&server, Some(expired.clone()))).await;
    found.only_fails("node-attestor", "expired 2 minutes ago", "renews the projected volume");
    for part in expired.split('.') {
        assert!(!found.text.contains(part), "a part of the token is shown");
    }
    let other = psat("https://kubernetes.default.svc", 3600);
    let found = Found::of(&with_token(&server, Some(other))).await;
    found.passes().says("node-attestor", "warning", "kubernetes.default.svc", "audience: spire-server");
}

async fn join_tokens() {
    let server = server().await;
    let conf = Conf { join_token: None, ..Conf::join_token(&server) };
    Found::of(&conf).await.only_fails("node-attestor", "no token is given", "spire-server token generate");
    // The node has used its token, and its keys are lost with the agent.
    let conf = Conf::join_token(&server);
    let mut agent = Agent::start(&conf);
    agent.logged("Agent is ready").await;
    let folder = agent.folder();
    assert_eq!(agent.stop().await.code, Some(0));
    let found = Found::within(&conf, &folder).await;
    found.passes().says("node-attestor", "warning", "it is spent", "spire-server token generate");
    let token = conf.join_token.clone().unwrap_or_default();
    assert!(!found.text.contains(&token), "the token is shown");
}

async fn x509pop() {
    let server = server().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (key, other) =
        (rcgen::KeyPair::generate().expect("a key"), rcgen::KeyPair::generate().expect("a key"));
    let mut params = rcgen::CertificateParams::default();
    params.not_after = (SystemTime::now() - Duration::from_hours(3)).into();
    let certificate = params.self_signed(&key).expect("signed").pem();
    fs::write(folder.path().join("certificate"), certificate).expect("written");
    let path = folder.path().display();
    let attestor = format!(
        "NodeAttestor \"x509pop\" {{ plugin_data {{ private_key_path = \"{path}/key\" certificate_path = \
         \"{path}/certificate\" }} }}"
    );
    let conf = Conf { node_attestor: Some(attestor), join_token: None, ..Conf::join_token(&server) };
    let found = Found::within(&conf, &folder).await;
    found.only_fails("node-attestor", "No such file", "readable file");
    fs::write(folder.path().join("key"), other.serialize_pem()).expect("written");
    let found = Found::within(&conf, &folder).await;
    found.only_fails("node-attestor", "private key does not match public key", "its own key");
    fs::write(folder.path().join("key"), key.serialize_pem()).expect("written");
    let found = Found::within(&conf, &folder).await;
    found.only_fails("node-attestor", "expired 3 hours ago", "Replace the certificate");
}

async fn http_challenge() {
    let server = server().await;
    let taken = TcpListener::bind(("0.0.0.0", 0)).await.expect("a port is free");
    let port = taken.local_addr().expect("bound").port();
    let attestor = format!("NodeAttestor \"http_challenge\" {{ plugin_data {{ port = {port} }} }}");
    let conf = Conf { node_attestor: Some(attestor), join_token: None, ..Conf::join_token(&server) };
    Found::of(&conf).await.only_fails(
        "node-attestor",
        "could not listen on port",
        "Stop what listens on the port",
    );
    drop(taken);
    Found::of(&conf).await.passes().says("node-attestor", "ok", "its port is free", "");
}

async fn corrupt_files() {
    let server = server_with(dev::Options::default()).await;
    let conf = Conf { disk_keys: true, ..Conf::join_token(&server) };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [("data/agent-data.json", "{\"svid\":["), ("keys/keys.json", "{\"keys\":")] {
        let path = folder.path().join(name);
        fs::create_dir(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    let found = Found::within(&conf, &folder).await;
    found.says("stored-svid", "warning", "agent-data.json is corrupt", "keeps the file aside");
    found.only_fails("key-store", "keys.json is not a key file", "Move keys.json away");
    assert_eq!(files(&folder.path().join("data")).len(), 1);
    assert_eq!(fs::read_to_string(folder.path().join("data/agent-data.json")).expect("kept"), "{\"svid\":[");
}
