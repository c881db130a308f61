//! The workload attestors, from what agent.conf says.

use std::path::Path;

use attestors::workload::{Attestor, docker, k8s, slurm, systemd, unix};
use config::{DockerOptions, Experimental, Plugins, UnixPaths, WorkloadAttestor};

use crate::kubernetes;
use crate::life::Fatal;

/// Makes the attestors. `proc` is the folder in which procfs is mounted.
pub(super) fn attestors(
    plugins: &Plugins,
    experimental: &Experimental,
    proc: &Path,
) -> Result<Vec<Attestor>, Fatal> {
    plugins.workload_attestors.iter().map(|configured| attestor(configured, experimental, proc)).collect()
}

/// Makes one attestor.
pub(super) fn attestor(
    configured: &WorkloadAttestor,
    experimental: &Experimental,
    proc: &Path,
) -> Result<Attestor, Fatal> {
    match configured {
        WorkloadAttestor::Unix { discover_workload_path, workload_size_limit } => {
            Ok(Attestor::Unix(unix::Unix::new(unix::Options {
                discover_workload_path: *discover_workload_path,
                workload_size_limit: *workload_size_limit,
                paths: match experimental.unix_paths {
                    UnixPaths::Any => unix::Paths::Any,
                    UnixPaths::Host => unix::Paths::Host,
                },
                proc: proc.to_owned(),
            })))
        }
        WorkloadAttestor::K8s(k8s) => {
            let options = kubernetes::options(k8s, experimental, proc).map_err(Fatal::StartUp)?;
            Ok(Attestor::K8s(Box::new(k8s::K8s::new(options))))
        }
        WorkloadAttestor::Docker(options) => {
            Ok(Attestor::Docker(Box::new(docker::Docker::new(docker(options, proc)))))
        }
        WorkloadAttestor::Systemd => {
            let addresses = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().filter(|text| !text.is_empty());
            Ok(Attestor::Systemd(Box::new(systemd::Systemd::new(addresses.as_deref(), proc))))
        }
        WorkloadAttestor::Slurm => Ok(Attestor::Slurm(slurm::Slurm::new(proc))),
    }
}

fn docker(configured: &DockerOptions, proc: &Path) -> docker::Options {
    let users = &configured.podman_user_sockets;
    docker::Options {
        docker_socket_path: configured.docker_socket_path.clone(),
        docker_version: configured.docker_version,
        container_id_cgroup_matchers: configured.container_id_cgroup_matchers.clone(),
        verbose_container_locator_logs: configured.verbose_container_locator_logs,
        podman_socket_path: configured.podman_socket_path.clone(),
        podman_user_sockets: (users.before.clone(), users.after.clone()),
        proc: proc.to_owned(),
    }
}
