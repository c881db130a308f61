//! The agent.conf of the demo's agents.

use std::fmt::Write as _;
use std::path::Path;

use super::plan::Cluster;

/// How the agent proves which node it runs on.
pub(crate) enum Attestation<'a> {
    /// By a service account token, which Kubernetes would mount. The built-in server makes it in place of the cluster.
    K8sPsat {
        token: &'a Path,
    },
    JoinToken(&'a str),
}

/// The values that an agent.conf depends on.
pub(crate) struct AgentConf<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) directory: &'a Path,
    pub(crate) socket: &'a Path,
    pub(crate) server: (&'a str, u16),
    pub(crate) bundle: &'a Path,
    pub(crate) trust_domain: &'a str,
    pub(crate) attestation: Attestation<'a>,
    pub(crate) health_port: u16,
}

impl AgentConf<'_> {
    /// The text of the file.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "agent {{");
        let _ = writeln!(text, "  data_dir = {:?}", self.directory);
        let _ = writeln!(text, "  log_level = \"DEBUG\"");
        let _ = writeln!(text, "  server_address = {:?}", self.server.0);
        let _ = writeln!(text, "  server_port = \"{}\"", self.server.1);
        let _ = writeln!(text, "  socket_path = {:?}", self.socket);
        let _ = writeln!(text, "  trust_bundle_path = {:?}", self.bundle);
        let _ = writeln!(text, "  trust_domain = {:?}", self.trust_domain);
        if let Attestation::JoinToken(token) = self.attestation {
            let _ = writeln!(text, "  join_token = {token:?}");
        }
        let attestor = match self.attestation {
            Attestation::K8sPsat { token } => {
                format!(
                    "NodeAttestor \"k8s_psat\" {{ plugin_data {{ cluster = {:?} token_path = {token:?} }} }}",
                    self.cluster.name()
                )
            }
            Attestation::JoinToken(_) => "NodeAttestor \"join_token\" { plugin_data {} }".to_owned(),
        };
        let _ = write!(
            text,
            r#"}}
plugins {{
  {attestor}
  KeyManager "memory" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true workload_size_limit = -1 }} }}
}}
health_checks {{
  listener_enabled = true
  bind_address = "127.0.0.1"
  bind_port = "{}"
  live_path = "/live"
  ready_path = "/ready"
}}
"#,
            self.health_port
        );
        text
    }
}
