//! Reads the data of node attestors.

use super::{HttpChallenge, NodeAttestor, X509Pop};
use crate::WorkloadApi;
use crate::decode::{Section, Setting, Strictness, no_hint};

pub(super) fn http_challenge(section: Section<'_>) -> Option<NodeAttestor> {
    let agent_name = section.text("agentname");
    if let Some(name) = agent_name.as_ref().filter(|name| !is_agent_name(&name.value)) {
        let message = format!(
            "agentname: no server takes {:?}; write a letter, then letters, digits and hyphens, at most {LONGEST_NAME} in all",
            name.value
        );
        section.report().problem(name.line, message);
    }
    let attestor = HttpChallenge {
        hostname: section.text("hostname").map(|name| name.value),
        agent_name: agent_name.map_or_else(|| DEFAULT_AGENT_NAME.into(), |name| name.value),
        port: port(&section, "port").unwrap_or_default(),
        advertised_port: port(&section, "advertised_port"),
    };
    section.finish(Strictness::Ignore, "plugin_data", no_hint);
    Some(NodeAttestor::HttpChallenge(attestor))
}

/// A port. 0 counts as absent, as in spire-agent.
fn port(section: &Section<'_>, key: &'static str) -> Option<u16> {
    let Setting { value, line } = section.int(key).filter(|port| port.value != 0)?;
    let port = u16::try_from(value).ok();
    if port.is_none() {
        section.report().problem(line, format!("{key} must be from 0 to 65535, not {value}"));
    }
    port
}

/// The server's rule (SPIRE, `pkg/server/plugin/nodeattestor/httpchallenge`).
fn is_agent_name(name: &str) -> bool {
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    fits && name.len() <= LONGEST_NAME && name.starts_with(|first: char| first.is_ascii_alphabetic())
}

pub(super) fn k8s_psat(section: Section<'_>) -> Option<NodeAttestor> {
    let cluster = section.text("cluster");
    let token_path = section.text("token_path");
    if cluster.is_none() {
        section.report().problem(section.line, "missing required cluster block; write cluster = \"…\"");
    }
    section.finish(Strictness::Ignore, "plugin_data", no_hint);
    Some(NodeAttestor::K8sPsat {
        cluster: cluster?.value,
        token_path: token_path.map_or_else(|| DEFAULT_PSAT_PATH.into(), |path| path.value.into()),
    })
}

pub(super) fn x509pop(section: Section<'_>) -> Option<NodeAttestor> {
    let text = |key| section.text(key).filter(|text| !text.value.is_empty());
    let (key, certificate) = (text("private_key_path"), text("certificate_path"));
    let intermediates = text("intermediates_path").filter(|path| !path.value.trim().is_empty());
    let socket = text("spiffe_endpoint_socket");
    let source = match socket {
        Some(socket) => match WorkloadApi::parse(&socket.value) {
            Ok(address) => X509Pop::WorkloadApi { address },
            Err(reason) => {
                section.report().problem(socket.line, format!("spiffe_endpoint_socket: {reason}"));
                return None;
            }
        },
        None => {
            for (value, key) in [(&key, "private_key_path"), (&certificate, "certificate_path")] {
                if value.is_none() {
                    section.report().problem(section.line, format!("{key} is required"));
                }
            }
            X509Pop::Files {
                private_key: key?.value.into(),
                certificate: certificate?.value.into(),
                intermediates: intermediates.map(|path| path.value.into()),
            }
        }
    };
    section.finish(Strictness::Ignore, "plugin_data", no_hint);
    Some(NodeAttestor::X509Pop(source))
}

const DEFAULT_AGENT_NAME: &str = "default";
const LONGEST_NAME: usize = 32;
const DEFAULT_PSAT_PATH: &str = "/var/run/secrets/tokens/spire-agent";
