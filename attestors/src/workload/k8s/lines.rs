//! Log lines of the search for a container, in the words of spire-agent's plugin (`k8s.go`).

use std::time::Duration;

use tracing::{debug, warn};

use super::K8sError;
use crate::container::Container;

/// The container is not in the list of pods. `attempt` is the number of the list.
pub(super) fn not_found(container: &Container, attempt: u64, retry_interval: Duration) {
    let pod_uid = container.pod_uid.as_deref();
    debug!(container_id = %container.id, pod_uid, attempt, ?retry_interval, "Container id not found; will retry after backoff");
}

/// There is no list of pods. spire-agent warns at each attempt; here attempts are more frequent, and one warning for each
/// search is enough.
pub(super) fn no_list(
    container: &Container,
    attempt: u64,
    retry_interval: Duration,
    failures: u32,
    reason: &K8sError,
) {
    let (container_id, pod_uid) = (&container.id, container.pod_uid.as_deref());
    if failures == 0 {
        warn!(container_id, pod_uid, attempt, ?retry_interval, error = %reason,
            "Unable to get pod list; will retry after backoff");
    } else {
        debug!(container_id, pod_uid, attempt, ?retry_interval, error = %reason,
            "Unable to get pod list; will retry after backoff");
    }
}

/// The time for the search is over.
pub(super) fn gave_up(container: &Container, reason: &K8sError) {
    let (container_id, pod_uid) = (&container.id, container.pod_uid.as_deref());
    match reason {
        K8sError::NotFound => warn!(container_id, pod_uid, "Container id not found; giving up"),
        reason => warn!(container_id, pod_uid, error = %reason, "Unable to get pod list; giving up"),
    }
}
