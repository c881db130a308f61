//! Reads `experimental.broker`: who may ask for identities by reference to a pod.

use crate::decode::{Section, Strictness, no_hint};
use crate::trust_domain;

/// The brokers (SPIRE: `experimental.broker` of WorkloadAttestor `k8s`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sBrokers {
    /// Whether the API server is asked (SPIRE: `access_policy`).
    pub access_policy: AccessPolicy,
    /// The brokers; at least one, and no two with the same ID.
    pub brokers: Vec<K8sBroker>,
}

/// A workload that may ask for identities of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct K8sBroker {
    /// The broker's SPIFFE ID, in any trust domain.
    pub id: String,
    /// Where its pods may run (SPIRE: `pod_reference_scope`).
    pub pod_reference_scope: PodReferenceScope,
}

/// Whether the API server is asked which pods a broker may refer to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessPolicy {
    /// It is not asked.
    #[default]
    Permissive,
    /// It is asked by SubjectAccessReview with the verb `impersonate-via-spire`.
    Enforced,
}

/// Where a referenced pod may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodReferenceScope {
    /// Only on the node of the agent.
    #[default]
    AgentNode,
    /// Anywhere in the cluster.
    Cluster,
}

pub(super) fn read(section: Section<'_>) -> Option<K8sBrokers> {
    if !section.is_present() {
        return None;
    }
    let report = section.report();
    let access_policy = access_policy(&section);
    let blocks = section.named_blocks("brokers");
    if blocks.is_empty() {
        report.problem(section.line, "experimental.broker.brokers: at least one broker is required");
    }
    let mut brokers: Vec<K8sBroker> = Vec::new();
    for (at, block) in blocks.into_iter().enumerate() {
        let line = block.line;
        match read_broker(block, at) {
            Err(message) => report.problem(line, message),
            Ok(broker) if brokers.iter().any(|other| other.id == broker.id) => {
                report.problem(
                    line,
                    format!("experimental.broker.brokers[{}].id: duplicate broker id", broker.id),
                );
            }
            Ok(broker) => brokers.push(broker),
        }
    }
    section.finish(Strictness::RefuseBare, "broker", no_hint);
    Some(K8sBrokers { access_policy, brokers })
}

fn access_policy(section: &Section<'_>) -> AccessPolicy {
    let policy = section.text("access_policy");
    let unsupported = match policy.as_ref().map(|policy| policy.value.as_str()) {
        Some("permissive") => return AccessPolicy::Permissive,
        Some("enforced") => return AccessPolicy::Enforced,
        Some(other) => format!("unsupported value {other:?}; must be one of"),
        None => "must be specified as one of".to_owned(),
    };
    let line = policy.map_or(section.line, |policy| policy.line);
    let message = format!("experimental.broker.access_policy: {unsupported} [permissive, enforced]");
    section.report().problem(line, message);
    AccessPolicy::default()
}

fn read_broker(section: Section<'_>, at: usize) -> Result<K8sBroker, String> {
    let (id, scope) = (section.text("id"), section.text("pod_reference_scope"));
    section.finish(Strictness::RefuseBare, "brokers", no_hint);
    let Some(id) = id.map(|id| id.value) else {
        return Err(format!("experimental.broker.brokers[{at}].id: must be specified"));
    };
    if let Err(error) = trust_domain::parse_id(&id) {
        return Err(format!("experimental.broker.brokers[{id}].id: {error}"));
    }
    let pod_reference_scope = match scope.as_ref().map_or("agent_node", |scope| &scope.value) {
        "agent_node" => PodReferenceScope::AgentNode,
        "cluster" => PodReferenceScope::Cluster,
        other => {
            return Err(format!(
                "experimental.broker.brokers[{id}].pod_reference_scope: unsupported value {other:?}; \
                 must be one of [agent_node, cluster]"
            ));
        }
    };
    Ok(K8sBroker { id, pod_reference_scope })
}
