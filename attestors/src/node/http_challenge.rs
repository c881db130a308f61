//! The `http_challenge` attestor: proof that the agent can listen on a port of the host whose name it claims (SPIRE,
//! `pkg/common/plugin/httpchallenge`).
//!
//! The payload has the name and the port. The server sends a nonce, and fetches it from there by plain HTTP.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{NodeError, SecretBytes};

/// The `http_challenge` attestor.
#[derive(Debug)]
pub struct HttpChallenge {
    /// The name of this host, as the server resolves it (`hostname`); `None` for the system's host name.
    pub hostname: Option<String>,
    /// What tells several agents of a host apart (`agentname`). It is a part of the path.
    pub agent_name: String,
    /// The port of the listener, on all addresses (`port`); 0 for any free one.
    pub port: u16,
    /// The port that the server connects to (`advertised_port`); `None` for that of the listener.
    pub advertised_port: Option<u16>,
}

impl HttpChallenge {
    /// Opens the listener, and returns the payload, `{"hostname": …, "agentname": …, "port": …}`.
    pub(super) fn begin(&self) -> Result<(SecretBytes, NonceServer), NodeError> {
        let failed = |source| NodeError::Listen { port: self.port, source };
        let listener = listen(self.port).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?.port();
        let payload = Payload {
            hostname: self.hostname.as_ref().map_or_else(system_name, |name| Ok(name.clone()))?,
            agentname: &self.agent_name,
            port: self.advertised_port.unwrap_or(bound),
        };
        let payload = serde_json::to_vec(&payload).expect("texts and a number are JSON");
        Ok((payload.into(), NonceServer::start(listener, &self.agent_name)))
    }
}

/// Listens on all addresses, of IPv4 as well, as Go does for `:PORT`.
fn listen(port: u16) -> io::Result<TcpListener> {
    let both = || {
        let socket = TcpSocket::new_v6()?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        bound(socket, (Ipv6Addr::UNSPECIFIED, port).into())
    };
    match both() {
        // A host without IPv6.
        Err(reason) if matches!(reason.raw_os_error(), Some(NO_FAMILY | NO_ADDRESS)) => {
            bound(TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        listener => listener,
    }
}

fn bound(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // Connections of the last attestation may linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn system_name() -> Result<String, NodeError> {
    let name = uname().ok().and_then(|system| Some(system.nodename().to_str()?.to_owned()));
    name.ok_or(NodeError::Challenge { name: NAME, reason: "unable to fetch hostname" })
}

/// Serves the nonce, to whoever asks: 404 before it is known, and for any other path. Dropping it closes the port.
///
/// The port is open to strangers. A connection may send one request with a head of at most [`HEAD_BYTES`] and lasts
/// [`CONNECTION_LIMIT`]; beyond [`CONNECTIONS`] of them the oldest is closed, so that the idle ones of a stranger do not
/// keep the server out. Nothing of a request is kept or logged.
pub(super) struct NonceServer {
    nonce: Arc<OnceLock<Bytes>>,
    /// Its only task, which ends when the set is dropped.
    _task: JoinSet<()>,
}

impl NonceServer {
    fn start(listener: TcpListener, agent_name: &str) -> Self {
        let path = format!("/.well-known/spiffe/nodeattestor/http_challenge/{agent_name}/challenge");
        let nonce = Arc::default();
        let page = Arc::new(Page { path, nonce: Arc::clone(&nonce) });
        let mut task = JoinSet::new();
        task.spawn(serve(listener, page));
        Self { nonce, _task: task }
    }

    /// Publishes the nonce of the challenge, and returns the response, which only says that it may be fetched.
    pub(super) fn publish(&self, challenge: &[u8]) -> Result<SecretBytes, NodeError> {
        let challenge: Challenge = serde_json::from_slice(challenge)
            .map_err(|_| NodeError::Challenge { name: NAME, reason: "unable to unmarshal challenge" })?;
        self.nonce.get_or_init(|| format!("{}\n", challenge.nonce).into());
        Ok(b"\n".to_vec().into())
    }
}

/// What is served.
struct Page {
    path: String,
    nonce: Arc<OnceLock<Bytes>>,
}

async fn serve(listener: TcpListener, page: Arc<Page>) {
    let mut connections = JoinSet::new();
    let mut oldest_first = Vec::<AbortHandle>::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    oldest_first.retain(|connection| !connection.is_finished());
                    if oldest_first.len() >= CONNECTIONS {
                        oldest_first.remove(0).abort();
                    }
                    let page = Arc::clone(&page);
                    let answered = async move { drop(timeout(CONNECTION_LIMIT, answer(stream, page)).await) };
                    oldest_first.push(connections.spawn(answered));
                }
                // Out of file descriptors, most likely. The connection waits in the backlog.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, page: Arc<Page>) {
    let service = service_fn(move |request| {
        let response = page.response(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(CONNECTION_LIMIT);
    server.keep_alive(false).max_buf_size(HEAD_BYTES);
    // A stranger's errors are no concern of ours.
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

impl Page {
    /// Any method will do, as in spire-agent.
    fn response<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let nonce = self.nonce.get().filter(|_| request.uri().path() == self.path);
        let mut response = Response::new(Full::new(nonce.cloned().unwrap_or_default()));
        if nonce.is_none() {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        response
    }
}

#[derive(Serialize)]
struct Payload<'a> {
    hostname: String,
    agentname: &'a str,
    port: u16,
}

#[derive(Deserialize)]
struct Challenge {
    nonce: String,
}

impl fmt::Debug for NonceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceServer(…)")
    }
}

pub(super) const NAME: &str = "http_challenge";
const NO_FAMILY: i32 = nix::libc::EAFNOSUPPORT;
const NO_ADDRESS: i32 = nix::libc::EADDRNOTAVAIL;
const BACKLOG: u32 = 128;
/// The most connections at once. The server needs one.
const CONNECTIONS: usize = 32;
/// Go's limit in SPIRE's plugin, and how long the server waits for the nonce.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// The least that hyper allows.
const HEAD_BYTES: usize = 8 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
