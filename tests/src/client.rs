//! Clients of the agent's sockets.

use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use hyper_util::rt::TokioIo;
use proto::health::health_client::HealthClient;
use proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// Connects to a socket.
///
/// # Panics
/// If nobody listens.
pub async fn channel(socket: &Path) -> Channel {
    connect(socket, Endpoint::from_static("http://localhost")).await
}

/// Connects with flow-control windows so small that a stream which is not read blocks the agent at once.
///
/// # Panics
/// If nobody listens.
pub async fn narrow_channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_static("http://localhost");
    connect(socket, endpoint.initial_stream_window_size(1024).initial_connection_window_size(65_535)).await
}

async fn connect(socket: &Path, endpoint: Endpoint) -> Channel {
    let socket: PathBuf = socket.to_owned();
    let connect = move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    endpoint.connect_with_connector(tower::service_fn(connect)).await.expect("the socket is served")
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("ASCII"));
    request
}

/// Calls FetchX509SVID.
///
/// # Errors
/// The agent's status.
pub async fn x509_svid(socket: &Path) -> Result<Streaming<X509svidResponse>, Status> {
    let mut client = SpiffeWorkloadApiClient::new(channel(socket).await);
    Ok(client.fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner())
}

/// Calls FetchX509SVID on an open channel.
///
/// # Errors
/// The agent's status.
pub async fn x509_svid_on(channel: &Channel) -> Result<Streaming<X509svidResponse>, Status> {
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    Ok(client.fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner())
}

/// Calls FetchJWTSVID on an open channel. An empty SPIFFE ID asks for all identities.
///
/// # Errors
/// The agent's status.
pub async fn jwt_svid_on(
    channel: &Channel,
    audience: &[&str],
    spiffe_id: &str,
) -> Result<JwtsvidResponse, Status> {
    let audience = audience.iter().map(ToString::to_string).collect();
    let request = JwtsvidRequest { audience, spiffe_id: spiffe_id.into() };
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    Ok(client.fetch_jwtsvid(with_header(request)).await?.into_inner())
}

/// Calls ValidateJWTSVID on an open channel.
///
/// # Errors
/// The agent's status.
pub async fn validate_jwt_on(
    channel: &Channel,
    audience: &str,
    svid: &str,
) -> Result<ValidateJwtsvidResponse, Status> {
    let request = ValidateJwtsvidRequest { audience: audience.into(), svid: svid.into() };
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    Ok(client.validate_jwtsvid(with_header(request)).await?.into_inner())
}

/// Calls FetchJWTBundles.
///
/// # Errors
/// The agent's status.
pub async fn jwt_bundles(socket: &Path) -> Result<Streaming<JwtBundlesResponse>, Status> {
    let mut client = SpiffeWorkloadApiClient::new(channel(socket).await);
    Ok(client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await?.into_inner())
}

/// Calls FetchX509Bundles.
///
/// # Errors
/// The agent's status.
pub async fn x509_bundles(socket: &Path) -> Result<Streaming<X509BundlesResponse>, Status> {
    let mut client = SpiffeWorkloadApiClient::new(channel(socket).await);
    Ok(client.fetch_x509_bundles(with_header(X509BundlesRequest {})).await?.into_inner())
}

/// Whether the agent's gRPC health is SERVING.
///
/// # Panics
/// If there is no answer.
pub async fn health(socket: &Path) -> bool {
    let mut client = HealthClient::new(channel(socket).await);
    let answer = client.check(proto::health::HealthCheckRequest::default()).await.expect("health answers");
    answer.get_ref().status() == proto::health::health_check_response::ServingStatus::Serving
}

/// An SDS stream. Its messages are the types of Envoy's own protobuf definitions.
#[derive(Debug)]
pub struct Sds {
    send: mpsc::Sender<DiscoveryRequest>,
    receive: Streaming<DiscoveryResponse>,
}

impl Sds {
    /// Opens a stream with its first request.
    ///
    /// # Errors
    /// The agent's status.
    pub async fn open(socket: &Path, first: DiscoveryRequest) -> Result<Self, Status> {
        Self::open_on(channel(socket).await, first).await
    }

    /// Opens a stream with its first request on an open channel.
    ///
    /// # Errors
    /// The agent's status.
    pub async fn open_on(channel: Channel, first: DiscoveryRequest) -> Result<Self, Status> {
        let mut client =
            SecretDiscoveryServiceClient::new(channel).max_encoding_message_size(64 * 1024 * 1024);
        let (send, outbound) = mpsc::channel(16);
        send.send(first).await.map_err(|_| Status::internal("closed"))?;
        let receive = client.stream_secrets(ReceiverStream::new(outbound)).await?.into_inner();
        Ok(Self { send, receive })
    }

    /// Sends a request.
    ///
    /// # Panics
    /// If the stream has ended.
    pub async fn send(&self, request: DiscoveryRequest) {
        self.send.send(request).await.expect("the stream is open");
    }

    /// Waits for the next response.
    ///
    /// # Errors
    /// The status that ended the stream.
    pub async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        self.receive.message().await?.ok_or_else(|| Status::ok("the stream ended"))
    }

    /// Waits for the next response, acknowledges it, and returns its secrets.
    ///
    /// # Errors
    /// As [`Sds::next`].
    pub async fn secrets(&mut self, names: &[&str]) -> Result<Vec<Secret>, Status> {
        use tonic::codegen::Bytes;
        let response = self.next().await?;
        let ack = DiscoveryRequest {
            version_info: response.version_info,
            response_nonce: response.nonce,
            ..sds_request(names)
        };
        self.send(ack).await;
        let decode = |any: envoy_types::pb::google::protobuf::Any| {
            <Secret as prost::Message>::decode(Bytes::from(any.value))
                .map_err(|e| Status::internal(e.to_string()))
        };
        response.resources.into_iter().map(decode).collect()
    }
}

/// A request for secrets with these names.
#[must_use]
pub fn sds_request(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".into(),
        ..DiscoveryRequest::default()
    }
}
