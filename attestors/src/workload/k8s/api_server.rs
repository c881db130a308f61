//! The Kubernetes API server: a watch of this node's pods instead of the kubelet's list, and the labels of namespaces.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use serde::Deserialize;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::parse::{self, RawSpec, RawStatus};
use super::pods::{Owner, Pod, Pods};

/// Why the API server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Neither in a pod with a service account nor with a kubeconfig, or either is not usable (yet).
    #[error("unable to configure Kubernetes API client: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The request failed or was refused.
    #[error("{}", chain(.0))]
    Request(#[from] kube::Error),
    /// It takes longer than ten seconds.
    #[error("the API server does not answer")]
    Slow,
    /// The watch is cut; it is being made again.
    #[error("the watch is interrupted: {0}")]
    Interrupted(String),
}

/// An error with its causes: kube's own text is often only where it happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(reason) = cause {
        let reason_text = reason.to_string();
        if !text.ends_with(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        cause = reason.source();
    }
    text
}

/// A client for the API server of KUBECONFIG, else of the cluster that we run in. It reads its token anew every minute.
pub(super) async fn client() -> Result<Client, ApiError> {
    let mut config = Config::infer().await?;
    // Longer than the server keeps a watch that has nothing to say; counted from the last request on.
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// The pods of this node, as the API server tells them.
#[derive(Debug)]
pub(super) struct PodWatch {
    view: watch::Receiver<View>,
}

/// What the watch has said so far.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Grows with each change; 0 before the first list.
    pub(super) number: u64,
    /// The pods, while the watch lives.
    pub(super) pods: Result<Arc<Pods>, Arc<ApiError>>,
}

impl PodWatch {
    /// Starts watching, for as long as the process runs.
    pub(super) fn start(node_name: &str, news: watch::Sender<u64>) -> Self {
        let starting = Err(Arc::new(ApiError::Interrupted("it is being started".into())));
        let (sender, view) = watch::channel(View { number: 0, pods: starting });
        let follower =
            Follower { view: sender, news, pods: BTreeMap::new(), listed: None, live: Arc::default() };
        tokio::spawn(follower.run(format!("spec.nodeName={node_name}")));
        Self { view }
    }

    /// The pods as soon as the watch lives and they have changed since `seen`; its failure otherwise by the caller's
    /// time limit.
    pub(super) async fn after(&self, seen: u64) -> View {
        let mut view = self.view.clone();
        let changed = view.wait_for(|view| view.number > seen && view.pods.is_ok()).await;
        changed.expect("the follower runs as long as the process").clone()
    }

    /// Why there is no answer, if that is the watch's fault.
    pub(super) fn failure(&self) -> Option<Arc<ApiError>> {
        self.view.borrow().pods.as_ref().err().cloned()
    }
}

/// Turns the watch's events into views.
struct Follower {
    view: watch::Sender<View>,
    news: watch::Sender<u64>,
    pods: BTreeMap<Box<str>, Arc<Pod>>,
    /// A list that is still arriving.
    listed: Option<BTreeMap<Box<str>, Arc<Pod>>>,
    live: Arc<Pods>,
}

impl Follower {
    async fn run(mut self, fields: String) {
        let mut backoff = watcher::DefaultBackoff::default();
        let config = watcher::Config::default().timeout(WATCH_SECONDS).fields(&fields);
        loop {
            let reason = match client().await {
                Ok(client) => self.follow(client, config.clone()).await,
                Err(reason) => reason,
            };
            self.interrupted(reason);
            sleep(backoff.next().unwrap_or(LONGEST_WAIT)).await;
        }
    }

    /// Follows until the first failure. kube's watcher would go on by itself, but it does not tell when it is well again
    /// before the next pod changes; a new one begins with a list.
    async fn follow(&mut self, client: Client, config: watcher::Config) -> ApiError {
        let mut events = std::pin::pin!(watcher(Api::<ApiPod>::all(client), config));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.event(event),
                Err(reason) => return ApiError::Interrupted(chain(&reason)),
            }
        }
        ApiError::Interrupted("it ended".into())
    }

    fn event(&mut self, event: Event<ApiPod>) {
        match event {
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitApply(pod) => {
                let pod = self.known(pod);
                self.listed.get_or_insert_default().insert(pod.uid.clone(), pod);
            }
            Event::InitDone => {
                self.pods = self.listed.take().unwrap_or_default();
                info!(pods = self.pods.len(), "Watching the pods of this node at the API server");
                self.publish();
            }
            Event::Apply(pod) => {
                let pod = self.known(pod);
                self.pods.insert(pod.uid.clone(), pod);
                self.publish();
            }
            Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                self.pods.remove(&*uid);
                self.publish();
            }
        }
    }

    fn known(&self, pod: ApiPod) -> Arc<Pod> {
        parse::known(&self.live, pod.into())
    }

    fn publish(&mut self) {
        let pods: Pods = self.pods.values().cloned().collect();
        let changed = !pods.same_as(&self.live);
        let pods = Arc::new(pods);
        self.live = Arc::clone(&pods);
        self.view.send_modify(|view| {
            // One that has been looked at need not be looked at again.
            view.number += u64::from(changed || view.number == 0);
            view.pods = Ok(pods);
        });
        if changed {
            self.news.send_modify(|version| *version += 1);
        }
    }

    /// What was seen before may be untrue by now: it does not answer until the watch lives again.
    fn interrupted(&self, reason: ApiError) {
        let was_live = self.view.borrow().pods.is_ok();
        let number = self.view.borrow().number;
        if was_live || number == 0 {
            warn!(error = %reason, "The watch of this node's pods is interrupted; trying again");
        }
        self.view.send_modify(|view| view.pods = Err(Arc::new(reason)));
    }
}

/// A pod of the API server's, as far as it is read.
#[derive(Deserialize, Debug, Clone)]
pub(super) struct ApiPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

impl Resource for ApiPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl From<ApiPod> for Pod {
    fn from(pod: ApiPod) -> Self {
        let text = |text: Option<String>| text.unwrap_or_default().into_boxed_str();
        let labels = pod.metadata.labels.unwrap_or_default();
        let owners = pod.metadata.owner_references.unwrap_or_default();
        Self {
            uid: text(pod.metadata.uid),
            name: text(pod.metadata.name),
            namespace: text(pod.metadata.namespace),
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            owners: owners
                .into_iter()
                .map(|owner| Owner {
                    kind: owner.kind.into(),
                    name: owner.name.into(),
                    uid: owner.uid.into(),
                })
                .collect(),
            ..parse::body(pod.spec, pod.status)
        }
    }
}

/// Labels of namespaces.
pub(super) struct Namespaces {
    client: OnceCell<Client>,
    /// How long an answer holds; a watch keeps it true instead.
    keep: Duration,
    answers: Mutex<BTreeMap<String, (Instant, Arc<Labels>)>>,
    watched: Option<OnceCell<watch::Receiver<Option<AllLabels>>>>,
}

type Labels = BTreeMap<String, String>;
type AllLabels = BTreeMap<String, Arc<Labels>>;

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespaces").field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Namespaces {
    /// `watched`: all namespaces are followed, instead of one being asked for when it is needed
    /// (`experimental.api_server.cache`).
    pub(super) fn new(keep: Duration, watched: bool) -> Self {
        let watched = watched.then(OnceCell::new);
        Self { client: OnceCell::new(), keep, answers: Mutex::default(), watched }
    }

    /// The labels of one.
    pub(super) async fn labels(&self, name: &str) -> Result<Arc<Labels>, ApiError> {
        let client = self.client.get_or_try_init(client).await?;
        if let Some(watched) = &self.watched {
            let follow = async || follow_namespaces(client.clone());
            let all = watched.get_or_init(follow).await;
            if let Some(labels) = all.borrow().as_ref().and_then(|all| all.get(name)) {
                return Ok(Arc::clone(labels));
            }
            // The watch is not up, or the namespace is newer than what it has said.
        } else if let Some(labels) = self.kept(name) {
            return Ok(labels);
        }
        let asked = Instant::now();
        let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        let namespace = timeout(REQUEST_TIMEOUT, api.get(name)).await.map_err(|_| ApiError::Slow)??;
        let labels = Arc::new(namespace.metadata.labels.unwrap_or_default());
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|_, (asked, _)| asked.elapsed() <= self.keep);
        answers.insert(name.to_owned(), (asked, Arc::clone(&labels)));
        Ok(labels)
    }

    fn kept(&self, name: &str) -> Option<Arc<Labels>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, labels) = answers.get(name)?;
        (asked.elapsed() <= self.keep).then(|| Arc::clone(labels))
    }
}

fn follow_namespaces(client: Client) -> watch::Receiver<Option<AllLabels>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut backoff = watcher::DefaultBackoff::default();
        loop {
            let reason = follow_namespaces_once(client.clone(), &sender).await;
            warn!(error = %reason, "The watch of namespaces is interrupted; trying again");
            sender.send_replace(None);
            sleep(backoff.next().unwrap_or(LONGEST_WAIT)).await;
        }
    });
    receiver
}

/// Until the first failure; why not on, see [`Follower::follow`].
async fn follow_namespaces_once(client: Client, sender: &watch::Sender<Option<AllLabels>>) -> ApiError {
    let api = Api::<PartialObjectMeta<Namespace>>::all(client);
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().timeout(WATCH_SECONDS)));
    let mut all = BTreeMap::new();
    let mut listing = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => (all, listing) = (BTreeMap::new(), true),
            Ok(Event::InitApply(namespace) | Event::Apply(namespace)) => {
                let labels = Arc::new(namespace.metadata.labels.unwrap_or_default());
                all.insert(namespace.metadata.name.unwrap_or_default(), labels);
            }
            Ok(Event::Delete(namespace)) => {
                all.remove(&namespace.metadata.name.unwrap_or_default());
            }
            Ok(Event::InitDone) => listing = false,
            Err(reason) => return ApiError::Interrupted(chain(&reason)),
        }
        if !listing {
            sender.send_replace(Some(all.clone()));
        }
    }
    ApiError::Interrupted("it ended".into())
}

/// A watch is made anew this often, which costs nothing. So one whose connection is dead does not answer for long.
const WATCH_SECONDS: u32 = 60;
const READ_TIMEOUT: Duration = Duration::from_secs(70);
/// Of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
