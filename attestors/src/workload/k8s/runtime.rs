//! Client of the container runtime's socket (CRI v1). The runtime knows a container as soon as it is made, long
//! before the kubelet publishes it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::pods::ContainerStatus;

/// The client of the container runtime.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    channel: Channel,
}

/// A container of a pod, as its runtime describes it.
#[derive(Debug)]
pub(super) struct RuntimeContainer {
    /// The UID of the pod that the kubelet made it for.
    pub(super) pod_uid: String,
    /// The status that the kubelet will publish.
    pub(super) status: ContainerStatus,
}

/// Asks the container runtime for a container that cannot exist. The caller sets a time limit.
///
/// # Errors
/// The status of an answer other than that there is none.
pub async fn probe(socket: PathBuf) -> Result<(), Status> {
    match Runtime::new(socket).container(NO_CONTAINER).await {
        Err(reason) if reason.code() != tonic::Code::NotFound => Err(reason),
        _ => Ok(()),
    }
}

impl Runtime {
    /// Makes a client, which connects when it is first used.
    pub(super) fn new(socket: PathBuf) -> Self {
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // No address is looked up for a Unix socket; the runtime sees this one as `:authority`.
        let endpoint = Endpoint::from_static("http://localhost").timeout(TIMEOUT).connect_timeout(TIMEOUT);
        Self { channel: endpoint.connect_with_connector_lazy(connect) }
    }

    /// Asks for a container. `None` if it belongs to no pod.
    pub(super) async fn container(&self, id: &str) -> Result<Option<RuntimeContainer>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        grpc.ready().await.map_err(|reason| Status::unavailable(reason.to_string()))?;
        let request = StatusRequest { container_id: id.to_owned() };
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/ContainerStatus");
        let response = grpc.unary(Request::new(request), path, ProstCodec::default()).await;
        let response: StatusResponse = response?.into_inner();
        Ok(response.status.and_then(RuntimeStatus::into_container))
    }
}

impl RuntimeStatus {
    /// Makes the status in the way the kubelet does (`kuberuntime_container.go`).
    fn into_container(mut self) -> Option<RuntimeContainer> {
        let pod_uid = self.labels.remove(POD_UID)?;
        let name = self.labels.remove(CONTAINER_NAME)?;
        let image = self.image.map(|image| image.image).unwrap_or_default();
        let status = ContainerStatus {
            name: name.into(),
            image: image.into(),
            image_id: self.image_ref.into(),
            id: self.id.into(),
        };
        Some(RuntimeContainer { pod_uid, status })
    }
}

/// `runtime.v1.ContainerStatusRequest` in `api.proto` of `cri-api`, like the messages below.
#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

/// `runtime.v1.ContainerStatusResponse`.
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

/// `runtime.v1.ContainerStatus`.
#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "8")]
    image: Option<ImageSpec>,
    #[prost(string, tag = "9")]
    image_ref: String,
    #[prost(map = "string, string", tag = "12")]
    labels: HashMap<String, String>,
}

/// `runtime.v1.ImageSpec`.
#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

/// An ID in the form that runtimes give, which none of them has.
const NO_CONTAINER: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// The runtime answers within a millisecond. If it does not, it is in trouble and the kubelet publishes sooner.
const TIMEOUT: Duration = Duration::from_secs(1);
const MESSAGE_LIMIT: usize = 1 << 20;
