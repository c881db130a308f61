//! Log lines of the start and of the stop, in spire-agent's words (`run_posix.go`, `agent.go`, `endpoints.go`, `catalog.go`).

use std::path::{Path, PathBuf};

use config::{KeyManager, NodeAttestor, Plugins, RateLimits, Settings, WorkloadAttestor};
use tracing::{info, warn};

use crate::door::Rate;

/// The settings that the agent starts with, and what in them does nothing.
pub(super) fn starting(settings: &Settings) {
    let data_dir = settings.data_dir.display();
    let version = crate::version::compatible();
    info!(version, %data_dir, trust_domain_id = %settings.trust_domain, "Starting agent");
    for warning in &settings.warnings {
        match warning.alert_type {
            Some(alert_type) => warn!(alert = true, alert_type, "{}", warning.message),
            None => warn!("{}", warning.message),
        }
    }
}

/// The folder of the public socket is missing, and is made.
pub(super) fn creating_folder(socket: Option<&Path>) {
    if let Some(dir) = missing_folder(socket) {
        info!(dir = %dir.display(), "Creating spire agent UDS directory");
    }
}

/// The folder of the admin socket is missing, and is made.
pub(super) fn creating_admin_folder(socket: Option<&Path>) {
    if let Some(dir) = missing_folder(socket) {
        info!(dir = %dir.display(), "Creating admin UDS directory");
    }
}

fn missing_folder(socket: Option<&Path>) -> Option<PathBuf> {
    socket?.parent().filter(|folder| !folder.exists()).map(Path::to_owned)
}

/// The umask was changed from `before`.
pub(super) fn umask_changed(before: u32, now: u32) {
    if before != now {
        warn!("Current umask 0{before:03o} is too permissive; setting umask 0{now:03o}");
    }
}

/// The plugins are in use.
pub(super) fn plugins_loaded(plugins: &Plugins) {
    let node = match plugins.node_attestor {
        NodeAttestor::HttpChallenge(_) => ("http_challenge", true),
        NodeAttestor::JoinToken => ("join_token", false),
        NodeAttestor::K8sPsat { .. } => ("k8s_psat", true),
        NodeAttestor::X509Pop(_) => ("x509pop", true),
    };
    let keys = match plugins.key_manager {
        KeyManager::Memory => ("memory", false),
        KeyManager::Disk { .. } => ("disk", true),
    };
    plugin_loaded("NodeAttestor", node);
    plugin_loaded("KeyManager", keys);
    for attestor in &plugins.workload_attestors {
        let workload = match attestor {
            WorkloadAttestor::Unix { .. } => ("unix", true),
            WorkloadAttestor::K8s(_) => ("k8s", true),
            WorkloadAttestor::Docker(_) => ("docker", true),
            WorkloadAttestor::Systemd => ("systemd", false),
            WorkloadAttestor::Slurm => ("slurm", false),
        };
        plugin_loaded("WorkloadAttestor", workload);
    }
}

fn plugin_loaded(plugin_type: &str, (plugin_name, configurable): (&str, bool)) {
    let (subsystem_name, external) = ("catalog", false);
    if configurable {
        info!(
            subsystem_name,
            external,
            plugin_name,
            plugin_type,
            reconfigurable = false,
            "Configured plugin"
        );
    }
    info!(subsystem_name, external, plugin_name, plugin_type, "Plugin loaded");
}

/// Which methods have a rate limit.
pub(super) fn rates(limits: &RateLimits) {
    for (rate, limit) in [
        (Rate::FetchX509Svid, limits.fetch_x509_svid),
        (Rate::FetchJwtSvid, limits.fetch_jwt_svid),
        (Rate::FetchX509Bundles, limits.fetch_x509_bundles),
        (Rate::FetchJwtBundles, limits.fetch_jwt_bundles),
        (Rate::StreamSecrets, limits.stream_secrets),
        (Rate::FetchSecrets, limits.fetch_secrets),
    ] {
        if limit > 0 {
            let subsystem_name = "endpoints";
            info!(subsystem_name, method = %rate, limit, "Workload API/SDS rate limiting enabled");
        }
    }
}

/// The public socket is open.
pub(super) fn serving(settings: &Settings, address: &Path) {
    let (subsystem_name, address) = ("endpoints", address.display());
    info!(subsystem_name, %address, network = "unix", apis = apis(settings), "Starting agent APIs");
}

/// Both APIs of the public socket are off.
pub(super) fn not_serving() {
    info!(apis = "Workload and SDS APIs", "Skipping agent APIs because public endpoint is disabled");
}

/// The admin socket is open.
pub(super) fn serving_admin(address: &Path) {
    info!(address = %address.display(), network = "unix", "Starting Admin APIs");
}

/// The sockets are closed.
pub(super) fn stopping(settings: &Settings) {
    if !(settings.disable_workload_api && settings.disable_sds_api) {
        info!(subsystem_name = "endpoints", apis = apis(settings), "Stopping agent APIs");
    }
    if let Some(path) = &settings.admin_socket_path {
        let address = path.display();
        info!(%address, network = "unix", "Stopping Admin APIs");
        info!(%address, network = "unix", "Admin APIs have stopped");
    }
}

fn apis(settings: &Settings) -> &'static str {
    match (settings.disable_workload_api, settings.disable_sds_api) {
        (false, false) => "Workload and SDS APIs",
        (false, true) => "Workload API",
        _ => "SDS API",
    }
}
