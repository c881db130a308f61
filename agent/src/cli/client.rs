//! A client of the agent's sockets, and its errors in the form of grpc-go.

use std::fmt;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{X509svidRequest, X509svidResponse};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};

use crate::golang;

/// Connects to the socket and waits for the server's first bytes: a process that accepts and stays silent is not an
/// agent.
///
/// # Errors
/// If nobody listens, the backlog is full, or nothing is received within [`CONNECT_LIMIT`].
pub(super) async fn connect(path: &Path) -> Result<Channel, RpcError> {
    timeout(CONNECT_LIMIT, dial(path)).await.unwrap_or(Err(RpcError::Mute))
}

async fn dial(path: &Path) -> Result<Channel, RpcError> {
    let dial = |source| RpcError::Dial { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).await.map_err(dial)?;
    let twin = twin(&stream).map_err(dial)?;
    let mut stream = Some(stream);
    // There is only one connection: a client command that loses it ends, or connects again itself.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take();
        async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    let channel =
        channel.map_err(|reason| RpcError::Status(Status::unavailable(reason.to_string()).into()))?;
    // Awaited after we have sent our preface, because a server may wait for that. The server's SETTINGS make the socket
    // readable, and so does its end.
    twin.readable().await.map_err(dial)?;
    Ok(channel)
}

/// A duplicate of the socket, because the channel does not tell when the first bytes arrive.
fn twin(stream: &UnixStream) -> io::Result<UnixStream> {
    UnixStream::from_std(unix::UnixStream::from(stream.as_fd().try_clone_to_owned()?))
}

/// Opens a stream of X.509-SVIDs.
///
/// # Errors
/// The agent's status.
pub(super) async fn x509_svids(channel: Channel) -> Result<Streaming<X509svidResponse>, RpcError> {
    Ok(workload(channel).fetch_x509svid(request(X509svidRequest {})).await?.into_inner())
}

/// A client of the Workload API, which takes answers of any size.
pub(super) fn workload(channel: Channel) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// A request of the Workload API.
pub(super) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    // An agent refuses calls without this header (SPIFFE Workload Endpoint §3).
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// Waits for the next message of a stream.
///
/// # Errors
/// The status that ends the stream, or [`RpcError::End`].
pub(super) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, RpcError> {
    stream.message().await?.ok_or(RpcError::End)
}

/// Limits the duration of `work` to `limit`, if there is one.
///
/// # Errors
/// The error of `work`, or [`RpcError::Deadline`].
pub(super) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    match limit {
        None => work.await,
        Some(limit) => timeout(limit, work).await.unwrap_or(Err(RpcError::Deadline)),
    }
}

/// Why a call failed. `Display` writes what grpc-go does, because scripts read it.
#[derive(Debug)]
pub(super) enum RpcError {
    /// The socket cannot be connected.
    Dial { path: PathBuf, source: io::Error },
    /// The server accepts the connection but sends nothing.
    Mute,
    /// The agent answered with this status, or the connection failed.
    Status(Box<Status>),
    /// The call took longer than its limit.
    Deadline,
    /// The user interrupted the command.
    Canceled,
    /// The stream ended without an error.
    End,
}

impl RpcError {
    /// The status code that grpc-go has for this error.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Dial { .. } | Self::Mute => Code::Unavailable,
            Self::Status(status) => status.code(),
            Self::Deadline => Code::DeadlineExceeded,
            Self::Canceled => Code::Cancelled,
            Self::End => Code::Unknown,
        }
    }
}

impl From<Status> for RpcError {
    fn from(status: Status) -> Self {
        Self::Status(status.into())
    }
}

impl std::error::Error for RpcError {}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let description = match self {
            Self::Dial { path, source } => format!(
                "connection error: desc = \"transport: Error while dialing: dial unix {}: connect: {}\"",
                path.display(),
                golang::os_error(source)
            ),
            Self::Mute => {
                "connection error: desc = \"error reading server preface: context deadline exceeded\""
                    .to_owned()
            }
            Self::Status(status) => status.message().to_owned(),
            Self::Deadline => "context deadline exceeded".to_owned(),
            Self::Canceled => "context canceled".to_owned(),
            Self::End => return f.write_str("EOF"),
        };
        let code = match self.code() {
            Code::Ok => "OK".to_owned(),
            Code::Cancelled => "Canceled".to_owned(),
            code => format!("{code:?}"),
        };
        write!(f, "rpc error: code = {code} desc = {description}")
    }
}

/// How long grpc-go waits for a connection and the server's first bytes.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
pub(super) mod tests;
