//! Agents side by side on the entries of one server: finial, and the real agent if the real server is there.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dev::{Entry, Server};
use harness::{Agent, Conf, build_finial, needs, unix_attestor};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;

use super::super::server;
use super::mesh::BY_PATH;
use super::spire_server::{SpireServer, free_port};

/// The agents, and the server that has their entries.
pub(super) struct Agents {
    server: Registrar,
    pub(super) all: Vec<Running>,
    /// The folder of the admin sockets.
    _folder: TempDir,
}

/// One of the agents.
pub(super) struct Running {
    pub(super) whose: &'static str,
    pub(super) agent: Agent,
    pub(super) admin_socket: PathBuf,
    /// The port of its metrics.
    pub(super) metrics: u16,
    /// Where it sends metrics as statsd and as DogStatsD.
    pub(super) statsd: [UdpSocket; 2],
}

enum Registrar {
    Development(Server),
    Real(Box<SpireServer>),
}

/// How agents attest workloads, and what else a test configures.
pub(super) struct Attestors {
    blocks: String,
    /// More lines of `telemetry { Prometheus { } }`.
    pub(super) prometheus: String,
    /// More lines of `agent { experimental { } }`.
    pub(super) experimental: &'static str,
    /// Variables of the agents' environment.
    pub(super) environment: Vec<(&'static str, PathBuf)>,
    /// A script that wraps the agents' programs, as in [`Conf::shell`].
    pub(super) shell: Option<String>,
}

impl Attestors {
    /// Attestation by these blocks.
    pub(super) fn of(blocks: String) -> Self {
        Self { blocks, prometheus: String::new(), experimental: "", environment: Vec::new(), shell: None }
    }

    pub(super) fn usual() -> Self {
        Self::of(unix_attestor(BY_PATH))
    }
}

/// The programs of the real server and of the real agent.
///
/// # Errors
/// The reason why one of them is missing.
pub(super) fn real_programs() -> Result<(PathBuf, PathBuf), String> {
    Ok((needs("SPIRE_SERVER", "spire-server")?, needs("SPIRE_AGENT", "spire-agent")?))
}

/// An entry for every agent. `name` is its ID and the path of its SPIFFE ID.
pub(super) fn entry<'a>(name: &str, selectors: impl IntoIterator<Item = &'a str>) -> Entry {
    let entry = Entry::new(format!("spiffe://example.org/{name}"), ALIAS, selectors);
    Entry { id: name.to_owned(), ..entry }
}

impl Agents {
    /// Starts only finial, with the development server.
    pub(super) async fn finial() -> Self {
        Self::finial_by(&Attestors::usual()).await
    }

    /// As [`Self::finial`], with other attestors.
    pub(super) async fn finial_by(attestors: &Attestors) -> Self {
        let server = server().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let conf =
            Conf { join_token: Some(server.create_join_token_for(ALIAS)), ..Conf::join_token(&server) };
        let finial = Running::finial(conf, folder.path(), attestors).await;
        Self { server: Registrar::Development(server), all: vec![finial], _folder: folder }
    }

    /// Starts finial and the real agent, with the real server.
    pub(super) async fn both(programs: (PathBuf, PathBuf)) -> Self {
        Self::both_by(programs, &Attestors::usual()).await
    }

    /// As [`Self::both`], with other attestors.
    pub(super) async fn both_by((server, real): (PathBuf, PathBuf), attestors: &Attestors) -> Self {
        let server = SpireServer::start(&server).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (conf, _) = server.agent_of("", ALIAS).await;
        let finial = Running::finial(conf, folder.path(), attestors).await;
        let (conf, _) = server.agent_of("", ALIAS).await;
        let real = Running::start("spire-agent", &real, conf, folder.path(), attestors);
        let mut agents =
            Self { server: Registrar::Real(Box::new(server)), all: vec![finial, real], _folder: folder };
        for line in ["Starting Admin APIs", "Starting agent APIs"] {
            agents.logged(line).await;
        }
        agents
    }

    /// Registers the entries, and waits until each agent has them.
    pub(super) async fn create(&mut self, entries: &[Entry]) {
        for entry in entries {
            match &self.server {
                Registrar::Development(server) => drop(server.create_entry(entry.clone())),
                Registrar::Real(server) => server.create(entry).await,
            }
        }
        for entry in entries {
            self.logged(&format!("msg=\"Entry created\" entry={} ", entry.id)).await;
        }
    }

    /// Deletes an entry, and waits until no agent has it.
    pub(super) async fn delete(&mut self, id: &str) {
        match &self.server {
            Registrar::Development(server) => assert!(server.delete_entry(id)),
            Registrar::Real(server) => server.delete(id).await,
        }
        self.logged(&format!("msg=\"Entry removed\" entry={id} ")).await;
    }

    /// Sets the server's bundle of another trust domain to one new authority.
    pub(super) async fn federate(&self, trust_domain: &str) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = KeyPair::generate().and_then(|key| params.self_signed(&key)).expect("signed").pem();
        match &self.server {
            Registrar::Development(server) => server.set_federated_bundle_pem(trust_domain, &authority),
            Registrar::Real(server) => server.set_bundle(trust_domain, &authority).await,
        }
    }

    /// Waits for a line in every agent's log.
    pub(super) async fn logged(&mut self, text: &str) {
        for running in &mut self.all {
            running.agent.logged(text).await;
        }
    }
}

impl Running {
    async fn finial(conf: Conf, folder: &Path, attestors: &Attestors) -> Self {
        let mut finial = Self::start("finial", &build_finial(), conf, folder, attestors);
        // The agent's sockets exist before it is attested.
        finial.agent.logged("Agent is ready").await;
        finial
    }

    fn start(whose: &'static str, program: &Path, conf: Conf, folder: &Path, attestors: &Attestors) -> Self {
        let metrics = free_port();
        let statsd = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("bound"));
        let [plain, dog] = statsd.each_ref().map(|socket| socket.local_addr().expect("an address"));
        statsd.iter().for_each(|socket| socket.set_nonblocking(true).expect("set"));
        let admin_socket = folder.join(format!("{whose}.sock"));
        let conf = Conf {
            agent: format!(
                "admin_socket_path = \"{}\" authorized_delegates = [\"spiffe://example.org/delegate\"]
                 experimental {{ sync_interval = \"500ms\" {} }}",
                admin_socket.display(),
                attestors.experimental
            ),
            blocks: format!(
                "telemetry {{ Prometheus {{ port = {metrics} {} }} Statsd = [{{ address = \"{plain}\" }}]
                 DogStatsd = [{{ address = \"{dog}\" }}] }}",
                attestors.prometheus
            ),
            workload_attestors: attestors.blocks.clone(),
            environment: attestors.environment.clone(),
            shell: attestors.shell.clone(),
            ..conf
        };
        let own = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        Self { whose, agent: Agent::start_program(program, &conf, own), admin_socket, metrics, statsd }
    }
}

/// The node alias of all agents. They hold the entries that have it as their parent.
const ALIAS: &str = "spiffe://example.org/node";
