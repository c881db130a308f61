//! The server: a real one if `SPIRE_SERVER` names it, or else the development server in this process.

use std::path::Path;

use benches::running::Outcome;
use benches::running::server::{SpireServer, join_token_agent_id};
use dev::{Entry, Options};
use tokio::runtime::Runtime;

/// A server and its only entry, which all clients have.
pub(crate) enum Server {
    Dev { server: dev::Server, entry: Entry },
    Spire { server: SpireServer, entry: Vec<String> },
}

/// The values that an agent needs to attest.
pub(crate) struct Joining {
    pub(crate) port: u16,
    pub(crate) token: String,
    pub(crate) bundle: String,
}

impl Server {
    pub(crate) fn start(runtime: &Runtime, spire: Option<&Path>, folder: &Path) -> Outcome<Self> {
        match spire {
            Some(program) => {
                let server = SpireServer::start(program, folder, "1s", "WARN")?;
                Ok(Self::Spire { server, entry: Vec::new() })
            }
            None => {
                let server = runtime.block_on(dev::Server::start(Options::default()))?;
                Ok(Self::Dev { server, entry: Entry::default() })
            }
        }
    }

    /// Makes a join token, and an entry for the agent of that token that selects all processes of this user.
    pub(crate) fn register(&mut self, spiffe_id: &str) -> Outcome<Joining> {
        let uid = format!("unix:uid:{}", nix::unistd::getuid());
        match self {
            Self::Dev { server, entry } => {
                let token = server.create_join_token();
                *entry = Entry::new(spiffe_id, server.join_token_agent_id(&token), [&*uid]).with_id(ENTRY);
                server.create_entry(entry.clone());
                Ok(Joining { port: server.address().port(), token, bundle: server.bundle_pem() })
            }
            Self::Spire { server, entry } => {
                let token = server.join_token()?;
                let parent = join_token_agent_id(&token);
                let flags =
                    ["-entryID", ENTRY, "-parentID", &parent, "-spiffeID", spiffe_id, "-selector", &uid];
                server.ask(&["entry", "create"], &flags)?;
                *entry = flags.map(str::to_owned).to_vec();
                Ok(Joining { port: server.port(), token, bundle: server.bundle()? })
            }
        }
    }

    /// Changes the entry, so that its SVID is minted again.
    pub(crate) fn rotate(&self, number: usize) -> Outcome<()> {
        let dns_name = format!("n{number}.example.org");
        match self {
            Self::Dev { server, entry } => {
                let updated = server.update_entry(Entry { dns_names: vec![dns_name], ..entry.clone() });
                if updated { Ok(()) } else { Err("the entry is gone".into()) }
            }
            Self::Spire { server, entry } => {
                let flags: Vec<&str> = entry.iter().map(String::as_str).chain(["-dns", &dns_name]).collect();
                server.ask(&["entry", "update"], &flags).map(drop)
            }
        }
    }
}

const ENTRY: &str = "measured";
