//! The plugins that spire-agent 1.15.3 has, and how many of each type it needs.

/// A type of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PluginType {
    KeyManager,
    NodeAttestor,
    SvidStore,
    WorkloadAttestor,
}

impl PluginType {
    pub(super) const ALL: [Self; 4] =
        [Self::KeyManager, Self::NodeAttestor, Self::SvidStore, Self::WorkloadAttestor];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KeyManager => "KeyManager",
            Self::NodeAttestor => "NodeAttestor",
            Self::SvidStore => "SVIDStore",
            Self::WorkloadAttestor => "WorkloadAttestor",
        }
    }

    /// The names of spire-agent's plugins of this type.
    pub(super) fn builtins(self) -> &'static [&'static str] {
        match self {
            Self::KeyManager => &["disk", "memory"],
            Self::NodeAttestor => &[
                "aws_iid",
                "azure_imds",
                "azure_msi",
                "gcp_iit",
                "http_challenge",
                "join_token",
                "k8s_psat",
                "sshpop",
                "tpm_devid",
                "x509pop",
            ],
            Self::SvidStore => &["aws_secretsmanager", "gcp_secretmanager"],
            Self::WorkloadAttestor => &["docker", "k8s", "slurm", "systemd", "unix", "windows"],
        }
    }

    /// Checks the number of plugins of this type. The error is in spire-agent's words.
    pub(super) fn check_count(self, count: usize) -> Result<(), String> {
        match self {
            Self::KeyManager | Self::NodeAttestor if count != 1 => {
                Err(format!("expected exactly 1 but got {count}"))
            }
            Self::WorkloadAttestor if count == 0 => Err(format!("expected at least 1 but got {count}")),
            _ => Ok(()),
        }
    }
}

/// The error for an unknown plugin, in spire-agent's words.
pub(super) fn no_builtin(kind: PluginType, name: &str) -> String {
    format!("failed to load plugin {name:?}: no built-in plugin {name:?} for type {:?}", kind.name())
}

/// What to write instead of a plugin that spire-agent no longer has. `cluster` is the value of that key in the
/// plugin's data.
pub(super) fn replacement(kind: PluginType, name: &str, cluster: Option<&str>) -> Option<String> {
    match (kind, name) {
        (PluginType::NodeAttestor, "k8s_sat") => {
            let cluster = cluster.unwrap_or("…");
            Some(format!(
                "write NodeAttestor \"k8s_psat\" {{ plugin_data {{ cluster = {cluster:?} }} }} and mount a \
                 projected service account token, audience spire-server, at \
                 /var/run/secrets/tokens/spire-agent"
            ))
        }
        _ => None,
    }
}
