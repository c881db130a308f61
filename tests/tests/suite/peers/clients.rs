//! Client libraries that fetch SVIDs and watch their changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dev::{Options, Server};
use harness::{Agent, Conf, needs, python, trial};
use libtest_mimic::Trial;
use spiffe::{JwtSource, JwtSvid, WorkloadApiClient, X509Source};
use tokio::process::Command;

use super::super::{register, server, server_with};
use super::programs::{Program, following};
use super::trial_with;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial_with("py_spiffe_fetches_and_watches", python(&["spiffe"]), py_spiffe),
        trial_with("grpcio_default_options_sds_and_workload", python(&["grpc"]), grpcio),
        trial_with("go_spiffe_fetches_and_watches", go("go"), go_spiffe),
        trial_with("go_spiffe_sources_and_watchers_follow_both_authorities", go("go"), go_sources),
        trial_with("grpc_java_default_options_sds_and_workload", maven(), grpc_java),
        trial_with("java_spiffe_uses_all_and_watches", maven(), java_spiffe),
        trial("spiffe_crate_fetches_and_watches", spiffe_crate),
    ]
}

async fn py_spiffe(python: PathBuf) {
    let (_server, agent) = rotating().await;
    let mut client = Command::new(python);
    client.arg(peers("py_spiffe.py")).arg(agent.wait_for_socket().await);
    let printed = output(&mut client).await;
    let (rest, svids): (Vec<_>, Vec<_>) = printed.lines().partition(|line| !line.starts_with("spiffe://"));
    assert_eq!(rest, ["all calls agree"]);
    three_serials(&svids.join("\n"));
}

/// gRPC's C core puts the percent-encoded path of a Unix socket into `:authority`, which HTTP libraries may refuse.
async fn grpcio(python: PathBuf) {
    let server = server().await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let agent = Agent::start(&conf);
    let mut client = Command::new(python);
    client.arg(peers("raw_grpcio.py")).arg(agent.wait_for_socket().await).arg("spiffe://example.org/web");
    let printed = output(&mut client).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines, ["FetchX509SVID has the name", "StreamSecrets has the name and the key"]);
}

async fn go_spiffe(go: PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("watch");
    build(go, "go", ".", &program).await;
    let (_server, agent) = rotating().await;
    three_serials(&output(Command::new(program).arg(agent.wait_for_socket().await)).await);
}

async fn go_sources(go: PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("sources");
    build(go, "go", "./sources", &program).await;
    let (server, agent) = following(Options::default()).await;
    let socket = agent.wait_for_socket().await;
    let mut client = Program::start("sources", Command::new(program).arg(socket));
    client.prints("the default identity is spiffe://example.org/web").await;
    client.prints_all(&[&of_x509(1, 1)[..], &of_jwt(1, 1)].concat()).await;
    client.say("before").await;
    let before = client.prints("valid for before by the key ").await;

    server.rotate_jwt_key();
    client.prints_all(&of_jwt(1, 2)).await;
    client.say("after").await;
    let after = client.prints("valid for after by the key ").await;
    assert_ne!(before.rsplit(' ').next(), after.rsplit(' ').next());

    server.rotate_ca();
    server.taint_old_cas();
    client.prints_all(&of_x509(2, 2)).await;
    server.forget_old_cas();
    server.forget_old_jwt_keys();
    client.prints_all(&[&of_x509(2, 1)[..], &of_jwt(1, 1)].concat()).await;
    client.say("last").await;
    client.prints("valid for last by the key ").await;
}

/// What the Go program prints when all that follow X.509 have this SVID and so many authorities.
fn of_x509(svid: u32, authorities: u32) -> [String; 3] {
    [
        format!("X509Source: SVID {svid}, {authorities} authorities"),
        format!("WatchX509Context: SVID {svid}, {authorities} authorities"),
        format!("WatchX509Bundles: {authorities} authorities"),
    ]
}

/// What the Go program prints when all that follow JWT keys have so many.
fn of_jwt(authorities: u32, keys: u32) -> [String; 3] {
    [
        format!("JWTSource: {keys} keys"),
        format!("WatchJWTBundles: {keys} keys"),
        format!("BundleSource: {authorities} authorities, {keys} keys"),
    ]
}

/// grpc-java puts the plain path of a Unix socket into `:authority`.
async fn grpc_java(maven: PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = server().await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let agent = Agent::start(&conf);
    let socket = agent.wait_for_socket().await;
    let mut client = Command::new(maven);
    client.args(["-q", "-B", "compile", "exec:java"]).current_dir(peers("java"));
    client.arg(format!("-Dpeer.target={}", folder.path().display()));
    client.arg(format!("-Dexec.args={} spiffe://example.org/web", socket.display()));
    let printed = output(&mut client).await;
    for line in [
        "FetchX509SVID has the name",
        "StreamSecrets has the name and the key",
        "StreamSecrets refuses what is too large",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
}

async fn java_spiffe(maven: PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_server, agent) = rotating().await;
    let socket = agent.wait_for_socket().await;
    let mut client = Command::new(maven);
    client.args(["-q", "-B", "compile", "exec:java", "-Dexec.mainClass=Spiffe"]).current_dir(peers("java"));
    client.arg(format!("-Dpeer.target={}", folder.path().display()));
    client.arg(format!("-Dexec.args={} spiffe://example.org/web", socket.display()));
    let printed = output(&mut client).await;
    for line in [
        "X509Source and FetchX509Bundles agree",
        "a JWT-SVID is valid for also",
        "a JWT-SVID is valid for plain",
        "a JWT-SVID is valid for cached",
        "ValidateJWTSVID refuses a forged one",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    let svids: Vec<_> = printed.lines().filter(|line| line.contains("spiffe://")).collect();
    three_serials(&svids.join("\n"));
}

async fn spiffe_crate() {
    let (_server, agent) = rotating().await;
    let endpoint = format!("unix:{}", agent.wait_for_socket().await.display());
    let client = WorkloadApiClient::connect_to(&endpoint).await.expect("connected");
    let svid = client.fetch_x509_svid().await.expect("fetched");
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://example.org/web");
    let token = client.fetch_jwt_svid(["rust"], None).await.expect("fetched");
    let validated = client.validate_jwt_token("rust", token.token()).await.expect("valid");
    assert_eq!(validated.spiffe_id(), svid.spiffe_id());
    assert!(client.validate_jwt_token("another", token.token()).await.is_err());
    let bundles = client.fetch_jwt_bundles().await.expect("fetched");
    JwtSvid::parse_and_validate(token.token(), &bundles, &["rust"]).expect("valid without the agent too");
    let own = svid.spiffe_id().trust_domain();
    let fetched = client.fetch_x509_bundles().await.expect("fetched").get(own).expect("the own one");
    let context = client.fetch_x509_context().await.expect("fetched");
    assert_eq!(context.bundle_set().get(own), Some(fetched));
    jwt_source(&endpoint).await;
    let source = X509Source::builder().endpoint(&endpoint).build().await.expect("synchronised");
    let mut updates = source.updated();
    let mut seen = BTreeSet::new();
    loop {
        let svid = source.svid().expect("there is one");
        assert!(!source.bundle_set().expect("there is one").is_empty());
        seen.insert(svid.leaf().as_bytes().to_owned());
        if seen.len() == 3 {
            break;
        }
        updates.changed().await.expect("the source lives");
    }
    source.shutdown().await;
}

/// Fetches and validates a token by what a source follows.
async fn jwt_source(endpoint: &str) {
    let source = JwtSource::builder().endpoint(endpoint).build().await.expect("synchronised");
    let token = source.fetch_jwt_svid(["source"]).await.expect("fetched");
    let bundles = source.bundle_set().expect("there is one");
    JwtSvid::parse_and_validate(token.token(), &*bundles, &["source"]).expect("valid");
    source.shutdown().await;
}

/// A server whose SVIDs are replaced every few seconds (they are valid from ten seconds before their signing), and an
/// agent for `spiffe://example.org/web`.
async fn rotating() -> (Server, Agent) {
    let server = server_with(Options { svid_ttl: Duration::from_secs(16), ..Options::default() }).await;
    let conf = Conf::join_token(&server);
    register(&server, conf.join_token.as_deref().unwrap_or_default(), "web");
    let agent = Agent::start(&conf);
    (server, agent)
}

/// Checks the output of a client. It prints a line with SPIFFE ID and serial number for each SVID, first for the
/// fetched ones.
fn three_serials(printed: &str) {
    let pairs: Vec<_> = printed.lines().filter_map(|line| line.split_once(' ')).collect();
    assert!(pairs.iter().all(|(id, _)| *id == "spiffe://example.org/web"), "{printed}");
    let serials: BTreeSet<_> = pairs.iter().map(|(_, serial)| *serial).collect();
    assert!(serials.len() >= 3, "{printed}");
}

/// The path of a Go that has the modules of `tests/peers/FOLDER`, or the reason for skipping the test.
pub(super) fn go(folder: &str) -> Result<PathBuf, String> {
    let go = needs("GO", "go")?;
    let mut download = std::process::Command::new(&go);
    download.args(["mod", "download"]).current_dir(peers(folder)).env("GOTOOLCHAIN", "local");
    let output = download.output().map_err(|reason| reason.to_string())?;
    if output.status.success() {
        Ok(go)
    } else {
        Err(format!("go cannot get the modules of tests/peers/{folder}"))
    }
}

/// Builds a package's program with the module versions of `tests/peers/FOLDER`.
pub(super) async fn build(go: PathBuf, folder: &str, package: &str, program: &Path) {
    let mut build = Command::new(go);
    build.args(["build", "-buildvcs=false", "-o"]).arg(program).arg(package).current_dir(peers(folder));
    output(build.env("GOTOOLCHAIN", "local")).await;
}

/// The path of a Maven that has grpc-java and java-spiffe, or the reason for skipping the test.
fn maven() -> Result<PathBuf, String> {
    let maven = needs("MAVEN", "mvn")?;
    // Checked first, because Maven takes seconds to find that nothing is to be done.
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    if home.join(".m2/repository/io/spiffe/grpc-netty-linux").is_dir() {
        return Ok(maven);
    }
    let mut get = std::process::Command::new(&maven);
    get.args(["-q", "-B", "compile", "exec:help"]).current_dir(peers("java"));
    let output = get.output().map_err(|reason| reason.to_string())?;
    if output.status.success() { Ok(maven) } else { Err("Maven cannot get grpc-java and java-spiffe".into()) }
}

/// The path of a program in `tests/peers`.
pub(super) fn peers(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// Runs a command, which must succeed, and returns its output.
async fn output(command: &mut Command) -> String {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{printed}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

const PATIENCE: Duration = Duration::from_secs(200);
