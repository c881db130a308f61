//! The server as a value: made with [`Options`], gone when it is dropped.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::entries::Entry;
use crate::listener;
use crate::state::Shared;

/// A running server. Its methods are what a test may do to it; they take effect at once.
pub struct Server {
    pub(crate) shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// How the server is set up. All TTLs count in whole seconds, as certificates do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Without `spiffe://`.
    pub trust_domain: String,
    /// Where to listen.
    pub ip: IpAddr,
    /// 0: any free one.
    pub port: u16,
    /// Life of a CA. It prepares its successor at a half of it and yields to it at five sixths.
    pub ca_ttl: Duration,
    /// Life of an X.509-SVID whose entry says nothing, and of the server's own.
    pub svid_ttl: Duration,
    /// Life of an agent's X.509-SVID.
    pub agent_ttl: Duration,
    /// Life of join tokens and service account tokens.
    pub token_ttl: Duration,
    /// A connection that is older is closed with GOAWAY once its calls are answered, give or take a tenth.
    pub max_connection_age: Duration,
    /// The CA is an intermediate of an upstream root: chains carry it, the bundle is the root.
    pub intermediate: bool,
    /// Most entries or revisions in one message of SyncAuthorizedEntries.
    pub entry_page_size: usize,
    /// Up to so many entries are sent whole at once; the real server has no other limit than its page size (`None`).
    pub full_sync_limit: Option<usize>,
    /// Clusters that may attest by k8s_psat, with their service accounts (`namespace:name`). Empty: all of them.
    pub psat_clusters: BTreeMap<String, Vec<String>>,
    /// Seconds after which agents shall look for a new bundle; 0 says nothing.
    pub refresh_hint: i64,
    /// The first registration entries.
    pub entries: Vec<Entry>,
}

/// Why a server does not start or an entries file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where it should have listened.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Something is at that path, or its folder is not there.
    #[error("cannot listen on {path}: {source}")]
    BindSocket {
        /// Where it should have listened.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A certificate cannot be made, most likely for its trust domain.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A TLS configuration cannot be made.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The client verifier cannot be made.
    #[error("cannot set up the verification of clients: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The entries file cannot be read.
    #[error("cannot read {path}: {source}")]
    EntriesFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The entries file is not what it should be.
    #[error("{path} holds no entries: {source}")]
    EntriesJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

impl Server {
    /// Listens, and serves until it is dropped.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let address = SocketAddr::new(options.ip, options.port);
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(|source| Error::Bind { address, source })?;
        let shared = Arc::new(Shared::new(options)?);
        let task = tokio::spawn(listener::serve(Arc::clone(&shared), listener, address));
        Ok(Self { shared, address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.shared.options.trust_domain
    }

    /// Ends it; the port is free and every connection cut when this returns.
    pub async fn shutdown(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trust_domain: "example.org".to_owned(),
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            ca_ttl: Duration::from_hours(24),
            svid_ttl: Duration::from_hours(1),
            agent_ttl: Duration::from_hours(1),
            token_ttl: Duration::from_mins(10),
            max_connection_age: Duration::from_mins(3),
            intermediate: false,
            entry_page_size: 500,
            full_sync_limit: None,
            psat_clusters: BTreeMap::new(),
            refresh_hint: 0,
            entries: Vec::new(),
        }
    }
}
