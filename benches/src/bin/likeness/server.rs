//! The server: a real one where `SPIRE_SERVER` names it, else the development server in this process.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use benches::running::{Ended, Outcome};
use dev::{Entry, Options};
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// A server, and the one entry that all clients have.
pub(crate) enum Server {
    Dev { server: dev::Server, entry: Entry },
    Spire { program: PathBuf, folder: PathBuf, port: u16, entry: Vec<String>, _process: Ended },
}

/// What an agent needs to be attested.
pub(crate) struct Joining {
    pub(crate) port: u16,
    pub(crate) token: String,
    pub(crate) bundle: String,
}

impl Server {
    pub(crate) fn start(runtime: &Runtime, spire: Option<&Path>, folder: &Path) -> Outcome<Self> {
        match spire {
            Some(program) => Self::spire(program, folder),
            None => {
                let server = runtime.block_on(dev::Server::start(Options::default()))?;
                Ok(Self::Dev { server, entry: Entry::default() })
            }
        }
    }

    fn spire(program: &Path, folder: &Path) -> Outcome<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (path, conf) = (folder.display(), folder.join("server.conf"));
        fs::write(
            &conf,
            format!(
                "server {{ bind_address = \"127.0.0.1\" bind_port = \"{port}\" trust_domain = \"example.org\" \
                 data_dir = \"{path}\" socket_path = \"{path}/server.sock\" log_level = \"WARN\" \
                 experimental {{ cache_reload_interval = \"1s\" }} }}\n\
                 plugins {{ DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\" \
                 connection_string = \"{path}/datastore.sqlite3\" }} }} KeyManager \"memory\" {{ plugin_data {{}} }} \
                 NodeAttestor \"join_token\" {{ plugin_data {{}} }} }}\n"
            ),
        )?;
        let log = File::create(folder.join("server.log"))?;
        let mut command = Command::new(program);
        command.args(["run", "-config"]).arg(conf).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().map_err(|reason| format!("{}: {reason}", program.display()))?;
        let (program, folder) = (program.to_owned(), folder.to_owned());
        let server = Self::Spire { program, folder, port, entry: Vec::new(), _process: Ended(process) };
        let start = Instant::now();
        while let Err(reason) = server.ask(&["healthcheck"], &[]) {
            if start.elapsed() > PATIENCE {
                return Err(format!("the server is not healthy: {reason}").into());
            }
            sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// Makes a join token, and for its agent an entry whose SVID this user's processes have.
    pub(crate) fn register(&mut self, spiffe_id: &str) -> Outcome<Joining> {
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        if let Self::Dev { server, entry } = self {
            let token = server.create_join_token();
            *entry = Entry::new(spiffe_id, server.join_token_agent_id(&token), [&*uid]).with_id(ENTRY);
            server.create_entry(entry.clone());
            return Ok(Joining { port: server.address().port(), token, bundle: server.bundle_pem() });
        }
        let token: serde_json::Value =
            serde_json::from_str(&self.ask(&["token", "generate"], &["-output", "json"])?)?;
        let token = token["value"].as_str().ok_or("no token")?.to_owned();
        let parent = format!("spiffe://example.org/spire/agent/join_token/{token}");
        let words = ["-entryID", ENTRY, "-parentID", &parent, "-spiffeID", spiffe_id, "-selector", &uid];
        self.ask(&["entry", "create"], &words)?;
        let bundle = self.ask(&["bundle", "show"], &[])?;
        let Self::Spire { port, entry, .. } = self else { unreachable!("the other returned before") };
        *entry = words.map(str::to_owned).to_vec();
        Ok(Joining { port: *port, token, bundle })
    }

    /// Changes the entry, so that its SVID is minted anew.
    pub(crate) fn rotate(&self, number: usize) -> Outcome<()> {
        let dns_name = format!("n{number}.example.org");
        match self {
            Self::Dev { server, entry } => {
                let updated = server.update_entry(Entry { dns_names: vec![dns_name], ..entry.clone() });
                if updated { Ok(()) } else { Err("the entry is gone".into()) }
            }
            Self::Spire { entry, .. } => {
                let words: Vec<&str> = entry.iter().map(String::as_str).chain(["-dns", &dns_name]).collect();
                self.ask(&["entry", "update"], &words).map(drop)
            }
        }
    }

    /// A command of the real server's command line; what it printed.
    fn ask(&self, command: &[&str], words: &[&str]) -> Outcome<String> {
        let Self::Spire { program, folder, .. } = self else { return Err("not the real server".into()) };
        let socket = folder.join("server.sock");
        let output =
            Command::new(program).args(command).arg("-socketPath").arg(socket).args(words).output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into())
    }
}

const ENTRY: &str = "measured";
const PATIENCE: Duration = Duration::from_secs(60);
