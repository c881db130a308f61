//! The `k8s` attestor: from a process to its container, and from the container to its pod (SPIRE,
//! `workloadattestor/k8s`).
//!
//! 1. [`container`] reads which container and pod the process belongs to, on every call. A process outside of
//!    containers is a success without selectors.
//! 2. The node's pods come from the kubelet's list, or from a watch at the API server ([`PodSource`]). A container
//!    appears there only when the kubelet has published its status, some hundred milliseconds after its start. So the
//!    attestor looks again, soon at first, then after waits that double up to `poll_retry_interval` (`wait`), as long
//!    as `max_poll_attempts` waits of that length would take.
//! 3. With the container runtime's socket there is no such wait: a container that the list does not have is asked for
//!    there, and the runtime tells its name and its pod, which is in the list earlier.
//!
//! Unlike spire-agent, this also attests ephemeral containers.

mod api_server;
mod kubelet;
mod lines;
mod lists;
mod parse;
mod pods;
mod runtime;
mod selectors;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use identity::Selector;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

pub use self::api_server::{ApiError, probe as probe_api_server};
use self::api_server::{Namespaces, PodWatch};
pub use self::kubelet::{
    Auth, InputsError, KubeletError, KubeletOptions, Port, Right, probe as probe_kubelet, probe_right,
};
use self::lists::Lists;
pub use self::parse::{ParseError, pods as parse_pods};
pub use self::pods::{ContainerStatus, Containers, Owner, Pod, Pods, TwoPods};
pub use self::runtime::probe as probe_runtime;
use self::runtime::{Runtime, RuntimeContainer};
use self::selectors::Memo;
use crate::container::{self, Container, ContainerError, Locator};

/// The `k8s` workload attestor.
#[derive(Debug)]
pub struct K8s {
    options: Options,
    source: Option<Source>,
    runtime: Option<Runtime>,
    /// The runtime's last answer was a failure, which was logged.
    runtime_failing: AtomicBool,
    namespaces: Option<Namespaces>,
    memo: Memo,
    news: watch::Receiver<u64>,
}

/// The settings of [`K8s`], named as in agent.conf.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where pods are read from; `None` with `disable_kubelet_client`.
    pub source: Option<PodSource>,
    /// Times `poll_retry_interval`, how long a container is looked for.
    pub max_poll_attempts: u32,
    /// The longest wait between two looks, and how long a list answers.
    pub poll_retry_interval: Duration,
    /// Whether to give only the pod's selectors. They are then given before the container appears, if the kernel
    /// names its pod.
    pub disable_container_selectors: bool,
    /// How the container of a process is found.
    pub locator: Locator,
    /// Whether to log the cgroups of each process and the outcome, at `debug`.
    pub verbose_container_locator_logs: bool,
    /// How labels of namespaces are read; `None` without `enable_namespace_labels`.
    pub namespace_labels: Option<NamespaceLabels>,
    /// The container runtime's socket. The setting `cri_socket_path` is Finial's own.
    pub cri_socket_path: Option<PathBuf>,
    /// Where proc is mounted.
    pub proc: PathBuf,
}

/// Where pods are read from.
#[derive(Debug, Clone)]
pub enum PodSource {
    /// The kubelet's list, polled when needed.
    Kubelet(KubeletOptions),
    /// A watch at the API server of the pods of one node. The setting `pod_source = "api-server"` is Finial's own.
    ApiServer {
        /// The node's name, as in `spec.nodeName` of its pods.
        node_name: String,
    },
}

/// How labels of namespaces are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceLabels {
    /// Labels are requested when needed.
    Asked,
    /// All namespaces are watched (`experimental.api_server.cache`).
    Watched,
}

/// Why a process could not be attested. The text and [`K8sError::code`] are SPIRE's.
#[derive(Debug, thiserror::Error)]
pub enum K8sError {
    /// The container of the process cannot be found.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The kubelet client is disabled (`disable_kubelet_client`).
    #[error("kubelet client is disabled")]
    Disabled,
    /// Two pods claim the container.
    #[error(transparent)]
    TwoPods(#[from] TwoPods),
    /// The container did not appear in time.
    #[error("no selectors found after max poll attempts")]
    NotFound,
    /// The kubelet gave no list in time; this is its last failure.
    #[error("{0}")]
    Kubelet(Arc<KubeletError>),
    /// The kubelet was asked and has not answered in time.
    #[error("the kubelet has not answered")]
    NoAnswer,
    /// The watch did not work in time; this is its last failure.
    #[error("{0}")]
    Watch(Arc<ApiError>),
    /// The labels of the pod's namespace cannot be read.
    #[error("unable to get namespace labels for {namespace:?}: {source}")]
    NamespaceLabels {
        /// The pod's namespace.
        namespace: String,
        /// Why they cannot be read.
        source: ApiError,
    },
    /// The task that reads files was cancelled or has panicked.
    #[error("attestation was interrupted")]
    Interrupted,
}

#[derive(Debug)]
enum Source {
    Kubelet(Lists),
    ApiServer(PodWatch),
}

/// The outcome of one look at the source.
struct Look {
    number: u64,
    took: Duration,
    pods: Result<Arc<Pods>, K8sError>,
}

impl K8sError {
    /// SPIRE's gRPC code for this error. It appears only in the log.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Container(ContainerError::PodUids(..) | ContainerError::ContainerIds(..))
            | Self::Disabled => "FailedPrecondition",
            Self::Container(_) | Self::TwoPods(_) | Self::NamespaceLabels { .. } | Self::Interrupted => {
                "Internal"
            }
            Self::NotFound => "DeadlineExceeded",
            Self::Kubelet(_) | Self::NoAnswer | Self::Watch(_) => "Unavailable",
        }
    }
}

impl K8s {
    /// Makes an attestor with these settings. It must be called in a tokio runtime: a watch is started at once, so
    /// that it works when the first process calls.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let (sender, news) = watch::channel(0);
        let source = options.source.clone().map(|source| match source {
            PodSource::Kubelet(kubelet) => {
                Source::Kubelet(Lists::new(kubelet, options.poll_retry_interval, sender))
            }
            PodSource::ApiServer { node_name } => Source::ApiServer(PodWatch::start(&node_name, sender)),
        });
        let namespaces = options
            .namespace_labels
            .map(|labels| Namespaces::new(options.poll_retry_interval, labels == NamespaceLabels::Watched));
        let runtime = options.cri_socket_path.clone().map(Runtime::new);
        let memo = Memo::default();
        Self { options, source, runtime, runtime_failing: AtomicBool::new(false), namespaces, memo, news }
    }

    /// A counter that grows when the pods of this node have changed: a process that was not recognized may be now.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.clone()
    }

    /// Returns the selectors of a process. The caller must check afterwards that the pid still names that process.
    ///
    /// # Errors
    /// [`K8sError`].
    pub async fn attest(&self, pid: i32) -> Result<Vec<Selector>, K8sError> {
        let source = self.source.as_ref().ok_or(K8sError::Disabled)?;
        let Some(container) = self.container(pid).await? else { return Ok(Vec::new()) };
        let (pod, status) = self.pod(source, &container).await?;
        let mut found = self.memo.selectors(&container.id, &pod, |found| {
            found.pod(&pod);
            if let (Some(status), false) = (&status, self.options.disable_container_selectors) {
                found.container(status);
            }
        });
        if let Some(namespaces) = &self.namespaces {
            let labels = namespaces.labels(&pod.namespace).await;
            let namespace = pod.namespace.to_string();
            found.namespace(&*labels.map_err(|source| K8sError::NamespaceLabels { namespace, source })?);
        }
        Ok(found.into_selectors())
    }

    /// The container of a process. It is read on every call, as a process can move to another cgroup. The cgroup
    /// takes microseconds; mounts may be many, and reading them waits for processes that mount.
    async fn container(&self, pid: i32) -> Result<Option<Container>, K8sError> {
        let (proc, locator) = (self.options.proc.clone(), self.options.locator);
        let found = match container::locate_by_cgroup(&proc, pid, locator) {
            Ok(None) if locator != Locator::Legacy => {
                let work =
                    tokio::task::spawn_blocking(move || container::locate_by_mounts(&proc, pid, locator));
                work.await.map_err(|_| K8sError::Interrupted)?
            }
            found => found,
        };
        if self.options.verbose_container_locator_logs {
            let cgroup =
                std::fs::read(self.options.proc.join(pid.to_string()).join("cgroup")).unwrap_or_default();
            let cgroup = String::from_utf8_lossy(&cgroup[..cgroup.len().min(LOGGED)]);
            debug!(pid, %cgroup, container = ?found, "Located the container of a process");
        }
        Ok(found?)
    }

    async fn ask_runtime(&self, container: &Container) -> Option<RuntimeContainer> {
        let runtime = self.runtime.as_ref()?;
        match runtime.container(&container.id).await {
            Ok(known) => {
                self.runtime_failing.store(false, Ordering::Relaxed);
                // An answer that contradicts the kernel is dropped.
                known.filter(|known| {
                    *known.status.id == container.id
                        && container.pod_uid.as_ref().is_none_or(|uid| *uid == known.pod_uid)
                })
            }
            // It is not a container of this runtime.
            Err(reason) if reason.code() == tonic::Code::NotFound => None,
            Err(reason) => {
                if !self.runtime_failing.swap(true, Ordering::Relaxed) {
                    let reason = reason.message();
                    warn!(
                        error = reason,
                        "The container runtime does not answer at cri_socket_path; waiting for the kubelet instead"
                    );
                }
                None
            }
        }
    }

    /// Looks for the pod of a container, and for the container's status.
    async fn pod(&self, source: &Source, container: &Container) -> Result<Located, K8sError> {
        let begin = Instant::now();
        let budget = self.options.poll_retry_interval.saturating_mul(self.options.max_poll_attempts);
        let until = begin + budget.min(LONGEST_BUDGET);
        let (mut seen, mut patience, mut last, mut failures) = (0, Duration::ZERO, None, 0);
        let mut known = None;
        loop {
            // The first request may take its time, however short the budget is.
            let limit = if seen == 0 { until.max(begin + source.first_look()) } else { until };
            let Ok(look) = timeout_at(limit, source.look(seen, patience)).await else {
                let reason = source.gave_up(last, seen);
                lines::gave_up(container, &reason);
                return Err(reason);
            };
            seen = look.number;
            last = None;
            match look.pods {
                Ok(pods) => {
                    if let Some(found) = self.find(&pods, container)? {
                        return Ok(found);
                    }
                    // The runtime is asked once: it knows a container before the container's first process starts.
                    if known.is_none() {
                        known = Some(self.ask_runtime(container).await);
                    }
                    if let Some(found) = known.iter().flatten().find_map(|known| located(&pods, known)) {
                        return Ok(found);
                    }
                    lines::not_found(container, seen, self.options.poll_retry_interval);
                }
                Err(reason) => {
                    lines::no_list(container, seen, self.options.poll_retry_interval, failures, &reason);
                    failures += 1;
                    last = Some(reason);
                }
            }
            patience = wait(patience, begin.elapsed(), look.took).min(self.options.poll_retry_interval);
        }
    }

    fn find(&self, pods: &Pods, container: &Container) -> Result<Option<Located>, TwoPods> {
        if let Some(pod) = pods.find(container)? {
            return Ok(Some((Arc::clone(pod), pod.status(&container.id).cloned())));
        }
        let pod = container.pod_uid.as_ref().and_then(|uid| pods.get(uid));
        Ok(pod.filter(|_| self.options.disable_container_selectors).map(|pod| (Arc::clone(pod), None)))
    }
}

/// The pod with the status that the kubelet will publish for the runtime's container. `None` if the list does not
/// have the pod or the pod does not have the container.
fn located(pods: &Pods, known: &RuntimeContainer) -> Option<Located> {
    let published = pods.get(&known.pod_uid)?.with_status(&known.status)?;
    Some((Arc::new(published), Some(known.status.clone())))
}

/// A pod, and the status of the caller's container in it if that is known.
type Located = (Arc<Pod>, Option<ContainerStatus>);

impl Source {
    async fn look(&self, seen: u64, patience: Duration) -> Look {
        match self {
            Self::Kubelet(lists) => {
                let outcome = lists.after(seen, patience).await;
                Look {
                    number: outcome.number,
                    took: outcome.took,
                    pods: outcome.result.map_err(K8sError::Kubelet),
                }
            }
            Self::ApiServer(watch) => {
                let view = watch.after(seen).await;
                Look { number: view.number, took: Duration::ZERO, pods: view.pods.map_err(K8sError::Watch) }
            }
        }
    }

    /// The least time that the first look may take.
    fn first_look(&self) -> Duration {
        match self {
            Self::Kubelet(_) => kubelet::REQUEST_TIMEOUT + Duration::from_secs(1),
            Self::ApiServer(_) => Duration::ZERO,
        }
    }

    /// Why nothing was found in time.
    fn gave_up(&self, last: Option<K8sError>, seen: u64) -> K8sError {
        let failure = match self {
            Self::Kubelet(_) => last.or_else(|| (seen == 0).then_some(K8sError::NoAnswer)),
            Self::ApiServer(watch) => watch.failure().map(K8sError::Watch),
        };
        failure.unwrap_or(K8sError::NotFound)
    }
}

/// How long to wait before another look, after a wait of `before`, with `spent` of the time used, and a look that
/// took `took`.
///
/// Statuses are published within about a second. In that time a wait that doubles would soon be as long as the delay
/// that it waits for (measured: 0.3 s of 0.8 s). If a look is a burden for the kubelet, because its list has
/// megabytes, the wait is five times as long as the look.
fn wait(before: Duration, spent: Duration, took: Duration) -> Duration {
    let doubled = before * 2;
    let wait = if spent < QUICK_FOR { doubled.clamp(FIRST_WAIT, QUICK_WAIT) } else { doubled };
    wait.max(took * 5)
}

/// Bytes of a cgroup file that are logged.
const LOGGED: usize = 4096;
/// A longer configured budget counts as this long, which is practically for ever.
const LONGEST_BUDGET: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The first wait for a container's status.
const FIRST_WAIT: Duration = Duration::from_millis(25);
/// The longest wait while the status is likely to appear.
const QUICK_WAIT: Duration = Duration::from_millis(100);
/// How long after the first look that is likely.
const QUICK_FOR: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
