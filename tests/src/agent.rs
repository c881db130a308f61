//! Runs the agent as its users do: with an agent.conf, as a process, with a log.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::build_finial;

/// The values in agent.conf and on the command line.
#[derive(Debug, Clone)]
pub struct Conf {
    /// The address of the server, `host:port`.
    pub server: String,
    /// The trust domain.
    pub trust_domain: String,
    /// The content of the trust bundle file; `None` for no file.
    pub bundle: Option<String>,
    /// The value of `-joinToken`, if it is given.
    pub join_token: Option<String>,
    /// For k8s_psat: the cluster, and the content of the token file (`None` for no file).
    pub psat: Option<(String, Option<String>)>,
    /// The block of another node attestor than join_token and k8s_psat.
    pub node_attestor: Option<String>,
    /// Whether the key manager is `"disk"` instead of `"memory"`.
    pub disk_keys: bool,
    /// More lines of the `agent` block.
    pub agent: String,
    /// More blocks of the file.
    pub blocks: String,
    /// The blocks of the workload attestors. The default is [`unix_attestor`] with its defaults.
    pub workload_attestors: String,
    /// Variables of the agent's environment, in addition to those of this process.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// The command: `run`, or `keep`.
    pub order: &'static str,
    /// A script that wraps the program: `sh -c SCRIPT finial ARGS`, where SCRIPT ends in `exec "$0" "$@"`.
    pub shell: Option<String>,
}

impl Conf {
    /// The configuration of an agent that attests to a development server by join token.
    #[must_use]
    pub fn join_token(server: &dev::Server) -> Self {
        Self { join_token: Some(server.create_join_token()), ..Self::of(server) }
    }

    /// The configuration of an agent that attests to a development server by k8s_psat.
    #[must_use]
    pub fn psat(server: &dev::Server) -> Self {
        let token = server.psat_token("cluster", "spire", "spire-agent", "node");
        Self { psat: Some(("cluster".into(), Some(token))), ..Self::of(server) }
    }

    fn of(server: &dev::Server) -> Self {
        Self::new(server.address().to_string(), server.trust_domain().into(), server.bundle_pem())
    }

    /// The configuration of an agent of the server at `host:port`, whose trust bundle is PEM. How it attests is to be said
    /// still.
    #[must_use]
    pub fn new(server: String, trust_domain: String, bundle: String) -> Self {
        Self {
            server,
            trust_domain,
            bundle: Some(bundle),
            join_token: None,
            psat: None,
            node_attestor: None,
            disk_keys: false,
            agent: String::new(),
            blocks: String::new(),
            workload_attestors: unix_attestor(""),
            environment: Vec::new(),
            order: "run",
            shell: None,
        }
    }

    /// Writes the files of an agent to its folder, and makes the command line `PROGRAM ORDER -config …`, with pipes for
    /// its output.
    ///
    /// # Panics
    /// If a file cannot be written.
    #[must_use]
    pub fn command(&self, program: &Path, order: &str, folder: &Path) -> Command {
        std::fs::write(folder.join("agent.conf"), self.text(folder)).expect("written");
        if let Some(bundle) = &self.bundle {
            std::fs::write(folder.join("bundle"), bundle).expect("written");
        }
        if let Some((_, Some(token))) = &self.psat {
            std::fs::write(folder.join("token"), token).expect("written");
        }
        let mut command = match &self.shell {
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(script).arg(program);
                shell
            }
            None => Command::new(program),
        };
        command.arg(order).arg("-config").arg(folder.join("agent.conf"));
        if let Some(token) = &self.join_token {
            command.args(["-joinToken", token]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn text(&self, folder: &Path) -> String {
        let (host, port) = self.server.rsplit_once(':').expect("host:port");
        let folder = folder.display();
        let keys = if self.disk_keys {
            format!("KeyManager \"disk\" {{ plugin_data {{ directory = \"{folder}/keys\" }} }}")
        } else {
            "KeyManager \"memory\" { plugin_data {} }".into()
        };
        let node = match (&self.node_attestor, &self.psat) {
            (Some(block), _) => block.clone(),
            (None, Some((cluster, _))) => format!(
                "NodeAttestor \"k8s_psat\" {{ plugin_data {{ cluster = \"{cluster}\" token_path = \"{folder}/token\" }} }}"
            ),
            (None, None) => "NodeAttestor \"join_token\" { plugin_data {} }".into(),
        };
        format!(
            "agent {{\n data_dir = \"{folder}/data\"\n log_level = \"DEBUG\"\n server_address = \"{host}\"\n \
             server_port = \"{port}\"\n socket_path = \"{folder}/api.sock\"\n trust_bundle_path = \"{folder}/bundle\"\n \
             trust_domain = \"{}\"\n {}\n}}\nplugins {{\n {node}\n {keys}\n {}\n}}\n{}\n",
            self.trust_domain, self.agent, self.workload_attestors, self.blocks
        )
    }
}

/// The block of the unix attestor with this `plugin_data`.
#[must_use]
pub fn unix_attestor(plugin_data: &str) -> String {
    format!("WorkloadAttestor \"unix\" {{ plugin_data {{ {plugin_data} }} }}")
}

/// A running agent. Dropping it ends it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    lines: watch::Receiver<Arc<Vec<String>>>,
    folder: Arc<TempDir>,
}

/// How an agent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// All that the agent printed.
    pub log: String,
}

impl Agent {
    /// Starts an agent in a folder of its own.
    #[must_use]
    pub fn start(conf: &Conf) -> Self {
        Self::start_in(conf, Arc::new(tempfile::tempdir().expect("a temporary folder")))
    }

    /// Starts an agent in a folder in which one may have run before.
    #[must_use]
    pub fn start_in(conf: &Conf, folder: Arc<TempDir>) -> Self {
        Self::start_program(&build_finial(), conf, folder)
    }

    /// Starts finial, or another program that takes the same configuration.
    ///
    /// # Panics
    /// If the program cannot be started.
    #[must_use]
    pub fn start_program(program: &Path, conf: &Conf, folder: Arc<TempDir>) -> Self {
        let mut child = conf.command(program, conf.order, folder.path()).spawn().expect("the agent starts");
        let (sender, lines) = watch::channel(Arc::default());
        let sender = Arc::new(sender);
        tokio::spawn(collect(child.stdout.take().expect("piped"), Arc::clone(&sender)));
        tokio::spawn(collect(child.stderr.take().expect("piped"), sender));
        Self { child, lines, folder }
    }

    /// The folder of the agent's files.
    #[must_use]
    pub fn folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// The path of a file in the agent's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of the agent's public socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("api.sock")
    }

    /// Waits until the agent serves its public socket, and returns the path.
    ///
    /// # Panics
    /// If the agent ends before.
    pub async fn wait_for_socket(&self) -> PathBuf {
        let mut lines = self.lines.clone();
        let served = |lines: &Arc<Vec<String>>| lines.iter().any(|line| line.contains("Starting agent APIs"));
        let waited = tokio::time::timeout(PATIENCE, lines.wait_for(served)).await;
        assert!(matches!(waited, Ok(Ok(_))), "no socket; the agent printed:\n{}", self.log());
        drop(waited);
        self.socket()
    }

    /// The agent's pid.
    ///
    /// # Panics
    /// If the agent has ended.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("the agent runs")
    }

    /// The pid of the agent that a keeper runs at present.
    ///
    /// # Panics
    /// If the keeper has ended, or runs none.
    #[must_use]
    pub fn kept_pid(&self) -> i32 {
        let keeper = self.pid();
        let children =
            std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).expect("procfs");
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the keeper runs an agent")
    }

    /// Sends a signal to the agent that a keeper runs.
    pub fn signal_kept(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.kept_pid()), signal).expect("the agent runs");
    }

    /// Waits for a log line that contains this text, and returns it.
    ///
    /// # Panics
    /// If the agent ends without the line. The message has all that it printed.
    pub async fn logged(&mut self, text: &str) -> String {
        self.logged_times(text, 1).await
    }

    /// Waits until `times` log lines contain this text, and returns the last of them.
    ///
    /// # Panics
    /// As [`Agent::logged`].
    pub async fn logged_times(&mut self, text: &str, times: usize) -> String {
        let found =
            |lines: &Vec<String>| lines.iter().filter(|line| line.contains(text)).nth(times - 1).cloned();
        let waited =
            tokio::time::timeout(PATIENCE, self.lines.wait_for(|lines| found(lines).is_some())).await;
        if let Ok(Ok(lines)) = &waited {
            return found(lines).unwrap_or_default();
        }
        drop(waited);
        panic!("the agent did not print {text:?} {times} times; it printed:\n{}", self.log());
    }

    /// All that the agent has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.lines.borrow().join("\n")
    }

    /// Sends SIGTERM to the agent.
    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the agent runs");
    }

    /// Sends SIGTERM to the agent and waits for its end.
    pub async fn stop(self) -> Exit {
        self.terminate();
        self.exited().await
    }

    /// Waits for the agent's end.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn exited(mut self) -> Exit {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let Ok(status) = status else { panic!("the agent does not end; it printed:\n{}", self.log()) };
        // Both pipes are read to their end.
        while self.lines.changed().await.is_ok() {}
        Exit { code: status.expect("waited for").code(), log: self.log() }
    }
}

async fn collect(pipe: impl AsyncRead + Unpin, lines: Arc<watch::Sender<Arc<Vec<String>>>>) {
    let mut reader = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        lines.send_modify(|lines| Arc::make_mut(lines).push(line));
    }
}

const PATIENCE: Duration = Duration::from_secs(100);
