//! The server, the configuration and the programs of a node.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dev::{Entry, Options, Server};
use harness::{Agent, Conf};
use tempfile::TempDir;

use super::{DOMAIN, NAMES, id};
use crate::running::Outcome;
use crate::running::server::{SpireServer, join_token_agent_id};

/// A node on which one agent follows another. All its files are in one folder.
pub struct Node<S = Server> {
    server: S,
    conf: Conf,
    folder: Arc<TempDir>,
    /// Whether the second of the two copies of the program was installed last.
    second: bool,
}

/// A server of a node.
pub trait Upstream {
    /// Updates the entries of both Envoys: at its next sync the agent has new certificates signed.
    fn rotate(&self);
}

/// The real server.
pub struct Real {
    /// With the folder of its files, which an update that has not ended needs, too.
    server: Arc<(SpireServer, Arc<TempDir>)>,
    parent: String,
    /// The entry IDs of both Envoys.
    entries: [String; 2],
    /// Each update changes the lifetime of the certificates, because one that changes nothing is none.
    updates: AtomicU32,
}

impl Node {
    /// Starts a development server with the entries of both Envoys, and installs the agent's program.
    ///
    /// # Errors
    /// If the server does not start, or the program cannot be copied.
    pub async fn start(program: &Path, svid_ttl: Duration) -> Outcome<Self> {
        // The same token attests again and again.
        let token_ttl = Duration::from_hours(24);
        let server = Server::start(Options { svid_ttl, token_ttl, ..Options::default() }).await?;
        let conf = Conf::psat(&server);
        let parent = server.psat_agent_id("cluster", "node");
        for name in NAMES {
            server.create_entry(Entry::new(id(name), parent.clone(), [&*selector()]));
        }
        Self::new(program, server, conf, Arc::new(tempfile::tempdir()?))
    }

    /// The server that the agent attests to: a development server, or spire-server where `SPIRE_SERVER` names one.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The agent's SPIFFE ID.
    #[must_use]
    pub fn agent_id(&self) -> String {
        self.server.psat_agent_id("cluster", "node")
    }
}

impl Node<Real> {
    /// Starts the real server with the entries of both Envoys, and installs the agent's program.
    ///
    /// # Errors
    /// As for [`Node::start`].
    pub fn start_real(program: &Path, spire_server: &Path) -> Outcome<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        let files = folder.path().join("server");
        fs::create_dir(&files)?;
        let server = SpireServer::start(spire_server, &files, "1s", "warn")?;
        let token = server.join_token()?;
        let (parent, selector) = (join_token_agent_id(&token), selector());
        let create = |name| {
            let id = id(name);
            let flags = ["-parentID", &parent, "-spiffeID", &id, "-selector", &selector, "-output", "json"];
            let printed: serde_json::Value =
                serde_json::from_str(&server.ask(&["entry", "create"], &flags)?)?;
            let entry = printed["results"][0]["entry"]["id"].as_str().ok_or("no entry")?;
            Outcome::Ok(entry.to_owned())
        };
        let entries = [create(NAMES[0])?, create(NAMES[1])?];
        let conf = Conf {
            join_token: Some(token),
            // A join token attests once.
            disk_keys: true,
            order: "keep",
            ..Conf::new(format!("127.0.0.1:{}", server.port()), DOMAIN.to_owned(), server.bundle()?)
        };
        let real = Real {
            server: Arc::new((server, Arc::clone(&folder))),
            parent,
            entries,
            updates: AtomicU32::new(0),
        };
        Self::new(program, real, conf, folder)
    }
}

impl<S: Upstream> Node<S> {
    fn new(program: &Path, server: S, conf: Conf, folder: Arc<TempDir>) -> Outcome<Self> {
        let agent = format!("experimental {{ sync_interval = \"{SYNC:?}\" }}");
        let conf = Conf { order: "keep", agent, ..conf };
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

    /// Has new certificates signed for both Envoys, as soon as the agent syncs.
    pub fn rotate(&self) {
        self.server.rotate();
    }
}

impl Upstream for Server {
    fn rotate(&self) {
        for entry in self.entries() {
            if NAMES.iter().any(|name| entry.spiffe_id == id(name)) {
                self.update_entry(entry);
            }
        }
    }
}

impl Upstream for Real {
    /// Does not wait for the command line.
    fn rotate(&self) {
        let seconds = (600 + self.updates.fetch_add(1, Ordering::Relaxed) % 2).to_string();
        for (name, entry) in NAMES.into_iter().zip(self.entries.clone()) {
            let (server, parent, seconds) = (Arc::clone(&self.server), self.parent.clone(), seconds.clone());
            std::thread::spawn(move || {
                let (id, selector) = (id(name), selector());
                let flags =
                    ["-entryID", &entry, "-parentID", &parent, "-spiffeID", &id, "-selector", &selector];
                let flags = [&flags[..], &["-x509SVIDTTL", &seconds]].concat();
                if let Err(reason) = server.0.ask(&["entry", "update"], &flags) {
                    eprintln!("entry update: {reason}");
                }
            });
        }
    }
}

/// The selector of every process of this user.
fn selector() -> String {
    format!("unix:uid:{}", nix::unistd::getuid())
}

/// How often the agent syncs: without a restart a rotation takes up to this time.
const SYNC: Duration = Duration::from_secs(1);
const COPIES: [&str; 2] = ["one", "other"];
