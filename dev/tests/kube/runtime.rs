//! The container runtime, by a tonic client.

use std::collections::HashMap;
use std::path::Path;

use bytes::{Buf, BufMut};
use dev::kube::{Runtime, RuntimeContainer, container_id};
use hyper_util::rt::TokioIo;
use libtest_mimic::Trial;
use prost::Message;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::{Outcome, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("runtime_tells_status_and_list", status_and_list),
        trial("runtime_fails_when_told_to", fails_when_told_to),
        trial("runtime_is_gone_when_dropped", gone_when_dropped),
    ]
}

async fn status_and_list() -> Outcome {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("cri.sock");
    let runtime = Runtime::start(&socket)?;
    let (main, other) = (container_id("main"), container_id("other"));
    runtime.containers(&[
        RuntimeContainer::of_pod(&main, "main", "img:1", "uid-1"),
        RuntimeContainer::of_pod(&other, "other", "img:2", "uid-2"),
    ]);
    let status = status(&socket, &main).await?;
    let status = status.status.ok_or("no status")?;
    assert_eq!((&status.id, status.image.map(|i| i.image)), (&main, Some("img:1".into())));
    assert!(status.image_ref.starts_with("img:1@sha256:"));
    assert_eq!(status.labels["io.kubernetes.pod.uid"], "uid-1");
    assert_eq!(status.labels["io.kubernetes.container.name"], "main");
    let unknown = self::status(&socket, &container_id("unknown")).await.expect_err("a refusal");
    assert_eq!(unknown.code(), Code::NotFound);

    let ids = async |filter| -> Result<Vec<_>, Status> {
        let answer: ListResponse =
            call(&socket, "ListContainers", ListRequest { filter: Some(filter) }).await?;
        Ok(answer.containers.into_iter().map(|container| container.id).collect())
    };
    assert_eq!(ids(Filter::default()).await?, [main.clone(), other.clone()]);
    assert_eq!(ids(Filter { id: other.clone(), ..Filter::default() }).await?, [other]);
    let label = HashMap::from([("io.kubernetes.pod.uid".to_owned(), "uid-1".to_owned())]);
    assert_eq!(ids(Filter { label_selector: label, ..Filter::default() }).await?, [main]);
    runtime.called(5).await;
    assert_eq!(runtime.calls()[..3], ["ContainerStatus", "ContainerStatus", "ListContainers"]);
    Ok(())
}

async fn fails_when_told_to() -> Outcome {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("cri.sock");
    let runtime = Runtime::start(&socket)?;
    runtime.fail(Some((Code::Unavailable, "restarting")));
    let failure = status(&socket, "any").await.expect_err("a refusal");
    assert_eq!((failure.code(), failure.message()), (Code::Unavailable, "restarting"));
    runtime.fail(None);
    assert_eq!(status(&socket, "any").await.expect_err("a refusal").code(), Code::NotFound);
    let unknown: Result<StatusResponse, _> = call(&socket, "Version", StatusRequest::default()).await;
    assert_eq!(unknown.expect_err("a refusal").code(), Code::Unimplemented);
    Ok(())
}

async fn gone_when_dropped() -> Outcome {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("cri.sock");
    drop(Runtime::start(&socket)?);
    assert!(!socket.exists());
    drop(Runtime::start(&socket)?);
    Ok(())
}

async fn status(socket: &Path, id: &str) -> Result<StatusResponse, Status> {
    call(socket, "ContainerStatus", StatusRequest { container_id: id.into() }).await
}

async fn call<Q, A>(socket: &Path, method: &str, message: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel(socket).await);
    grpc.ready().await.map_err(|reason| Status::unavailable(reason.to_string()))?;
    let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().expect("a path");
    Ok(grpc.unary(Request::new(message), path, Prost::default()).await?.into_inner())
}

async fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let dial = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(dial)
}

struct Prost<Q, A>(std::marker::PhantomData<(Q, A)>);

impl<Q, A> Default for Prost<Q, A> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<Q: Message + 'static, A: Message + Default + 'static> Codec for Prost<Q, A> {
    type Encode = Q;
    type Decode = A;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<Q: Message, A> Encoder for Prost<Q, A> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, message: Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(&*message.encode_to_vec());
        Ok(())
    }
}

impl<Q, A: Message + Default> Decoder for Prost<Q, A> {
    type Item = A;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        let message = buffer.copy_to_bytes(buffer.remaining());
        A::decode(message).map(Some).map_err(|reason| Status::internal(reason.to_string()))
    }
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "8")]
    image: Option<Image>,
    #[prost(string, tag = "9")]
    image_ref: String,
    #[prost(map = "string, string", tag = "12")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListRequest {
    #[prost(message, optional, tag = "1")]
    filter: Option<Filter>,
}

#[derive(Clone, PartialEq, Message)]
struct Filter {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(map = "string, string", tag = "4")]
    label_selector: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<Listed>,
}

#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(string, tag = "1")]
    id: String,
}
