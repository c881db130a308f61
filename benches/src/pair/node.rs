//! The server, the configuration and the programs of a node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dev::{Entry, Options, Server};
use harness::{Agent, Conf};
use tempfile::TempDir;

use super::{NAMES, id};
use crate::running::Outcome;

/// A node on which one agent follows another. All its files are in one folder.
pub struct Node {
    server: Server,
    conf: Conf,
    folder: Arc<TempDir>,
    /// Whether the second of the two copies of the program was installed last.
    second: bool,
}

impl Node {
    /// Starts a server with the entries of both Envoys, and installs the agent's program.
    ///
    /// # Errors
    /// If the server does not start, or the program cannot be copied.
    pub async fn start(program: &Path, svid_ttl: Duration) -> Outcome<Self> {
        // The same token attests again and again.
        let token_ttl = Duration::from_hours(24);
        let server = Server::start(Options { svid_ttl, token_ttl, ..Options::default() }).await?;
        let agent = format!("experimental {{ sync_interval = \"{SYNC:?}\" }}");
        let conf = Conf { order: "keep", agent, ..Conf::psat(&server) };
        let parent = server.psat_agent_id("cluster", "node");
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        for name in NAMES {
            server.create_entry(Entry::new(id(name), parent.clone(), [&*uid]));
        }
        let folder = Arc::new(tempfile::tempdir()?);
        // Callers of other users come, too.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let bin = folder.path().join("bin");
        fs::create_dir(&bin)?;
        for copy in COPIES {
            fs::copy(program, bin.join(copy))?;
        }
        fs::hard_link(bin.join(COPIES[0]), bin.join("finial"))?;
        let keeper = program.with_file_name("finial-keep");
        if keeper.exists() {
            fs::copy(keeper, bin.join("finial-keep"))?;
        }
        Ok(Self { server, conf, folder, second: false })
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The agent's SPIFFE ID.
    #[must_use]
    pub fn agent_id(&self) -> String {
        self.server.psat_agent_id("cluster", "node")
    }

    /// The agent's configuration.
    #[must_use]
    pub fn conf(&self) -> &Conf {
        &self.conf
    }

    /// The path of a file in the node's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path of the agent's program. [`Self::upgrade`] replaces the file.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.path("bin/finial")
    }

    /// Starts a keeper. If one runs already, it takes over.
    #[must_use]
    pub fn keep(&self) -> Agent {
        Agent::start_program(&self.program(), &self.conf, Arc::clone(&self.folder))
    }

    /// Puts another file in place of the program, as an upgrade does.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn upgrade(&mut self) -> Outcome<()> {
        self.second = !self.second;
        let next = self.path("bin/next");
        fs::hard_link(self.path("bin").join(COPIES[usize::from(self.second)]), &next)?;
        Ok(fs::rename(next, self.program())?)
    }

    /// Updates the entries of both Envoys: at its next sync the agent has new certificates signed.
    pub fn rotate(&self) {
        for entry in self.server.entries() {
            if NAMES.iter().any(|name| entry.spiffe_id == id(name)) {
                self.server.update_entry(entry);
            }
        }
    }
}

/// How often the agent syncs: without a restart a rotation takes up to this time.
const SYNC: Duration = Duration::from_secs(1);
const COPIES: [&str; 2] = ["one", "other"];
