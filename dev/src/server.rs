//! The server as a value: [`Options`] start it, and dropping it ends it.

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

/// A running server. A test controls it by its methods, which take effect at once.
pub struct Server {
    pub(crate) shared: Arc<Shared>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// The options of a server. All TTLs count in whole seconds, as in certificates.
#[derive(Clone, Debug)]
pub struct Options {
    /// The trust domain, without `spiffe://`.
    pub trust_domain: String,
    /// The address to listen on.
    pub ip: IpAddr,
    /// The port to listen on; 0 for any free one.
    pub port: u16,
    /// The lifetime of a CA. The next CA is prepared after half of it and signs after five sixths.
    pub ca_ttl: Duration,
    /// The lifetime of the server's own certificate, and of X.509-SVIDs whose entry has no TTL.
    pub svid_ttl: Duration,
    /// The lifetime of JWT-SVIDs.
    pub jwt_svid_ttl: Duration,
    /// The lifetime of an agent's X.509-SVID.
    pub agent_ttl: Duration,
    /// The lifetime of join tokens and service account tokens.
    pub token_ttl: Duration,
    /// The age, ± 10 %, at which a connection is closed with GOAWAY once its calls are answered.
    pub max_connection_age: Duration,
    /// Whether the CA is an intermediate of an upstream root. Chains then include the CA's certificate, and the bundle
    /// is the root.
    pub intermediate: bool,
    /// The most entries, or revisions, in one message of SyncAuthorizedEntries.
    pub entry_page_size: usize,
    /// The most entries that are sent in full in the first answer; `None` for the page size, which is the limit of the
    /// real server.
    pub full_sync_limit: Option<usize>,
    /// The clusters that may attest by k8s_psat, with their service accounts (`namespace:name`). If it is empty, all
    /// may.
    pub psat_clusters: BTreeMap<String, Vec<String>>,
    /// The bundle's refresh hint in seconds; 0 for none.
    pub refresh_hint: i64,
    /// The first registration entries.
    pub entries: Vec<Entry>,
}

/// Why a server does not start, or an entries file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address and port.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The path exists already, or its folder does not.
    #[error("cannot listen on {path}: {source}")]
    BindSocket {
        /// The path of the socket.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A certificate cannot be made, most likely because the trust domain is invalid.
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
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The entries file is malformed.
    #[error("{path} holds no entries: {source}")]
    EntriesJson {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        source: serde_json::Error,
    },
}

impl Server {
    /// Starts a server. It serves until it is dropped.
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

    /// The address and port that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.shared.options.trust_domain
    }

    /// Ends the server. When this returns, the port is free and every connection is cut.
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
            jwt_svid_ttl: Duration::from_mins(5),
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
