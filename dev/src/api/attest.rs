//! Node attestation: turns a payload into an agent ID and the selectors of the node.

use std::collections::BTreeSet;

use serde::Deserialize;
use tonic::Status;

use crate::entries::Selector;
use crate::ids;
use crate::state::{Grant, Shared};

/// The result of an attestation.
pub(super) struct Attested {
    pub(super) agent_id: String,
    pub(super) can_reattest: bool,
    pub(super) selectors: BTreeSet<Selector>,
}

/// Attests by the attestor with the name `kind`.
pub(super) fn attest(shared: &Shared, kind: &str, payload: &[u8]) -> Result<Attested, Status> {
    match kind {
        "join_token" => join_token(shared, &String::from_utf8_lossy(payload)),
        "k8s_psat" => k8s_psat(shared, payload).map_err(|status| {
            Status::new(status.code(), format!("nodeattestor(k8s_psat): {}", status.message()))
        }),
        other => Err(Status::failed_precondition(format!(
            "error getting node attestor: could not find node attestor type {other:?}"
        ))),
    }
}

/// Attests by a join token. The first use spends the token, even if it fails.
fn join_token(shared: &Shared, token: &str) -> Result<Attested, Status> {
    let expires_at = shared.lock().join_tokens.remove(token).ok_or_else(|| {
        Status::invalid_argument("failed to attest: join token does not exist or has already been used")
    })?;
    if expires_at < ids::now() {
        return Err(Status::invalid_argument("join token expired"));
    }
    Ok(Attested {
        agent_id: ids::join_token_id(&shared.options.trust_domain, token),
        can_reattest: false,
        selectors: BTreeSet::new(),
    })
}

fn k8s_psat(shared: &Shared, payload: &[u8]) -> Result<Attested, Status> {
    let data: PsatData = serde_json::from_slice(payload)
        .map_err(|error| Status::invalid_argument(format!("failed to unmarshal data payload: {error}")))?;
    if data.cluster.is_empty() {
        return Err(Status::invalid_argument("missing cluster in attestation data"));
    }
    if data.token.is_empty() {
        return Err(Status::invalid_argument("missing token in attestation data"));
    }
    let cluster = data.cluster;
    let clusters = &shared.options.psat_clusters;
    if !clusters.is_empty() && !clusters.contains_key(&cluster) {
        return Err(Status::invalid_argument(format!("not configured for cluster {cluster:?}")));
    }
    let grant = shared.lock().grants.get(&data.token).cloned();
    let Some(grant) = grant.filter(|grant| grant.cluster == cluster && grant.expires_at >= ids::now()) else {
        return Err(Status::permission_denied(format!(
            "token not authenticated according to TokenReview API for cluster {cluster:?}"
        )));
    };
    let account = format!("{}:{}", grant.namespace, grant.service_account);
    if clusters.get(&cluster).is_some_and(|allowed| !allowed.contains(&account)) {
        return Err(Status::permission_denied(format!(
            "{account:?} is not an allowed service account for cluster {cluster:?}"
        )));
    }
    Ok(Attested {
        agent_id: ids::psat_id(&shared.options.trust_domain, &cluster, &grant.node),
        can_reattest: true,
        selectors: node_selectors(&grant),
    })
}

/// The selectors that the real server reads from the cluster's API: those of the agent's pod and node.
fn node_selectors(grant: &Grant) -> BTreeSet<Selector> {
    let Grant { cluster, namespace, service_account, node, .. } = grant;
    let pod_name = format!("{service_account}-{node}");
    let pod_uid = ids::stable_uuid(&[cluster, namespace, &pod_name]);
    let node_uid = ids::stable_uuid(&[cluster, node]);
    [
        ("cluster", cluster),
        ("agent_ns", namespace),
        ("agent_sa", service_account),
        ("agent_pod_name", &pod_name),
        ("agent_pod_uid", &pod_uid),
        ("agent_node_ip", &"127.0.0.1".to_owned()),
        ("agent_node_name", node),
        ("agent_node_uid", &node_uid),
    ]
    .into_iter()
    .map(|(name, value)| Selector { kind: "k8s_psat".to_owned(), value: format!("{name}:{value}") })
    .collect()
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct PsatData {
    cluster: String,
    token: String,
}
