//! The demo's workloads, who may call whom, and their registration entries.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::{Entry, Options};

/// One of the two clusters, each with its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cluster {
    Frontend,
    Backend,
}

impl Cluster {
    pub(crate) const ALL: [Self; 2] = [Self::Frontend, Self::Backend];

    /// The agent's name, which is also the name of its folder and log.
    pub(crate) fn agent(self) -> &'static str {
        match self {
            Self::Frontend => "agent-frontend",
            Self::Backend => "agent-backend",
        }
    }

    /// The Kubernetes cluster for which the agent's token is made.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Frontend => "frontend-k8s-cluster",
            Self::Backend => "backend-k8s-cluster",
        }
    }

    pub(crate) fn service_account(self) -> &'static str {
        match self {
            Self::Frontend => "spire-agent-front",
            Self::Backend => "spire-agent-back",
        }
    }

    /// The SPIFFE ID of the cluster's node alias, the parent of its workloads.
    pub(crate) fn alias(self, trust_domain: &str) -> String {
        format!("spiffe://{trust_domain}/ns/spire/sa/{}", self.service_account())
    }
}

/// A workload: an Envoy that forwards or answers requests.
#[derive(Debug)]
pub(crate) struct Workload {
    /// The name. It is also the path of its SPIFFE ID and the name of its program.
    pub(crate) name: &'static str,
    pub(crate) cluster: Cluster,
    /// The workloads that may call it. If it is empty, the listener takes plain HTTP from the demo itself.
    pub(crate) callers: &'static [&'static str],
    /// The path prefixes and the workloads that get their requests. If it is empty, the answer is the workload's name.
    pub(crate) routes: &'static [(&'static str, &'static str)],
    /// Whether listeners and clusters come from files that Envoy watches, not from its bootstrap.
    pub(crate) dynamic: bool,
    /// Whether the server has its entry from the start.
    pub(crate) registered: bool,
}

impl Workload {
    pub(crate) fn id(&self, trust_domain: &str) -> String {
        spiffe_id(trust_domain, self.name)
    }

    /// Whether it is part of the application, and not the stranger or the latecomer.
    pub(crate) fn in_chain(&self) -> bool {
        !matches!(self.name, "stranger" | "latecomer")
    }
}

/// A workload's SPIFFE ID.
pub(crate) fn spiffe_id(trust_domain: &str, name: &str) -> String {
    format!("spiffe://{trust_domain}/{name}")
}

/// The number of [`WORKLOADS`]. Types cannot use `WORKLOADS.len()`, because with optimization rustc 1.95 finds a cycle
/// in that.
pub(crate) const WORKLOAD_COUNT: usize = 6;

/// The application, the stranger that may call nobody, and the latecomer.
pub(crate) const WORKLOADS: [Workload; WORKLOAD_COUNT] = [
    workload("frontend", Cluster::Frontend, &[], &[("/", "yelbapp")]),
    Workload {
        dynamic: true,
        ..workload(
            "yelbapp",
            Cluster::Backend,
            &["frontend", "latecomer"],
            &[("/db", "yelbdb"), ("/cache", "redis")],
        )
    },
    workload("yelbdb", Cluster::Backend, &["yelbapp"], &[]),
    workload("redis", Cluster::Backend, &["yelbapp"], &[]),
    workload("stranger", Cluster::Frontend, &[], &[("/", "yelbapp")]),
    Workload { registered: false, ..workload("latecomer", Cluster::Frontend, &[], &[("/", "yelbapp")]) },
];

const fn workload(
    name: &'static str,
    cluster: Cluster,
    callers: &'static [&'static str],
    routes: &'static [(&'static str, &'static str)],
) -> Workload {
    Workload { name, cluster, callers, routes, dynamic: false, registered: true }
}

/// The options of the built-in server. The lifetime of SVIDs is so short that the demo shows their replacement.
pub(crate) fn server_options(trust_domain: &str, programs: &Path) -> Options {
    let psat_clusters = Cluster::ALL
        .map(|cluster| (cluster.name().to_owned(), vec![format!("spire:{}", cluster.service_account())]));
    let nodes = Cluster::ALL.map(|cluster| node_entry(trust_domain, cluster));
    let registered = WORKLOADS.iter().filter(|workload| workload.registered);
    let workloads = registered.map(|workload| workload_entry(trust_domain, workload, programs));
    Options {
        trust_domain: trust_domain.to_owned(),
        svid_ttl: SVID_TTL,
        psat_clusters: BTreeMap::from(psat_clusters),
        entries: nodes.into_iter().chain(workloads).collect(),
        ..Options::default()
    }
}

fn node_entry(trust_domain: &str, cluster: Cluster) -> Entry {
    let selectors = [
        format!("k8s_psat:cluster:{}", cluster.name()),
        "k8s_psat:agent_ns:spire".to_owned(),
        format!("k8s_psat:agent_sa:{}", cluster.service_account()),
    ];
    let server = spiffe_id(trust_domain, "spire/server");
    Entry::new(cluster.alias(trust_domain), server, selectors.iter().map(String::as_str))
}

/// The registration entry of a workload.
pub(crate) fn workload_entry(trust_domain: &str, workload: &Workload, programs: &Path) -> Entry {
    let selector = selector(workload, programs);
    Entry::new(workload.id(trust_domain), workload.cluster.alias(trust_domain), [selector.as_str()])
}

fn selector(workload: &Workload, programs: &Path) -> String {
    format!("unix:path:{}", programs.join(workload.name).display())
}

/// The command that registers a workload with a real server.
pub(crate) fn entry_command(trust_domain: &str, workload: &Workload, programs: &Path) -> String {
    format!(
        "spire-server entry create -spiffeID {} -parentID {} -selector {} -x509SVIDTTL {}",
        workload.id(trust_domain),
        workload.cluster.alias(trust_domain),
        selector(workload, programs),
        REAL_SVID_TTL.as_secs(),
    )
}

/// The lifetime of SVIDs of the built-in server.
const SVID_TTL: Duration = Duration::from_secs(24);
/// The lifetime of SVIDs of a real server.
const REAL_SVID_TTL: Duration = Duration::from_mins(1);
