//! The Kubernetes API server: a watch of this node's pods, which replaces the kubelet's list, and labels of
//! namespaces.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ListParams, ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use serde::Deserialize;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::NamespaceLabels;
use super::parse::{self, RawSpec, RawStatus};
use super::pods::{Owner, Pod, Pods};
use crate::lock;

/// Why the API server gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The agent runs neither in a pod with a service account nor with a kubeconfig, or what it has is not usable
    /// (yet).
    #[error("unable to configure Kubernetes API client: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The request failed or was refused.
    #[error("{}", chain(.0))]
    Request(#[from] kube::Error),
    /// The request took longer than ten seconds.
    #[error("the API server does not answer")]
    Slow,
    /// The watch was interrupted, and is being started again.
    #[error("the watch is interrupted: {0}")]
    Interrupted(String),
}

/// The text of an error and its causes. kube's own text often only tells where the error happened.
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

/// Makes a client for the API server of KUBECONFIG, or else of the cluster that the agent runs in. The client reads
/// its token again every minute.
pub(super) async fn client() -> Result<Client, ApiError> {
    let mut config = Config::infer().await?;
    // Longer than the server keeps a watch without events, counted from the last request.
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// Asks the API server once for what the attestor will need: one pod of the node `pods_of`; one namespace, by name or in
/// a list. The caller sets a time limit.
///
/// # Errors
/// [`ApiError`].
pub async fn probe(pods_of: Option<&str>, namespaces: Option<NamespaceLabels>) -> Result<(), ApiError> {
    let client = client().await?;
    let one = ListParams::default().limit(1);
    if let Some(node) = pods_of {
        let pods = Api::<PartialObjectMeta<k8s_openapi::api::core::v1::Pod>>::all(client.clone());
        pods.list(&one.clone().fields(&format!("spec.nodeName={node}"))).await?;
    }
    let api = Api::<PartialObjectMeta<Namespace>>::all(client);
    match namespaces {
        None => {}
        // Who may not get a namespace is not told whether it exists.
        Some(NamespaceLabels::Asked) => drop(api.get_opt("default").await?),
        Some(NamespaceLabels::Watched) => drop(api.list(&one).await?),
    }
    Ok(())
}

/// The pods of this node, from a watch at the API server.
#[derive(Debug)]
pub(super) struct PodWatch {
    view: watch::Receiver<View>,
}

/// The state of a watch.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Grows with each change of the pods; 0 before the first list.
    pub(super) number: u64,
    /// The pods, or why the watch is interrupted.
    pub(super) pods: Result<Arc<Pods>, Arc<ApiError>>,
}

impl PodWatch {
    /// Starts a watch that runs as long as the process.
    pub(super) fn start(node_name: &str, news: watch::Sender<u64>) -> Self {
        let starting = Err(Arc::new(ApiError::Interrupted("it is being started".into())));
        let (sender, view) = watch::channel(View { number: 0, pods: starting });
        let follower =
            Follower { view: sender, news, pods: BTreeMap::new(), listed: None, live: Arc::default() };
        tokio::spawn(follower.run(format!("spec.nodeName={node_name}")));
        Self { view }
    }

    /// Waits until the watch works and its pods have changed since view `seen`. The caller sets a time limit.
    pub(super) async fn after(&self, seen: u64) -> View {
        let mut view = self.view.clone();
        let changed = view.wait_for(|view| view.number > seen && view.pods.is_ok()).await;
        changed.expect("the follower runs as long as the process").clone()
    }

    /// Why the watch does not work; `None` if it does.
    pub(super) fn failure(&self) -> Option<Arc<ApiError>> {
        self.view.borrow().pods.as_ref().err().cloned()
    }
}

/// The task that turns the watch's events into views.
struct Follower {
    view: watch::Sender<View>,
    news: watch::Sender<u64>,
    pods: BTreeMap<Box<str>, Arc<Pod>>,
    /// The first list of a watch, while it arrives.
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

    /// Follows the watch until its first failure. kube's watcher would go on by itself, but does not report that it
    /// works again before the next pod changes; a new watcher begins with a list.
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
                let pod = self.share_unchanged(pod);
                self.listed.get_or_insert_default().insert(pod.uid.clone(), pod);
            }
            Event::InitDone => {
                self.pods = self.listed.take().unwrap_or_default();
                info!(pods = self.pods.len(), "Watching the pods of this node at the API server");
                self.publish();
            }
            Event::Apply(pod) => {
                let pod = self.share_unchanged(pod);
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

    fn share_unchanged(&self, pod: ApiPod) -> Arc<Pod> {
        parse::share_unchanged(&self.live, pod.into())
    }

    fn publish(&mut self) {
        let pods: Pods = self.pods.values().cloned().collect();
        let changed = !pods.same_as(&self.live);
        let pods = Arc::new(pods);
        self.live = Arc::clone(&pods);
        self.view.send_modify(|view| {
            // A view with the same pods keeps its number: callers that have seen it need not look again.
            view.number += u64::from(changed || view.number == 0);
            view.pods = Ok(pods);
        });
        if changed {
            self.news.send_modify(|version| *version += 1);
        }
    }

    /// The pods may be outdated now: there is no answer until the watch works again.
    fn interrupted(&self, reason: ApiError) {
        let was_live = self.view.borrow().pods.is_ok();
        let number = self.view.borrow().number;
        if was_live || number == 0 {
            warn!(error = %reason, "The watch of this node's pods is interrupted; trying again");
        }
        self.view.send_modify(|view| view.pods = Err(Arc::new(reason)));
    }
}

/// The fields that are read of a pod from the API server.
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

/// The labels of namespaces.
pub(super) struct Namespaces {
    client: OnceCell<Client>,
    /// How long labels are cached, unless a watch keeps them current.
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
    /// With `watched` all namespaces are watched (`experimental.api_server.cache`); otherwise each is requested when
    /// needed.
    pub(super) fn new(keep: Duration, watched: bool) -> Self {
        let watched = watched.then(OnceCell::new);
        Self { client: OnceCell::new(), keep, answers: Mutex::default(), watched }
    }

    /// The labels of one namespace.
    pub(super) async fn labels(&self, name: &str) -> Result<Arc<Labels>, ApiError> {
        let client = self.client.get_or_try_init(client).await?;
        if let Some(watched) = &self.watched {
            let follow = async || follow_namespaces(client.clone());
            let all = watched.get_or_init(follow).await;
            if let Some(labels) = all.borrow().as_ref().and_then(|all| all.get(name)) {
                return Ok(Arc::clone(labels));
            }
            // The watch does not work yet, or the namespace is newer than its last event.
        } else if let Some(labels) = self.kept(name) {
            return Ok(labels);
        }
        let asked = Instant::now();
        let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        let namespace = timeout(REQUEST_TIMEOUT, api.get(name)).await.map_err(|_| ApiError::Slow)??;
        let labels = Arc::new(namespace.metadata.labels.unwrap_or_default());
        let mut answers = lock(&self.answers);
        answers.retain(|_, (asked, _)| asked.elapsed() <= self.keep);
        answers.insert(name.to_owned(), (asked, Arc::clone(&labels)));
        Ok(labels)
    }

    fn kept(&self, name: &str) -> Option<Arc<Labels>> {
        let answers = lock(&self.answers);
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

/// Follows the watch of namespaces until its first failure, for the reason in [`Follower::follow`].
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

/// A watch is started again this often, in seconds, which is cheap. So a watch whose connection is dead is noticed
/// soon.
const WATCH_SECONDS: u32 = 60;
const READ_TIMEOUT: Duration = Duration::from_secs(70);
/// The time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
