//! The node attestor that the configuration asks for.

use std::sync::Arc;

use attestors::node::{Attestor as NodeAttestor, HttpChallenge, JoinToken, K8sPsat, X509Pop};
use config::{Plugins, Settings};

use crate::upstream::parent;

/// The node attestor. A configured join token takes precedence over the attestor plugin (SPIRE, `agent.go`).
pub(crate) fn node_attestor(settings: &Settings, plugins: &Plugins) -> NodeAttestor {
    if let Some(token) = &settings.join_token {
        return JoinToken::new(token.expose().to_owned()).into();
    }
    node_attestor_of(&plugins.node_attestor)
}

/// The attestor of a plugin.
pub(super) fn node_attestor_of(configured: &config::NodeAttestor) -> NodeAttestor {
    match configured {
        config::NodeAttestor::HttpChallenge(challenge) => {
            let config::HttpChallenge { hostname, agent_name, port, advertised_port } = challenge.clone();
            HttpChallenge { hostname, agent_name, port, advertised_port }.into()
        }
        config::NodeAttestor::JoinToken => JoinToken::new(String::new()).into(),
        config::NodeAttestor::K8sPsat { cluster, token_path } => {
            K8sPsat { cluster: cluster.clone(), token_path: token_path.clone() }.into()
        }
        config::NodeAttestor::X509Pop(source) => x509pop(source.clone()).into(),
    }
}

fn x509pop(source: config::X509Pop) -> X509Pop {
    match source {
        config::X509Pop::Files { private_key, certificate, intermediates } => {
            X509Pop::files(private_key, certificate, intermediates)
        }
        config::X509Pop::WorkloadApi { address } => X509Pop::fetched(Arc::new(move || {
            let address = address.clone();
            Box::pin(async move { parent::credential(&address).await })
        })),
    }
}
