//! Workload attestors: they find out the selectors of a calling process.

pub mod docker;
pub mod k8s;
mod looks;
pub mod slurm;
mod socket;
pub mod systemd;
pub mod unix;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use identity::{Selector, Selectors};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};
use transport::Peer;

/// One configured attestor.
#[derive(Debug)]
pub enum Attestor {
    /// The `unix` attestor: credentials, and path and hash of the binary.
    Unix(unix::Unix),
    /// The `k8s` attestor: the pod and the container.
    K8s(Box<k8s::K8s>),
    /// The `docker` attestor: the container that Docker or Podman runs.
    Docker(Box<docker::Docker>),
    /// The `systemd` attestor: the unit.
    Systemd(Box<systemd::Systemd>),
    /// The `slurm` attestor: the job and its step.
    Slurm(slurm::Slurm),
}

/// What all attestors together found out about a process.
#[derive(Debug)]
pub struct WorkloadSelectors {
    /// The selectors of all attestors. None is a success, too: nothing is known of the process.
    pub selectors: Selectors,
    /// Whether all of it comes from one read of the process's status, which also had the credentials of the connection.
    /// Otherwise the process may have changed between two reads.
    pub from_one_read: bool,
    /// No attestor failed, so that no selector is missing for that reason.
    pub is_complete: bool,
}

/// Selectors as they may be logged: a variable of a container's environment without its value, which may be a password.
pub struct Logged<'a>(pub &'a Selectors);

impl fmt::Debug for Logged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_set();
        for selector in self.0 {
            let variable = selector.value.strip_prefix("env:").filter(|_| *selector.kind == *"docker");
            match variable.and_then(|variable| variable.split_once('=')) {
                Some((name, _)) => shown.entry(&format_args!("docker:env:{name}=…")),
                None => shown.entry(selector),
            };
        }
        shown.finish()
    }
}

/// Every attestor failed, so that nothing is known of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("workload attestation failed")]
pub struct AllFailed {
    /// The name in Go of the first one's gRPC code.
    pub status: &'static str,
}

impl Attestor {
    /// The plugin's name, which is also the kind of its selectors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unix(_) => "unix",
            Self::K8s(_) => "k8s",
            Self::Docker(_) => "docker",
            Self::Systemd(_) => "systemd",
            Self::Slurm(_) => "slurm",
        }
    }

    /// A counter that grows when a new attestation of a process may find more than before. `None` if that cannot
    /// happen.
    #[must_use]
    pub fn news(&self) -> Option<watch::Receiver<u64>> {
        match self {
            Self::K8s(k8s) => Some(k8s.news()),
            _ => None,
        }
    }

    fn reads_once(&self) -> bool {
        match self {
            Self::Unix(unix) => unix.reads_once(),
            _ => false,
        }
    }

    async fn attest(&self, peer: &Peer) -> Result<Vec<Selector>, AttestorError> {
        match self {
            Self::Unix(unix) => Ok(unix.attest(peer.process.pid, peer.uid, peer.gid, peer.group()).await?),
            Self::K8s(k8s) => Ok(k8s.attest(peer.process.pid).await?),
            Self::Docker(docker) => {
                let found = docker.attest(peer.process.pid).await?;
                if found.left_out > 0 && peer.complain("left out") {
                    let (pid, left_out) = (peer.process.pid, found.left_out);
                    warn!(
                        pid,
                        left_out, "Labels or variables of a container are left out: too long, or too many"
                    );
                }
                Ok(found.selectors.clone())
            }
            Self::Systemd(systemd) => Ok(systemd.attest(peer.process.pid).await?),
            Self::Slurm(slurm) => Ok(slurm.attest(peer.process.pid)?),
        }
    }
}

/// Why one attestor failed.
#[derive(Debug, thiserror::Error)]
enum AttestorError {
    #[error("workloadattestor(unix): {0}")]
    Unix(#[from] unix::UnixError),
    #[error("rpc error: code = {code} desc = workloadattestor(k8s): {0}", code = .0.code())]
    K8s(#[from] k8s::K8sError),
    #[error("rpc error: code = {code} desc = workloadattestor(docker): {0}", code = .0.code())]
    Docker(#[from] docker::DockerError),
    #[error("rpc error: code = {code} desc = workloadattestor(systemd): {0}", code = .0.code())]
    Systemd(#[from] systemd::SystemdError),
    #[error("rpc error: code = {code} desc = workloadattestor(slurm): {0}", code = .0.code())]
    Slurm(#[from] slurm::SlurmError),
}

impl AttestorError {
    /// The name in Go of the gRPC code that the plugin has for it.
    fn code(&self) -> &'static str {
        match self {
            Self::Unix(_) => "Internal",
            Self::K8s(reason) => reason.code(),
            Self::Docker(reason) => reason.code(),
            Self::Systemd(reason) => reason.code(),
            Self::Slurm(reason) => reason.code(),
        }
    }
}

/// What one attestor says of a process, for an operator.
#[derive(Debug)]
pub struct Examined {
    /// The attestor's name.
    pub name: &'static str,
    /// What it says.
    pub outcome: Examination,
}

/// The outcome of asking one attestor.
#[derive(Debug)]
pub enum Examination {
    /// The selectors that it found; none if the process is nothing that it knows of.
    Found(Vec<Selector>),
    /// The process is in a container of a pod that its source does not list yet.
    Unseen(String),
    /// It failed, for this reason.
    Failed(String),
}

/// Asks all attestors at once, each for at most `patience`.
pub async fn examine(attestors: &[Arc<Attestor>], peer: &Peer, patience: Duration) -> Vec<Examined> {
    let ask = async |attestor: &Arc<Attestor>| {
        let outcome = match (timeout(patience, attestor.attest(peer)).await, &**attestor) {
            (Ok(Ok(selectors)), _) => Examination::Found(selectors),
            (Ok(Err(reason @ AttestorError::K8s(k8s::K8sError::NotFound))), _) => {
                Examination::Unseen(reason.to_string())
            }
            (Ok(Err(reason)), _) => Examination::Failed(reason.to_string()),
            // It waits until the container is in the list of pods.
            (Err(_), Attestor::K8s(_)) => Examination::Unseen(format!("not found within {patience:?}")),
            (Err(_), _) => Examination::Failed(format!("no answer within {patience:?}")),
        };
        Examined { name: attestor.name(), outcome }
    };
    join_all(attestors.iter().map(ask)).await
}

/// Asks all attestors at once. An attestor that fails is logged and left out (SPIRE, `workload.go`). `asked` hears of
/// each attestor: its name, when it was asked, and the name in Go of the gRPC code of its answer.
///
/// # Errors
/// [`AllFailed`], if there are attestors and every one failed.
pub async fn attest(
    attestors: &[Arc<Attestor>],
    peer: &Peer,
    asked: impl Fn(&'static str, Instant, &'static str),
) -> Result<WorkloadSelectors, AllFailed> {
    let ask = async |attestor: &Arc<Attestor>| {
        let began = Instant::now();
        let answer = attestor.attest(peer).await;
        asked(attestor.name(), began, answer.as_ref().map_or_else(AttestorError::code, |_| "OK"));
        answer
    };
    let answers = join_all(attestors.iter().map(ask)).await;
    let mut found = Vec::new();
    let mut failed = 0;
    let mut status = "OK";
    for (attestor, answer) in attestors.iter().zip(answers) {
        match answer {
            Ok(selectors) => found.extend(selectors),
            Err(reason) => {
                if failed == 0 {
                    status = reason.code();
                }
                failed += 1;
                if !peer.complain(attestor.name()) {
                    continue;
                }
                error!(pid = peer.process.pid, error = %reason, "workload attestor {:?} failed", attestor.name());
            }
        }
    }
    if failed > 0 && failed == attestors.len() {
        return Err(AllFailed { status });
    }
    Ok(WorkloadSelectors {
        selectors: found.into_iter().collect(),
        from_one_read: !attestors.is_empty() && attestors.iter().all(|attestor| attestor.reads_once()),
        is_complete: failed == 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variables_are_not_logged() {
        let values = [("docker", "env:PASSWORD=hush=x"), ("docker", "env:NAME"), ("docker", "label:env:a=b")];
        let selectors: Selectors =
            values.into_iter().map(|(kind, value)| Selector::new(kind, value).unwrap()).collect();
        let logged = format!("{:?}", Logged(&selectors));
        assert_eq!(logged, "{docker:env:NAME, docker:env:PASSWORD=…, docker:label:env:a=b}");
        let plain: Selectors = [Selector::new("unix", "uid:0").unwrap()].into_iter().collect();
        assert_eq!(format!("{:?}", Logged(&plain)), format!("{plain:?}"));
    }
}
