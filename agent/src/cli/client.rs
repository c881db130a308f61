//! A client of the agent's public socket, and its errors as grpc-go prints them.

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

use super::golang;

/// A connection to the socket, once the other end has said something: whoever accepts and stays mute is no agent.
///
/// # Errors
/// When nobody listens there, no more callers are taken at the moment, or nothing is heard for [`CONNECT_LIMIT`].
pub(super) async fn connect(path: &Path) -> Result<Channel, RpcError> {
    timeout(CONNECT_LIMIT, dial(path)).await.unwrap_or(Err(RpcError::Mute))
}

async fn dial(path: &Path) -> Result<Channel, RpcError> {
    let dial = |source| RpcError::Dial { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).await.map_err(dial)?;
    let twin = twin(&stream).map_err(dial)?;
    let mut stream = Some(stream);
    // One connection: a client command that loses it is over, or starts anew.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take();
        async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    let channel =
        channel.map_err(|reason| RpcError::Status(Status::unavailable(reason.to_string()).into()))?;
    // Now that we have spoken: a server may wait for that. Its settings make this readable, and so does its end.
    twin.readable().await.map_err(dial)?;
    Ok(channel)
}

/// The same socket once more, for the connection does not tell when it hears the first word.
fn twin(stream: &UnixStream) -> io::Result<UnixStream> {
    UnixStream::from_std(unix::UnixStream::from(stream.as_fd().try_clone_to_owned()?))
}

/// Opens a stream of X.509-SVIDs.
///
/// # Errors
/// The agent's status.
pub(super) async fn x509_svids(channel: Channel) -> Result<Streaming<X509svidResponse>, RpcError> {
    let mut request = Request::new(X509svidRequest {});
    // Without it an agent refuses: it keeps out browsers and the like (Workload Endpoint §4.1).
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(usize::MAX);
    Ok(client.fetch_x509svid(request).await?.into_inner())
}

/// The next message of a stream.
///
/// # Errors
/// The status that ends the stream.
pub(super) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, RpcError> {
    stream.message().await?.ok_or(RpcError::End)
}

/// Gives up after `limit`, if there is one.
///
/// # Errors
/// Those of the work, and [`RpcError::Deadline`].
pub(super) async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, RpcError>>,
) -> Result<T, RpcError> {
    match limit {
        None => work.await,
        Some(limit) => timeout(limit, work).await.unwrap_or(Err(RpcError::Deadline)),
    }
}

/// Why a call failed. Displayed as grpc-go does, because scripts read it.
#[derive(Debug)]
pub(super) enum RpcError {
    /// Nobody listens.
    Dial { path: PathBuf, source: io::Error },
    /// Somebody takes the connection and says nothing.
    Mute,
    /// The agent says no, or the connection broke.
    Status(Box<Status>),
    /// It took too long.
    Deadline,
    /// The user has had enough.
    Canceled,
    /// The stream ended before it said anything.
    End,
}

impl RpcError {
    /// The status code, as far as there is one.
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

/// As long as grpc-go waits for a connection and the server's first word.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
pub(super) mod tests;
