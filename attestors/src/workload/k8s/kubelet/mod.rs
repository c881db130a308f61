//! Client of the kubelet's API: `GET /pods`, over one connection that stays open.

mod body;
mod connection;
mod inputs;
mod tls;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;
use tracing::{debug, info};

use self::connection::Connection;
use self::inputs::Inputs;
pub use self::inputs::InputsError;
use super::parse::ParseError;
use super::pods::Pods;

/// How to reach the kubelet, as configured.
#[derive(Debug, Clone)]
pub struct KubeletOptions {
    /// The port, and whether it speaks TLS.
    pub port: Port,
    /// A file of the authorities that may have signed the kubelet's certificate. `None`: any certificate is accepted.
    pub ca_path: Option<PathBuf>,
    /// How the agent authenticates to the kubelet. The read-only port needs nothing.
    pub auth: Auth,
    /// The node's name, which is the host to connect to, and the name that the kubelet's certificate must have.
    /// Without it the host is 127.0.0.1, and the certificate may have any name.
    pub node_name: Option<String>,
    /// Files are read again when they were read this long ago.
    pub reload_interval: Duration,
}

/// A port of the kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Plain HTTP on 127.0.0.1 (the read-only port).
    ReadOnly(u16),
    /// HTTPS (the secure port).
    Secure(u16),
}

/// How the agent authenticates to the kubelet.
#[derive(Debug, Clone)]
pub enum Auth {
    /// With the bearer token in this file.
    Token(PathBuf),
    /// With a client certificate: the files of its chain and of its key.
    Certificate(PathBuf, PathBuf),
    /// Not at all.
    Anonymous,
}

/// Why the kubelet gives no pod list.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A file cannot be used (yet).
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// No connection could be opened.
    #[error("unable to perform request: cannot connect to {address}: {source}")]
    Connect {
        /// `host:port`.
        address: String,
        /// The system's or TLS's reason.
        source: io::Error,
    },
    /// The connection broke.
    #[error("unable to perform request: {0}")]
    Request(#[from] hyper::Error),
    /// The kubelet refused the request, or failed.
    #[error("unexpected status code on pods response: {code} {body}{}", hint(*code))]
    Status {
        /// The HTTP status code.
        code: u16,
        /// The beginning of the response's body, at most 1 KiB.
        body: String,
    },
    /// The response is not a pod list.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The request took longer than ten seconds.
    #[error("unable to perform request: the kubelet did not answer within {}s", REQUEST_TIMEOUT.as_secs())]
    Slow,
    /// The task that parses the list was cancelled or has panicked.
    #[error("reading the pod list was interrupted")]
    Interrupted,
}

/// The client of the kubelet. It makes one request at a time.
#[derive(Debug)]
pub(super) struct Kubelet {
    options: KubeletOptions,
    inputs: Option<Inputs>,
    connection: Option<Connection>,
    rights_said: bool,
}

impl Kubelet {
    pub(super) fn new(options: KubeletOptions) -> Self {
        Self { options, inputs: None, connection: None, rights_said: false }
    }

    /// Requests the pods of the node. Pods of `before` that have not changed are shared. Dropping the future closes
    /// the connection.
    pub(super) async fn pods(&mut self, before: &Arc<Pods>) -> Result<Pods, KubeletError> {
        let answer = timeout(REQUEST_TIMEOUT, self.ask(before)).await.unwrap_or(Err(KubeletError::Slow));
        if answer.is_err() {
            self.connection = None;
        } else if !std::mem::replace(&mut self.rights_said, true) {
            tokio::spawn(say_rights(self.options.clone()));
        }
        answer
    }

    async fn ask(&mut self, before: &Arc<Pods>) -> Result<Pods, KubeletError> {
        self.reload(false)?;
        let mut response = self.get().await?;
        // A token that was rotated just now is read at once, before its interval is over.
        if response.status() == StatusCode::UNAUTHORIZED && self.reload(true)? {
            drained(response).await;
            response = self.get().await?;
        }
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        body::pods(response.into_body(), before).await
    }

    /// Reads the files again if it is time, or at once with `now`. Returns whether anything has changed.
    fn reload(&mut self, now: bool) -> Result<bool, InputsError> {
        if let Some(inputs) = self.inputs.as_ref().filter(|inputs| !now && !inputs.older_than(&self.options))
        {
            // The connection may have failed because of a certificate that was replaced since.
            if self.connection.is_some() || !inputs.outdated(&self.options) {
                return Ok(false);
            }
        }
        let fresh = Inputs::read(&self.options)?;
        let known = self.inputs.as_ref();
        if known.is_none_or(|known| !known.same_tls(&fresh)) {
            self.connection = None;
        }
        let changed = known.is_none_or(|known| *known != fresh);
        self.inputs = Some(fresh);
        Ok(changed)
    }

    async fn get(&mut self) -> Result<Response<Incoming>, KubeletError> {
        let Some(inputs) = &self.inputs else { return Err(KubeletError::Interrupted) };
        // The kubelet may have closed an idle connection. Only a new one can tell why.
        if let Some(kept) = self.connection.as_mut().filter(|kept| kept.is_open())
            && let Ok(response) = kept.send(request(PODS, kept, inputs)).await
        {
            return Ok(response);
        }
        let new = self.connection.insert(Connection::open(&self.options, inputs).await?);
        Ok(new.send(request(PODS, new, inputs)).await?)
    }
}

fn request(path: &'static str, connection: &Connection, inputs: &Inputs) -> Request<Empty<Bytes>> {
    let mut request = Request::get(path).header(header::HOST, connection.host());
    request = request.header(header::ACCEPT, "application/json");
    if let Some(token) = inputs.authorization() {
        request = request.header(header::AUTHORIZATION, token);
    }
    request.body(Empty::new()).expect("a constant path and checked headers")
}

/// By which right the list of pods is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// `nodes/pods`, which suffices from Kubernetes 1.33.
    Pods,
    /// `nodes/proxy`, which may do much more than read the list.
    Proxy,
}

/// Reads the list once, over a connection of its own. The caller sets a time limit.
///
/// # Errors
/// [`KubeletError`].
pub async fn probe(options: &KubeletOptions) -> Result<Pods, KubeletError> {
    Kubelet::new(options.clone()).ask(&Arc::default()).await
}

/// Finds out by which right the list is read; `None` where the kubelet asks for none or does not let it be told. The
/// caller sets a time limit.
pub async fn probe_right(options: &KubeletOptions) -> Option<Right> {
    match options.port {
        Port::ReadOnly(_) => None,
        Port::Secure(_) => right(options).await.ok()?.ok(),
    }
}

/// Finds out by which right the list was read, or else the status that does not tell. The kubelet guards logs of
/// containers by `nodes/proxy` alone, so an agent that may not ask for those (of a pod whose name cannot exist) has only
/// the narrower right.
async fn right(options: &KubeletOptions) -> Result<Result<Right, StatusCode>, KubeletError> {
    let inputs = Inputs::read(options)?;
    let mut connection = Connection::open(options, &inputs).await?;
    let request = request(GUARDED_BY_PROXY, &connection, &inputs);
    Ok(match connection.send(request).await?.status() {
        StatusCode::FORBIDDEN => Ok(Right::Pods),
        StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Ok(Right::Proxy),
        status => Err(status),
    })
}

/// Logs by which right the list was read. The log line comes from a task of its own, which delays nothing.
async fn say_rights(options: KubeletOptions) {
    if let Port::ReadOnly(_) = options.port {
        return;
    }
    match timeout(REQUEST_TIMEOUT, right(&options)).await {
        Ok(Ok(Ok(Right::Pods))) => info!("Kubelet access by the right to nodes/pods alone"),
        Ok(Ok(Ok(Right::Proxy))) => {
            info!(
                "Kubelet access by the right to nodes/proxy; with Kubernetes 1.33 or later, nodes/pods suffices"
            );
        }
        Ok(Ok(Err(status))) => debug!(%status, "Cannot tell by which right the kubelet was asked"),
        Ok(Err(reason)) => debug!(error = %reason, "Cannot tell by which right the kubelet was asked"),
        Err(_) => debug!("Cannot tell by which right the kubelet was asked"),
    }
}

async fn refusal(response: Response<Incoming>) -> KubeletError {
    let code = response.status().as_u16();
    let body = drained(response).await;
    let body = String::from_utf8_lossy(&body[..body.len().min(BODY_SHOWN)]).trim().to_owned();
    KubeletError::Status { code, body }
}

/// Reads a short body to its end, so that the connection can be used again. A long body is not worth that.
async fn drained(response: Response<Incoming>) -> Bytes {
    let body = Limited::new(response.into_body(), BODY_DRAINED).collect().await;
    body.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

fn hint(code: u16) -> &'static str {
    match code {
        401 => " (is token_path a token of this cluster?)",
        403 => " (the service account needs the right to get nodes/pods, before Kubernetes 1.33 nodes/proxy)",
        _ => "",
    }
}

/// The time limit of one request, with the list (SPIRE, `podlistfetcher.go`).
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const PODS: &str = "/pods";
const GUARDED_BY_PROXY: &str = "/containerLogs/-/-/-";
const BODY_SHOWN: usize = 1024;
const BODY_DRAINED: usize = 64 * 1024;
