//! The container runtime: the two calls of `runtime.v1.RuntimeService` that an agent makes, on a Unix socket. Both are
//! unary, so this module writes the gRPC frames and trailers itself.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Code;

use crate::server::Error;

/// A running container runtime. Dropping it ends it and removes its socket.
pub struct Runtime {
    shared: Arc<Shared>,
    socket: PathBuf,
    task: JoinHandle<()>,
}

/// A container of the runtime.
#[derive(Clone, Debug, Default)]
pub struct RuntimeContainer {
    /// The container's ID.
    pub id: String,
    /// The container's labels. Those that the kubelet sets name the pod.
    pub labels: HashMap<String, String>,
    /// The image's name in the pod's spec.
    pub image: String,
    /// The image's ID or digest.
    pub image_ref: String,
}

#[derive(Default)]
struct Shared {
    containers: Mutex<Vec<RuntimeContainer>>,
    failure: Mutex<Option<(Code, String)>>,
    calls: watch::Sender<Vec<String>>,
}

impl Runtime {
    /// Starts a runtime that listens at this path, which must not exist. It serves until it is dropped. Must be called
    /// within a tokio runtime.
    pub fn start(socket: &Path) -> Result<Self, Error> {
        let bound = UnixListener::bind(socket);
        let listener = bound.map_err(|source| Error::BindSocket { path: socket.to_owned(), source })?;
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { shared, socket: socket.to_owned(), task })
    }

    /// Sets the containers of the node.
    pub fn containers(&self, containers: &[RuntimeContainer]) {
        *self.shared.containers.lock().expect(HELD) = containers.to_vec();
    }

    /// Fails every call with this status from now on; `None` ends that.
    pub fn fail(&self, failure: Option<(Code, &str)>) {
        let failure = failure.map(|(code, message)| (code, message.to_owned()));
        *self.shared.failure.lock().expect(HELD) = failure;
    }

    /// The names of the methods called until now, in order.
    pub fn calls(&self) -> Vec<String> {
        self.shared.calls.borrow().clone()
    }

    /// Waits until there were `times` calls. It has no timeout of its own.
    pub async fn called(&self, times: usize) {
        let mut calls = self.shared.calls.subscribe();
        calls.wait_for(|calls| calls.len() >= times).await.expect("the sender is in self");
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl RuntimeContainer {
    /// A container that the kubelet has created for this pod.
    pub fn of_pod(id: &str, name: &str, image: &str, pod_uid: &str) -> Self {
        let labels = [("io.kubernetes.pod.uid", pod_uid), ("io.kubernetes.container.name", name)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            id: id.into(),
            labels: labels.into(),
            image: image.into(),
            image_ref: format!("{image}@sha256:{}", super::container_id(image)),
        }
    }

    fn listed(self) -> Listed {
        let image = Some(Image { image: self.image });
        Listed { id: self.id, image, image_ref: self.image_ref, state: RUNNING, labels: self.labels }
    }

    fn status(self) -> Status {
        let image = Some(Image { image: self.image });
        Status { id: self.id, state: RUNNING, image, image_ref: self.image_ref, labels: self.labels }
    }
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(connection(stream, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: UnixStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(response(shared.call(request).await)) }
    });
    // The error of a connection concerns only the client.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    async fn call(&self, request: Request<Incoming>) -> Result<Bytes, (Code, String)> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        self.calls.send_modify(|calls| calls.push(method.clone()));
        let body =
            request.into_body().collect().await.map_err(|reason| (Code::Internal, reason.to_string()))?;
        let mut message = body.to_bytes();
        if message.len() < PREFIX {
            return Err((Code::Internal, "no message".into()));
        }
        let message = message.split_off(PREFIX);
        if let Some(failure) = &*self.failure.lock().expect(HELD) {
            return Err(failure.clone());
        }
        let malformed = |reason: prost::DecodeError| (Code::InvalidArgument, reason.to_string());
        match &*method {
            "ContainerStatus" => self.status(&StatusRequest::decode(message).map_err(malformed)?),
            "ListContainers" => Ok(self.list(ListRequest::decode(message).map_err(malformed)?)),
            _ => Err((Code::Unimplemented, format!("unknown method {method}"))),
        }
    }

    fn status(&self, request: &StatusRequest) -> Result<Bytes, (Code, String)> {
        let id = &request.container_id;
        let containers = self.containers.lock().expect(HELD);
        let found = containers.iter().find(|container| container.id == *id).cloned();
        let found = found.ok_or_else(|| (Code::NotFound, format!("container {id:?} not found")))?;
        Ok(StatusResponse { status: Some(found.status()) }.encode_to_vec().into())
    }

    fn list(&self, request: ListRequest) -> Bytes {
        let filter = request.filter.unwrap_or_default();
        let wanted = |container: &&RuntimeContainer| {
            // Real runtimes match a shortened ID too.
            container.id.starts_with(&filter.id)
                && filter.label_selector.iter().all(|(key, value)| container.labels.get(key) == Some(value))
        };
        let containers = self.containers.lock().expect(HELD);
        let containers = containers.iter().filter(wanted).cloned().map(RuntimeContainer::listed).collect();
        ListResponse { containers }.encode_to_vec().into()
    }
}

fn response(
    outcome: Result<Bytes, (Code, String)>,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>> {
    let mut trailers = HeaderMap::new();
    let (code, message, body) = match outcome {
        Ok(message) => {
            let mut framed = BytesMut::with_capacity(PREFIX + message.len());
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).expect("a small message"));
            framed.put(message);
            (Code::Ok, String::new(), framed.freeze())
        }
        Err((code, message)) => (code, message, Bytes::new()),
    };
    trailers.insert("grpc-status", i32::from(code).into());
    if let Ok(message) = message.parse() {
        trailers.insert("grpc-message", message);
    }
    let body = Full::new(body).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body).expect("constant headers")
}

/// `runtime.v1.ListContainersRequest`. This message and those below are parts of `cri-api`'s `api.proto`.
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

/// `runtime.v1.Container`.
#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(string, tag = "5")]
    image_ref: String,
    #[prost(int32, tag = "6")]
    state: i32,
    #[prost(map = "string, string", tag = "8")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

/// `runtime.v1.ContainerStatus`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(message, optional, tag = "8")]
    image: Option<Image>,
    #[prost(string, tag = "9")]
    image_ref: String,
    #[prost(map = "string, string", tag = "12")]
    labels: HashMap<String, String>,
}

/// `runtime.v1.ImageSpec`.
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

/// `CONTAINER_RUNNING`.
const RUNNING: i32 = 1;
/// The length of gRPC's prefix: a compression flag and four bytes of length.
const PREFIX: usize = 5;
const HELD: &str = "nobody panics with it in hand";
