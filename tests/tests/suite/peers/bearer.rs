//! Envoys that get the workload's JWT-SVID by SDS and send it with each request (`docs/bearer-tokens.yaml`), to an API
//! that validates it by the bundles of the same agent. The API is written with go-spiffe.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dev::{Entry, Options};
use harness::{Agent, Conf, Envoy, build_finial, envoy_program, needs};
use libtest_mimic::Trial;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::MissedTickBehavior;

use super::super::server_with;
use super::mesh::{BY_PATH, Mesh};
use super::spire_server::SpireServer;
use super::{clients, trial_with};

pub(super) fn trials() -> Vec<Trial> {
    let dev = || Ok((envoy_program()?, clients::go("go")?));
    let real = || Ok((envoy_program()?, clients::go("go")?, needs("SPIRE_SERVER", "spire-server")?));
    vec![
        trial_with("envoys_send_the_token_that_they_get_by_sds", dev(), injected),
        trial_with("real_server_signs_tokens_that_envoys_send", real(), injected_of_real),
    ]
}

async fn injected((envoy, go): (PathBuf, PathBuf)) {
    let options = Options { jwt_svid_ttl: Duration::from_secs(8), ..Options::default() };
    let server = server_with(options).await;
    // A new key must be in the bundle of the API before a token is signed by it.
    let agent = "experimental { sync_interval = \"200ms\" }".into();
    let workload_attestors = harness::unix_attestor(BY_PATH);
    let conf = Conf { workload_attestors, agent, ..Conf::join_token(&server) };
    let parent = server.join_token_agent_id(conf.join_token.as_deref().unwrap_or_default());
    let agent = Agent::start(&conf);
    agent.wait_for_socket().await;
    let selector = format!("unix:path:{}", Api::program(&agent).display());
    server.create_entry(Entry::new("spiffe://example.org/api", &*parent, [&*selector]));
    let (api, mesh) = (Api::start(go, &agent).await, Mesh::new(&envoy, &agent));
    for name in NAMES {
        server.create_entry(Entry::new(ID, &*parent, [&*mesh.selector(name)]));
    }
    let envoys = api.envoys(&mesh, &agent).await;
    envoys.send(6).await;
    // The next ones are signed by another key.
    server.rotate_jwt_key();
    server.taint_old_jwt_keys();
    envoys.send(3).await;
}

async fn injected_of_real((envoy, go, server): (PathBuf, PathBuf, PathBuf)) {
    let server = SpireServer::start_with(&server, "").await;
    let (conf, parent) = server.agent(BY_PATH).await;
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let agent = Agent::start_program(&build_finial(), &conf, folder);
    agent.wait_for_socket().await;
    server.register("api", &parent, &format!("unix:path:{}", Api::program(&agent).display())).await;
    let (api, mesh) = (Api::start(go, &agent).await, Mesh::new(&envoy, &agent));
    for name in NAMES {
        server
            .ask(
                &["entry", "create", "-parentID", &parent, "-spiffeID", ID, "-jwtSVIDTTL", "40", "-selector"]
                    .into_iter()
                    .chain([&*mesh.selector(name)])
                    .collect::<Vec<_>>(),
            )
            .await;
    }
    api.envoys(&mesh, &agent).await.send(6).await;
}

/// The API, and what it says.
struct Api {
    _child: Child,
    port: u16,
}

impl Api {
    /// Where the program of the API is, by which the agent knows it.
    fn program(agent: &Agent) -> PathBuf {
        agent.folder().path().canonicalize().expect("it exists").join("api")
    }

    async fn start(go: PathBuf, agent: &Agent) -> Self {
        let program = Self::program(agent);
        clients::build(go, "go", "./bearer", &program).await;
        let mut api = Command::new(&program);
        api.arg(agent.socket()).arg(AUDIENCE).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = api.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let port = lines.next_line().await.expect("read").expect("a line").parse().expect("a port");
        Self { _child: child, port }
    }

    /// Starts an Envoy by state of the world and one by differences.
    async fn envoys(&self, mesh: &Mesh, agent: &Agent) -> Envoys {
        let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bearer-tokens.yaml");
        let documented = std::fs::read_to_string(documented).expect("the documentation is there");
        let mut envoys = Vec::new();
        for (name, kind) in NAMES.into_iter().zip(["GRPC", "DELTA_GRPC"]) {
            let changes = [
                ("port_value: 9901", "port_value: 0".to_owned()),
                ("port_value: 8000", "port_value: 0".to_owned()),
                ("port_value: 8080", format!("port_value: {}", self.port)),
                ("/run/spire/sockets/agent.sock", agent.socket().display().to_string()),
                ("api_type: GRPC", format!("api_type: {kind}")),
            ];
            let configuration = changes.into_iter().fold(documented.clone(), |text, (from, to)| {
                assert_eq!(text.matches(from).count(), 1, "{from}");
                text.replace(from, &to)
            });
            let envoy = mesh.start_yaml(name, &configuration).await;
            let port = envoy.port().await;
            envoys.push((envoy, port));
        }
        Envoys(envoys)
    }
}

/// Envoys that send tokens to the API, and the ports of their listeners.
struct Envoys(Vec<(Envoy, u16)>);

impl Envoys {
    /// Sends requests through each until it has sent this many tokens. The API takes all of them.
    async fn send(&self, count: usize) {
        let (mut pace, mut requests) = (tokio::time::interval(Duration::from_millis(40)), 0);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sent = vec![BTreeSet::new(); self.0.len()];
        while sent.iter().any(|tokens| tokens.len() < count) {
            pace.tick().await;
            for ((envoy, port), tokens) in self.0.iter().zip(&mut sent) {
                let (status, said) = Envoy::get(*port).await.expect("an answer");
                assert_eq!(status, 200, "{said}\n{}", envoy.log());
                assert!(said.starts_with(&format!("{ID} until ")), "{said}");
                tokens.insert(said);
                requests += 1;
            }
        }
        eprintln!(
            "{requests} requests, none refused; tokens of each Envoy: {:?}",
            sent.iter().map(BTreeSet::len).collect::<Vec<_>>()
        );
        for (envoy, _) in &self.0 {
            assert!(!envoy.log().contains("rejected"), "{}", envoy.log());
        }
    }
}

const NAMES: [&str; 2] = ["web", "web-by-delta"];
const ID: &str = "spiffe://example.org/web";
const AUDIENCE: &str = "https://api.example.org";
