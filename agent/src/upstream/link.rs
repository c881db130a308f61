//! The one connection to the server: sticky, and thrown away on any doubt.
//!
//! A server closes a connection every few minutes (grpc-go: MaxConnectionAge). That is noticed when it comes, and the next
//! call dials anew. A call that met a dying connection is made once more on a fresh one, where that can do no harm: the
//! server has not seen it, or it only reads. A call that does not answer in time dooms the connection: behind a load
//! balancer a black-holed one must not cost more than one timeout.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use identity::SpiffeId;
use rustls::CertificateError;
use rustls_pki_types::ServerName;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tonic::Status;

use super::ServerError;
use super::channel::{Channel, End, is_transport, is_unseen};
use super::dial::Servers;
use super::tls::{KeyExchange, Roots, client_config};
use crate::keys::AgentSvid;

#[cfg(test)]
mod tests;

/// The connection to the server. It is opened when a call first needs it, by `C`.
#[derive(Debug)]
pub struct Link<C = Tls> {
    connector: C,
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
    pub svid: Option<Arc<AgentSvid>>,
}

/// What a call does at the server, so whether it may be made twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It tells something.
    Reads,
    /// It signs or changes something.
    Acts,
}

#[derive(Debug, Clone)]
struct Open {
    id: u64,
    channel: Channel,
    /// Another address is picked then.
    until: Instant,
    /// The credentials that it was opened with are the present ones.
    svid: Option<Arc<AgentSvid>>,
}

/// The connection that a call is made on.
struct Used {
    open: Open,
    /// It was opened for this call: what fails on it fails on any.
    fresh: bool,
}

/// What opens a connection.
pub trait Connect: Send + Sync {
    /// Opens one on which these credentials are shown.
    ///
    /// # Errors
    /// [`ServerError`].
    fn connect(&self, credentials: &Credentials)
    -> impl Future<Output = Result<Channel, ServerError>> + Send;

    /// Hears that what was connected to last does not answer.
    fn doubt(&self) {}
}

/// TCP to one of the server's addresses, and TLS over it.
#[derive(Debug)]
pub struct Tls {
    servers: Servers,
    server: SpiffeId,
    key_exchange: KeyExchange,
}

impl Tls {
    /// Connects to `host:port`, where `server` must answer.
    #[must_use]
    pub fn new(host: String, port: u16, server: SpiffeId, key_exchange: KeyExchange) -> Self {
        Self::to(Servers::one(host, port), server, key_exchange)
    }

    /// Connects to one of `servers`, where `server` must answer.
    #[must_use]
    pub(crate) fn to(servers: Servers, server: SpiffeId, key_exchange: KeyExchange) -> Self {
        Self { servers, server, key_exchange }
    }
}

impl Connect for Tls {
    async fn connect(&self, credentials: &Credentials) -> Result<Channel, ServerError> {
        let svid = credentials.svid.as_deref();
        let config = client_config(&credentials.roots, &self.server, svid, self.key_exchange)
            .map_err(|reason| ServerError::Untrusted(reason.to_string()))?;
        let stream =
            self.servers.dial().await.map_err(|reason| ServerError::Unreachable(reason.to_string()))?;
        // A server that accepts connections and is not of use, or does not answer, must not be tried first again.
        let trusted = self.servers.doubt();
        let stream =
            TlsConnector::from(Arc::new(config)).connect(server_name(), stream).await.map_err(untrusted)?;
        let channel = Channel::open(stream).await.map_err(ServerError::Unreachable)?;
        self.servers.trust(trusted);
        Ok(channel)
    }

    fn doubt(&self) {
        drop(self.servers.doubt());
    }
}

impl<C: Connect> Link<C> {
    /// A link whose connections `connector` opens.
    #[must_use]
    pub fn new(connector: C, credentials: Credentials) -> Self {
        Self {
            connector,
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

    /// Makes a call that only reads, within `limit` (connecting included).
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn read<T, F>(&self, limit: Duration, call: impl Fn(Channel) -> F) -> Result<T, ServerError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.call(limit, Effect::Reads, call).await
    }

    /// Makes a call that signs or changes something, within `limit` (connecting included).
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn act<T, F>(&self, limit: Duration, call: impl Fn(Channel) -> F) -> Result<T, ServerError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.call(limit, Effect::Acts, call).await
    }

    async fn call<T, F>(
        &self,
        limit: Duration,
        effect: Effect,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, ServerError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + limit;
        let mut used = None;
        loop {
            let work = async {
                let on = used.insert(self.channel().await?);
                match call(on.open.channel.clone()).await {
                    Ok(answer) => Ok(Ok(answer)),
                    Err(status) if !on.fresh && may_repeat(effect, &status) => Ok(Err(())),
                    Err(status) => Err(failure(&on.open.channel, status)),
                }
            };
            let result = timeout_at(deadline, work).await.unwrap_or(Err(ServerError::Timeout(limit)));
            let doomed = match &result {
                Ok(answered) => answered.is_err(),
                Err(reason) => reason.dooms_connection(),
            };
            if matches!(result, Err(ServerError::Timeout(_))) {
                self.connector.doubt();
            }
            if let Some(used) = used.take().filter(|_| doomed) {
                // The one that failed, not one that was opened since.
                self.open.lock().await.take_if(|open| open.id == used.open.id);
            }
            match result {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(())) => {}
                Err(reason) => return Err(reason),
            }
        }
    }

    /// A connection of its own, without a client certificate, for attestation.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn anonymous(&self, roots: &Roots) -> Result<Channel, ServerError> {
        timeout(CONNECT_LIMIT, self.connector.connect(&Credentials { roots: roots.clone(), svid: None }))
            .await
            .unwrap_or(Err(ServerError::Timeout(CONNECT_LIMIT)))
    }

    async fn channel(&self) -> Result<Used, ServerError> {
        let credentials = self.credentials();
        // Held while connecting: who comes meanwhile waits for this connection instead of opening another.
        let mut open = self.open.lock().await;
        if let Some(open) = open.as_ref().filter(|open| open.is_for(&credentials)) {
            return Ok(Used { open: open.clone(), fresh: false });
        }
        let connected = timeout(CONNECT_LIMIT, self.connector.connect(&credentials)).await;
        let channel = connected.unwrap_or(Err(ServerError::Timeout(CONNECT_LIMIT)))?;
        let until = Instant::now() + pace::sticky(&mut rand::rng());
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        let open = open.insert(Open { id, channel, until, svid: credentials.svid });
        Ok(Used { open: open.clone(), fresh: true })
    }
}

impl Open {
    /// Whether it can be used for a call with these credentials.
    fn is_for(&self, credentials: &Credentials) -> bool {
        let same = match (&self.svid, &credentials.svid) {
            (Some(ours), Some(present)) => Arc::ptr_eq(ours, present),
            (ours, present) => ours.is_none() && present.is_none(),
        };
        same && self.until > Instant::now() && !self.channel.is_closed()
    }
}

/// Whether a call that failed on a connection that had been good before may be made again.
fn may_repeat(effect: Effect, status: &Status) -> bool {
    is_unseen(status) || (effect == Effect::Reads && is_transport(status))
}

/// What a call failed of: what became of its connection, where it was that.
fn failure(channel: &Channel, status: Status) -> ServerError {
    if !is_transport(&status) {
        return ServerError::of(status);
    }
    match channel.end() {
        Some(End::Refused(alert)) => ServerError::CertificateRefused(alert.clone()),
        Some(End::Broken(reason)) => ServerError::Disconnected(reason.clone()),
        Some(End::Closed) => ServerError::Disconnected("the server closed it".to_owned()),
        // The connection stands and the call does not: reset, or never answered.
        None => ServerError::of(status),
    }
}

/// A name that is neither sent nor checked: SPIFFE looks at the ID alone.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("spire-server").expect("a DNS name")
}

pub(super) fn untrusted(reason: io::Error) -> ServerError {
    let inner = reason.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            ServerError::UnknownAuthority
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            ServerError::Untrusted(other.0.to_string())
        }
        Some(rustls::Error::AlertReceived(alert)) => ServerError::CertificateRefused(format!("{alert:?}")),
        Some(other) => ServerError::Untrusted(other.to_string()),
        None => ServerError::Unreachable(format!("TLS handshake: {reason}")),
    }
}

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
