//! The one connection to the server: sticky, and thrown away on any doubt.
//!
//! TCP and TLS are done here and the finished stream is given to the channel, which can use it once: a failure is
//! seen as what it is, and there is no reconnecting behind our back. A call that does not answer in time dooms the
//! connection: behind a load balancer a black-holed one must not cost more than one timeout.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::{SpiffeId, X509Svid};
use rustls::CertificateError;
use rustls_pki_types::ServerName;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::tls::{Roots, client_config};
use super::{ServerError, dial::dial};
use crate::upstream::backoff::jitter;

/// The connection, opened when it is first needed.
#[derive(Debug)]
pub struct Link {
    host: String,
    port: u16,
    server: SpiffeId,
    credentials: StdMutex<Credentials>,
    open: Mutex<Option<Open>>,
    opened: AtomicU64,
}

/// Whom we trust and who we are.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// What the server is verified against.
    pub roots: Roots,
    /// The agent's SVID; `None` before attestation.
    pub svid: Option<Arc<X509Svid>>,
}

#[derive(Debug, Clone)]
struct Open {
    id: u64,
    channel: Channel,
    /// Another address is picked then.
    until: Instant,
    /// The credentials that it was opened with are the present ones.
    svid: Option<Arc<X509Svid>>,
}

impl Link {
    /// A link to `host:port`, where `server` must answer.
    #[must_use]
    pub fn new(host: String, port: u16, server: SpiffeId, credentials: Credentials) -> Self {
        Self {
            host,
            port,
            server,
            credentials: StdMutex::new(credentials),
            open: Mutex::new(None),
            opened: AtomicU64::new(0),
        }
    }

    /// Changes who we are or whom we trust. A connection under another SVID is not used again.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    /// Whom we trust and who we are at present.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a call on the present connection, within `limit` (connecting included).
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn call<T, F>(&self, limit: Duration, call: impl FnOnce(Channel) -> F) -> Result<T, ServerError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut used = None;
        let work = async {
            let (channel, id) = self.channel().await?;
            used = Some(id);
            call(channel).await.map_err(ServerError::of)
        };
        let result = timeout(limit, work).await.unwrap_or(Err(ServerError::Timeout(limit)));
        if result.as_ref().is_err_and(ServerError::dooms_connection) {
            // The one that failed, not one that was opened since.
            self.open.lock().await.take_if(|open| Some(open.id) == used);
        }
        result
    }

    /// A connection of its own, without a client certificate, for attestation.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn anonymous(&self, roots: &Roots) -> Result<Channel, ServerError> {
        timeout(CONNECT_LIMIT, self.connect(&Credentials { roots: roots.clone(), svid: None }))
            .await
            .unwrap_or(Err(ServerError::Timeout(CONNECT_LIMIT)))
    }

    async fn channel(&self) -> Result<(Channel, u64), ServerError> {
        let credentials = self.credentials();
        // Held while connecting: who comes meanwhile waits for this connection instead of opening another.
        let mut open = self.open.lock().await;
        let same = |open: &&Open| match (&open.svid, &credentials.svid) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if let Some(open) = open.as_ref().filter(same).filter(|open| open.until > Instant::now()) {
            return Ok((open.channel.clone(), open.id));
        }
        let connected = timeout(CONNECT_LIMIT, self.connect(&credentials)).await;
        let channel = connected.unwrap_or(Err(ServerError::Timeout(CONNECT_LIMIT)))?;
        let until = Instant::now() + jitter(STICKY, 1.0 / 3.0);
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        *open = Some(Open { id, channel: channel.clone(), until, svid: credentials.svid });
        Ok((channel, id))
    }

    async fn connect(&self, credentials: &Credentials) -> Result<Channel, ServerError> {
        let config = client_config(&credentials.roots, &self.server, credentials.svid.as_deref())
            .map_err(|reason| ServerError::Untrusted(reason.to_string()))?;
        let stream = dial(&self.host, self.port)
            .await
            .map_err(|reason| ServerError::Unreachable(reason.to_string()))?;
        // Neither sent nor checked by name; SPIFFE looks at the ID alone.
        let name = ServerName::try_from("spire-server").expect("a DNS name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(untrusted)?;
        let mut once = Some(stream);
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = once.take().map(TokioIo::new).ok_or(io::ErrorKind::NotConnected);
            std::future::ready(stream.map_err(io::Error::from))
        });
        Endpoint::from_static("http://spire-server")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|reason| ServerError::Unreachable(reason.to_string()))
    }
}

fn untrusted(reason: io::Error) -> ServerError {
    let inner = reason.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ServerError::UnknownAuthority
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            ServerError::Untrusted(other.0.to_string())
        }
        Some(other) => ServerError::Untrusted(other.to_string()),
        None => ServerError::Unreachable(format!("TLS handshake: {reason}")),
    }
}

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A page of 500 entries is some 100 KB, and none is to wait for a window.
const WINDOW: u32 = 1024 * 1024;
/// Between 30 and 60 minutes on one server.
const STICKY: Duration = Duration::from_secs(45 * 60);
