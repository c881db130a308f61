//! The API server: lists and watches of pods and namespaces, authenticated by service account tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::{Request, StatusCode, Uri, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::body::{self, Answer};
use super::door::{Answers, Door};
use super::objects::{Objects, failure};
use super::requests::{ReceivedRequest, Requests};
use super::watches::{Selection, error};
use super::{Authority, Pod};
use crate::server::Error;

/// A running API server. A test controls it by its methods, which take effect at once.
pub struct ApiServer {
    shared: Arc<Shared>,
    authority: Authority,
    door: Door,
}

/// A kind of object that the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// `pods`.
    Pods,
    /// `namespaces`.
    Namespaces,
}

struct Shared {
    objects: Mutex<Objects>,
    tokens: Mutex<BTreeSet<String>>,
    /// The status with which requests for a resource are refused.
    refused: Mutex<BTreeMap<Resource, u16>>,
    requests: Requests,
}

impl ApiServer {
    /// Starts a server with an authority of its own, which accepts the token `token`. It serves until it is dropped.
    pub fn start() -> Result<Self, Error> {
        let authority = Authority::new()?;
        let shared = Arc::new(Shared {
            objects: Mutex::new(Objects::new()),
            tokens: Mutex::new(BTreeSet::from([TOKEN.to_owned()])),
            refused: Mutex::default(),
            requests: Requests::default(),
        });
        let tls = authority.server(&["127.0.0.1".into(), "kubernetes".into()], &authority)?;
        let door = Door::open(Some(tls), Arc::clone(&shared))?;
        Ok(Self { shared, authority, door })
    }

    /// The address and port that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// The authority that signs the server's certificate.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A kubeconfig for this server with the token `token`.
    pub fn kubeconfig(&self) -> String {
        let authority = STANDARD.encode(self.authority.pem());
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "dev",
            "clusters": [{ "name": "dev", "cluster": {
                "server": format!("https://{}", self.address()), "certificate-authority-data": authority } }],
            "users": [{ "name": "agent", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "dev", "context": { "cluster": "dev", "user": "agent" } }],
        })
        .to_string()
    }

    /// Closes the port and cuts every connection.
    pub async fn down(&self) {
        self.door.set_open(false).await;
        self.shared.objects().watches.end();
    }

    /// Opens the port again.
    pub async fn up(&self) {
        self.door.set_open(true).await;
    }

    /// Accepts one more token.
    pub fn accept_token(&self, token: &str) {
        self.shared.tokens.lock().expect(HELD).insert(token.into());
    }

    /// Stops accepting a token.
    pub fn refuse_token(&self, token: &str) {
        self.shared.tokens.lock().expect(HELD).remove(token);
    }

    /// Refuses requests for a resource with this HTTP status from now on; `None` ends that.
    pub fn refuse(&self, resource: Resource, status: Option<u16>) {
        let mut refused = self.shared.refused.lock().expect(HELD);
        match status {
            Some(status) => refused.insert(resource, status),
            None => refused.remove(&resource),
        };
    }

    /// All requests until now.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.requests.all()
    }

    /// Waits until a path was listed or read `times` times, and returns these requests. It has no timeout of its own.
    pub async fn listed(&self, path: &str, times: usize) -> Vec<ReceivedRequest> {
        self.shared.requests.wait(times, |asked| asked.path == path && !is_watch(&asked.query)).await
    }

    /// Waits until a path was watched `times` times, and returns these requests. It has no timeout of its own.
    pub async fn watched(&self, path: &str, times: usize) -> Vec<ReceivedRequest> {
        self.shared.requests.wait(times, |asked| asked.path == path && is_watch(&asked.query)).await
    }
}

/// Objects and watches.
impl ApiServer {
    /// Adds or changes a pod, and notifies watches.
    pub fn apply_pod(&self, pod: &Pod) {
        self.shared.objects().apply(Resource::Pods, pod.json());
    }

    /// Deletes a pod, and notifies watches.
    pub fn delete_pod(&self, pod: &Pod) {
        self.shared.objects().delete(Resource::Pods, &pod.json());
    }

    /// Adds or changes a namespace, and notifies watches.
    pub fn apply_namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let namespace =
            json!({ "metadata": { "name": name, "labels": labels }, "status": { "phase": "Active" } });
        self.shared.objects().apply(Resource::Namespaces, namespace);
    }

    /// Deletes a namespace, and notifies watches.
    pub fn delete_namespace(&self, name: &str) {
        self.shared.objects().delete(Resource::Namespaces, &json!({ "metadata": { "name": name } }));
    }

    /// Sends a bookmark with the newest version to all watches.
    pub fn bookmark(&self) {
        self.shared.objects().bookmark();
    }

    /// Ends all watches, as the real server does after a while. Clients can continue from the version that they have
    /// seen.
    pub fn cut_watches(&self) {
        self.shared.objects().watches.end();
    }

    /// Ends all watches with 410 Gone. Clients must list again.
    pub fn expire_watches(&self) {
        self.shared.objects().expire();
    }
}

impl Resource {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
        }
    }
}

impl Answers for Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, _: Option<Arc<str>>) -> Answer {
        self.requests.add(request.uri());
        if !self.knows(&request) {
            return refusal(&failure(401, "Unauthorized", "Unauthorized"));
        }
        let path = request.uri().path();
        let (resource, name) = match path.strip_prefix("/api/v1/").map(|path| path.split_once('/')) {
            Some(None) if path.ends_with("/pods") => (Resource::Pods, None),
            Some(None) if path.ends_with("/namespaces") => (Resource::Namespaces, None),
            Some(Some(("namespaces", name))) => (Resource::Namespaces, Some(name)),
            _ => return body::text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        if let Some(refusal) = self.refused(resource) {
            return refusal;
        }
        let selection = selection(&request, resource);
        match name {
            Some(name) => self.get(&selection, name),
            None if is_watch(request.uri().query().unwrap_or_default()) => {
                self.watch(selection, request.uri())
            }
            None => body::value(StatusCode::OK, &self.objects().list(&selection)),
        }
    }
}

impl Shared {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect(HELD)
    }

    fn knows(&self, request: &Request<Incoming>) -> bool {
        let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| self.tokens.lock().expect(HELD).contains(token))
    }

    fn refused(&self, resource: Resource) -> Option<Answer> {
        let status = *self.refused.lock().expect(HELD).get(&resource)?;
        let what = resource.kind().to_lowercase();
        let (reason, message) = match status {
            403 => (
                "Forbidden",
                format!(
                    "{what}s is forbidden: User \"system:serviceaccount:spire:spire-agent\" cannot read resource \"{what}s\" in API group \"\" at the cluster scope"
                ),
            ),
            _ => ("InternalError", "an error on the server has prevented the request from succeeding".into()),
        };
        Some(refusal(&failure(status, reason, &message)))
    }

    fn get(&self, selection: &Selection, name: &str) -> Answer {
        match self.objects().get(selection.resource, name) {
            Some(object) => body::value(StatusCode::OK, &selection.shown(object)),
            None => refusal(&failure(404, "NotFound", &format!("namespaces {name:?} not found"))),
        }
    }

    fn watch(&self, selection: Selection, uri: &Uri) -> Answer {
        let mut objects = self.objects();
        let seen = parameter(uri, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        match objects.since(&selection, seen) {
            Ok(first) => body::lines(objects.watches.open(selection, first)),
            // The real server also sends this error in the stream, not as a status.
            Err(refusal) => {
                let (message, messages) = mpsc::unbounded_channel();
                let _ = message.send(error(&refusal));
                body::lines(messages)
            }
        }
    }
}

fn selection(request: &Request<Incoming>, resource: Resource) -> Selection {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let fields = parameter(request.uri(), "fieldSelector").unwrap_or_default();
    Selection {
        resource,
        node: fields.strip_prefix("spec.nodeName=").map(ToOwned::to_owned),
        metadata_only: accept.is_some_and(|kinds| kinds.contains("as=PartialObjectMetadata")),
    }
}

/// A parameter of the query. Only the escaped equals sign is decoded, because clients of this server escape no other
/// character.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let mut parameters = uri.query()?.split('&').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(key, _)| *key == name)?;
    Some(value.replace("%3D", "=").replace("%3d", "="))
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|parameter| matches!(parameter, "watch=1" | "watch=true"))
}

fn refusal(failure: &Value) -> Answer {
    let code = failure["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    body::value(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), failure)
}

const TOKEN: &str = "token";
const HELD: &str = "nobody panics with it in hand";
