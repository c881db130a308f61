//! All that runs: the server, two agents and six Envoys; and the directory of their files.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::agent::{AgentConf, Attestation};
use super::arguments::Arguments;
use super::envoy::Envoy;
use super::failure::Failure;
use super::http;
use super::plan::{self, Cluster, WORKLOADS, Workload};
use super::ports::Ports;
use super::process::{Group, Process};
use super::programs::{self, Programs};
use super::screen::Screen;
use super::sidecar::Sidecar;
use super::table::Table;
use super::wait::until;
use crate::Server;

/// The processes and files of one run. Dropping it ends and removes them.
///
/// Fields are dropped in this order, so the processes that write files end before the directory is removed.
pub(crate) struct World<'a> {
    agents: Vec<Process>,
    envoys: Vec<Envoy>,
    group: Group,
    /// The built-in server; `None` before its start, and with a real server.
    server: Option<Server>,
    arguments: &'a Arguments,
    programs: &'a Programs,
    ports: Ports,
    /// The directory without symbolic links, as in the kernel's paths of its programs.
    root: PathBuf,
    directory: TempDir,
}

impl<'a> World<'a> {
    /// Makes the directory. Nothing runs in it yet.
    ///
    /// # Errors
    /// If the temporary directory cannot be written, `sh` does not start or there are no free ports.
    pub(crate) fn new(arguments: &'a Arguments, programs: &'a Programs) -> Result<Self, Failure> {
        let failed = |reason| Failure::new(format!("cannot make a temporary directory: {reason}"));
        let directory = tempfile::Builder::new().prefix("finial-demo-").tempdir().map_err(failed)?;
        let root = directory.path().canonicalize().map_err(failed)?;
        for name in [BIN, CONF, LOGS] {
            fs::create_dir(root.join(name)).map_err(failed)?;
        }
        let names = WORKLOADS.iter().map(|workload| workload.name);
        programs::under_names(&programs.envoy, &root.join(BIN), names)?;
        let (agents, envoys) = (Vec::new(), Vec::new());
        let (group, ports) = (Group::new()?, Ports::free()?);
        Ok(Self { agents, envoys, group, server: None, arguments, programs, ports, root, directory })
    }

    /// Keeps the files after the drop.
    pub(crate) fn keep_files(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// Starts the built-in server, unless a real one is used.
    ///
    /// # Errors
    /// If the server does not start.
    pub(crate) async fn start_server(&mut self) -> Result<(), Failure> {
        if self.arguments.server.is_none() {
            let options = plan::server_options(self.trust_domain(), &self.bin());
            let server = Server::start(options).await;
            self.server =
                Some(server.map_err(|reason| Failure::new(format!("the SPIRE server fails: {reason}")))?);
        }
        Ok(())
    }

    /// Starts the agents and waits until they are ready.
    ///
    /// # Errors
    /// If an agent ends or does not get ready.
    pub(crate) async fn start_agents(&mut self) -> Result<(), Failure> {
        for cluster in Cluster::ALL {
            let conf = self.agent_conf(cluster)?;
            let log = self.log(cluster.agent());
            let arguments = ["run", "-config", &conf.to_string_lossy()];
            let agent = self.group.spawn(cluster.agent(), &self.programs.agent, &arguments, &log)?;
            self.agents.push(agent);
        }
        for (agent, port) in self.agents.iter().zip(self.ports.health) {
            let ready = async || {
                agent.alive()?;
                Ok(http::get(port, "/ready").await.is_ok_and(|answer| answer.status == 200).then_some(()))
            };
            until(START_LIMIT, ready).await?.ok_or_else(|| agent.failure("does not get ready"))?;
        }
        Ok(())
    }

    fn agent_conf(&self, cluster: Cluster) -> Result<PathBuf, Failure> {
        let failed = |reason| Failure::new(format!("cannot write the files of an agent: {reason}"));
        let directory = self.root.join(cluster.agent());
        fs::create_dir(&directory).map_err(failed)?;
        let (token, written_bundle) = (directory.join("token"), directory.join("bundle.crt"));
        let address =
            self.server.as_ref().map(|server| (server.address().ip().to_string(), server.address().port()));
        let (server, bundle, attestation) = match (&self.server, &self.arguments.server) {
            (Some(server), _) => {
                let word = server.psat_token(cluster.name(), "spire", cluster.service_account(), "node-1");
                fs::write(&token, word).map_err(failed)?;
                fs::write(&written_bundle, server.bundle_pem()).map_err(failed)?;
                let (host, port) = address.as_ref().map_or(("", 0), |(host, port)| (host.as_str(), *port));
                ((host, port), written_bundle, Attestation::K8sPsat { token: &token })
            }
            (None, Some(real)) => {
                let bundle = real.bundle.canonicalize();
                let bundle = bundle
                    .map_err(|reason| Failure::usage(format!("{}: {reason}", real.bundle.display())))?;
                let token = match cluster {
                    Cluster::Frontend => &real.frontend_token,
                    Cluster::Backend => &real.backend_token,
                };
                ((real.host.as_str(), real.port), bundle, Attestation::JoinToken(token))
            }
            (None, None) => return Err(Failure::new("there is no server")),
        };
        let conf = AgentConf {
            cluster,
            directory: &directory,
            socket: &self.socket(cluster),
            server,
            bundle: &bundle,
            trust_domain: self.trust_domain(),
            attestation,
            health_port: self.ports.health[cluster as usize],
        };
        let path = directory.join("agent.conf");
        fs::write(&path, conf.text()).map_err(failed)?;
        Ok(path)
    }

    /// Starts the Envoys and waits until they are live. A live Envoy has its secrets, or has given up waiting for them.
    ///
    /// # Errors
    /// If an Envoy ends or does not get live.
    pub(crate) async fn start_envoys(&mut self) -> Result<(), Failure> {
        for (index, workload) in WORKLOADS.iter().enumerate() {
            let ports = &self.ports;
            let sidecar = Sidecar {
                workload,
                trust_domain: self.trust_domain(),
                agent_socket: &self.socket(workload.cluster),
                admin_port: ports.admin[index],
                port: ports.listener[index],
                port_of: &|name| position(name).map_or(0, |index| ports.listener[index]),
            };
            let conf = sidecar.write(&self.root.join(CONF))?;
            let arguments =
                ["-c", &conf.to_string_lossy(), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"];
            let (program, log) = (self.bin().join(workload.name), self.log(workload.name));
            let process = self.group.spawn(workload.name, &program, &arguments, &log)?;
            self.envoys.push(Envoy { process, admin_port: ports.admin[index], port: ports.listener[index] });
        }
        for (workload, envoy) in self.workloads() {
            let live = async || {
                envoy.process.alive()?;
                Ok(envoy.live().await.then_some(()))
            };
            let ready = until(START_LIMIT, live).await?;
            ready.ok_or_else(|| {
                envoy.process.failure("does not get live").with_log(&self.agent_log(workload))
            })?;
        }
        Ok(())
    }

    /// Registers a workload with the built-in server. With a real server its operator must do that.
    pub(crate) fn register(&self, workload: &Workload) {
        if let Some(server) = &self.server {
            server.create_entry(plan::workload_entry(self.trust_domain(), workload, &self.bin()));
        }
    }

    /// The command that registers a workload with a real server.
    pub(crate) fn registration_command(&self, workload: &Workload) -> String {
        plan::entry_command(self.trust_domain(), workload, &self.bin())
    }

    /// Draws the table and checks the processes, for ever.
    ///
    /// # Errors
    /// If a process has ended.
    pub(crate) async fn watch(&self, screen: &Screen) -> Result<Infallible, Failure> {
        let mut table = Table::default();
        loop {
            for process in self.agents.iter().chain(self.envoys.iter().map(|envoy| &envoy.process)) {
                process.alive()?;
            }
            if screen.table_period().is_some() {
                screen.table(table.draw(self, screen).await);
            }
            tokio::time::sleep(screen.table_period().unwrap_or(Duration::from_secs(1))).await;
        }
    }

    /// The text of `--keep`: files, commands and addresses for the user to look at.
    pub(crate) fn where_it_is(&self) -> String {
        let mut text = format!("files and logs: {}\n", self.root.display());
        for cluster in Cluster::ALL {
            let _ = writeln!(
                text,
                "{:15} {} healthcheck -socketPath {}",
                cluster.agent(),
                self.programs.agent.display(),
                self.socket(cluster).display()
            );
        }
        for (workload, envoy) in self.workloads() {
            let _ = write!(text, "{:15} http://127.0.0.1:{}/certs", workload.name, envoy.admin_port);
            let door = if workload.callers.is_empty() {
                format!("   calls: http://127.0.0.1:{}/db", envoy.port)
            } else {
                String::new()
            };
            let _ = writeln!(text, "{door}");
        }
        text.trim_end().to_owned()
    }

    /// The workloads with their running Envoys.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = (&'static Workload, &Envoy)> {
        WORKLOADS.iter().zip(&self.envoys)
    }

    /// A workload with its running Envoy, by its name.
    ///
    /// # Errors
    /// If its Envoy is not started.
    pub(crate) fn envoy(&self, name: &str) -> Result<(&'static Workload, &Envoy), Failure> {
        let found = self.workloads().find(|(workload, _)| workload.name == name);
        found.ok_or_else(|| Failure::new(format!("{name} does not run")))
    }

    pub(crate) fn trust_domain(&self) -> &'a str {
        &self.arguments.trust_domain
    }

    /// The log of the agent that a workload depends on.
    pub(crate) fn agent_log(&self, workload: &Workload) -> PathBuf {
        self.log(workload.cluster.agent())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root.join(LOGS).join(format!("{name}.log"))
    }

    fn bin(&self) -> PathBuf {
        self.root.join(BIN)
    }

    fn socket(&self, cluster: Cluster) -> PathBuf {
        self.root.join(cluster.agent()).join("agent.sock")
    }
}

fn position(name: &str) -> Option<usize> {
    WORKLOADS.iter().position(|workload| workload.name == name)
}

const BIN: &str = "bin";
const CONF: &str = "envoy";
const LOGS: &str = "logs";
/// How long agents and Envoys may take to start.
const START_LIMIT: Duration = Duration::from_mins(1);
