//! The container runtime's socket (CRI v1): it knows a container from the moment that it is made, long before the
//! kubelet publishes it.

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

/// The client.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    channel: Channel,
}

/// A container as its runtime knows it.
#[derive(Debug)]
pub(super) struct Known {
    /// The pod that the kubelet made it for.
    pub(super) pod_uid: String,
    /// What the kubelet will publish.
    pub(super) status: ContainerStatus,
}

impl Runtime {
    /// Connects when it is first asked.
    pub(super) fn new(socket: PathBuf) -> Self {
        let connect = service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // Over a Unix socket no address is looked up; the runtime gets this as `:authority`.
        let endpoint = Endpoint::from_static("http://localhost").timeout(TIMEOUT).connect_timeout(TIMEOUT);
        Self { channel: endpoint.connect_with_connector_lazy(connect) }
    }

    /// What the runtime knows of a container; `None` for one that is no pod's.
    pub(super) async fn container(&self, id: &str) -> Result<Option<Known>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT);
        grpc.ready().await.map_err(|reason| Status::unavailable(reason.to_string()))?;
        let request = StatusRequest { container_id: id.to_owned() };
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/ContainerStatus");
        let response = grpc.unary(Request::new(request), path, ProstCodec::default()).await;
        let response: StatusResponse = response?.into_inner();
        Ok(response.status.and_then(RuntimeStatus::known))
    }
}

impl RuntimeStatus {
    /// As the kubelet makes a status of it (`kuberuntime_container.go`).
    fn known(mut self) -> Option<Known> {
        let pod_uid = self.labels.remove(POD_UID)?;
        let name = self.labels.remove(CONTAINER_NAME)?;
        let image = self.image.map(|image| image.image).unwrap_or_default();
        let status = ContainerStatus {
            name: name.into(),
            image: image.into(),
            image_id: self.image_ref.into(),
            id: self.id.into(),
        };
        Some(Known { pod_uid, status })
    }
}

/// `runtime.v1.ContainerStatusRequest`, of `cri-api`'s `api.proto`, as are those below.
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

const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// It answers within a millisecond, or it is in trouble and the kubelet is quicker to publish.
const TIMEOUT: Duration = Duration::from_secs(1);
const MESSAGE_LIMIT: usize = 1 << 20;
