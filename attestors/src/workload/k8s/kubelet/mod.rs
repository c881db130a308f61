//! The kubelet's API: `GET /pods`, over one connection that is kept.

mod body;
mod connection;
mod inputs;

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
    /// Whom to trust for its certificate; `None`: whoever answers.
    pub ca_path: Option<PathBuf>,
    /// How to say who we are; on the read-only port nobody asks.
    pub auth: Auth,
    /// The node's name: where to connect to, and the name that its certificate must have. Without, it is 127.0.0.1, and
    /// its certificate may have any name.
    pub node_name: Option<String>,
    /// Files are read anew when they were read this long ago.
    pub reload_interval: Duration,
}

/// Which of the kubelet's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Plain HTTP on 127.0.0.1.
    ReadOnly(u16),
    /// HTTPS.
    Secure(u16),
}

/// Who we are to the kubelet.
#[derive(Debug, Clone)]
pub enum Auth {
    /// The bearer of the token in this file.
    Token(PathBuf),
    /// The holder of a client certificate: its file, and that of its key.
    Certificate(PathBuf, PathBuf),
    /// Nobody.
    Anonymous,
}

/// Why there is no pod list.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// A file cannot be used (yet).
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// No connection.
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
    /// The kubelet refuses, or fails.
    #[error("unexpected status code on pods response: {code} {body}{}", hint(*code))]
    Status {
        /// Of HTTP.
        code: u16,
        /// What it says, at most 1 KiB.
        body: String,
    },
    /// What it sent is no pod list.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It takes longer than ten seconds.
    #[error("unable to perform request: the kubelet did not answer within {}s", REQUEST_TIMEOUT.as_secs())]
    Slow,
    /// The worker that reads the list is gone.
    #[error("reading the pod list was interrupted")]
    Interrupted,
}

/// The client. One request at a time.
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

    /// The pods of the node now. Those of `before` that have not changed are shared. Dropping the future closes the
    /// connection.
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
        // A token that was rotated a moment ago need not wait for its interval.
        if response.status() == StatusCode::UNAUTHORIZED && self.reload(true)? {
            drained(response).await;
            response = self.get().await?;
        }
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        body::pods(response.into_body(), before).await
    }

    /// Reads the files again if it is time. Says whether anything is new.
    fn reload(&mut self, now: bool) -> Result<bool, InputsError> {
        if let Some(inputs) = self.inputs.as_ref().filter(|inputs| !now && !inputs.older_than(&self.options))
        {
            // A connection that failed may have failed for a certificate that has been replaced since.
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
        // One that was idle may have been closed by the kubelet; only a new one can say why.
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

/// Says which right the list was read with. The kubelet does not tell; but logs of containers it guards by `nodes/proxy`
/// alone, so who may not ask for those (of a pod that no name allows) has the narrower right only. Nobody waits for it.
async fn say_rights(options: KubeletOptions) {
    if let Port::ReadOnly(_) = options.port {
        return;
    }
    let ask = async {
        let inputs = Inputs::read(&options)?;
        let mut connection = Connection::open(&options, &inputs).await?;
        let request = request(GUARDED_BY_PROXY, &connection, &inputs);
        Ok::<_, KubeletError>(connection.send(request).await?.status())
    };
    match timeout(REQUEST_TIMEOUT, ask).await {
        Ok(Ok(StatusCode::FORBIDDEN)) => info!("Kubelet access by the right to nodes/pods alone"),
        Ok(Ok(StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)) => {
            info!(
                "Kubelet access by the right to nodes/proxy; with Kubernetes 1.33 or later, nodes/pods suffices"
            );
        }
        Ok(Ok(status)) => debug!(%status, "Cannot tell by which right the kubelet was asked"),
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

/// A short body; a long one is not worth the connection.
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

/// Of one request, the list included (SPIRE, `podlistfetcher.go`).
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const PODS: &str = "/pods";
const GUARDED_BY_PROXY: &str = "/containerLogs/-/-/-";
const BODY_SHOWN: usize = 1024;
const BODY_DRAINED: usize = 64 * 1024;
