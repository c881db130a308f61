//! The configuration of a workload's Envoy.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::failure::Failure;
use super::plan::{Workload, spiffe_id};

/// The values that the configuration of one Envoy depends on.
pub(crate) struct Sidecar<'a> {
    pub(crate) workload: &'a Workload,
    pub(crate) trust_domain: &'a str,
    pub(crate) agent_socket: &'a Path,
    pub(crate) admin_port: u16,
    pub(crate) port: u16,
    /// The port of another workload's listener, by its name.
    pub(crate) port_of: &'a dyn Fn(&str) -> u16,
}

impl Sidecar<'_> {
    /// Writes the bootstrap, and the files that it refers to, into a directory. Returns the bootstrap's path.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub(crate) fn write(&self, directory: &Path) -> Result<PathBuf, Failure> {
        let put = |name: String, value: &Value| {
            let path = directory.join(name);
            let written = fs::write(&path, format!("{value:#}\n"));
            written.map_err(|reason| Failure::new(format!("cannot write {}: {reason}", path.display())))?;
            Ok(path)
        };
        let name = self.workload.name;
        let clusters: Vec<Value> =
            self.workload.routes.iter().map(|(_, callee)| self.upstream(callee)).collect();
        let mut bootstrap = json!({
            "node": { "id": name, "cluster": self.workload.cluster.name() },
            "admin": { "address": loopback(self.admin_port) },
        });
        if self.workload.dynamic {
            let lds = put(format!("{name}.lds.json"), &discovery(LISTENER, vec![self.listener()]))?;
            let cds = put(format!("{name}.cds.json"), &discovery(CLUSTER, clusters))?;
            let file = |path: PathBuf| json!({ "resource_api_version": "V3", "path_config_source": { "path": path } });
            bootstrap["dynamic_resources"] = json!({ "lds_config": file(lds), "cds_config": file(cds) });
            bootstrap["static_resources"] = json!({ "clusters": [self.sds_cluster()] });
        } else {
            let clusters: Vec<Value> = [self.sds_cluster()].into_iter().chain(clusters).collect();
            bootstrap["static_resources"] = json!({ "listeners": [self.listener()], "clusters": clusters });
        }
        put(format!("{name}.json"), &bootstrap)
    }

    /// The cluster of the agent's socket, as in App Mesh's Envoy: static, with only the pipe.
    fn sds_cluster(&self) -> Value {
        json!({
            "name": SDS_CLUSTER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "http2_protocol_options": {},
            "load_assignment": { "cluster_name": SDS_CLUSTER, "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": { "pipe": { "path": self.agent_socket } } },
            }] }] },
        })
    }

    fn listener(&self) -> Value {
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": STATS,
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            } }],
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": self.routes() }] },
        });
        let mut chain = json!({ "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }] });
        if !self.workload.callers.is_empty() {
            chain["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": self.tls(self.workload.callers),
            } });
        }
        json!({
            "name": "ingress",
            "stat_prefix": STATS,
            "address": loopback(self.port),
            "filter_chains": [chain],
        })
    }

    fn routes(&self) -> Vec<Value> {
        if self.workload.routes.is_empty() {
            let body = json!({ "inline_string": format!("{}\n", self.workload.name) });
            return vec![
                json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": body } }),
            ];
        }
        let route = |(prefix, callee): &(&str, &str)| json!({ "match": { "prefix": prefix }, "route": { "cluster": callee } });
        self.workload.routes.iter().map(route).collect()
    }

    /// The cluster of a callee. Each request has its own connection and full handshake, so that it uses the present
    /// certificates.
    fn upstream(&self, callee: &str) -> Value {
        json!({
            "name": callee,
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": { "cluster_name": callee, "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": loopback((self.port_of)(callee)) },
            }] }] },
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": { "max_requests_per_connection": 1 },
                "explicit_http_config": { "http_protocol_options": {} },
            } },
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "max_session_keys": 0,
                "common_tls_context": self.tls(&[callee]),
            } },
        })
    }

    /// The TLS context: the workload's certificate, the trust domain's authorities, and exactly these peers.
    fn tls(&self, peers: &[&str]) -> Value {
        let exact = |peer: &&str| json!({ "san_type": "URI", "matcher": { "exact": spiffe_id(self.trust_domain, peer) } });
        json!({
            "tls_certificate_sds_secret_configs": [self.secret(&self.workload.id(self.trust_domain))],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": peers.iter().map(exact).collect::<Vec<_>>() },
                "validation_context_sds_secret_config": self.secret(&format!("spiffe://{}", self.trust_domain)),
            },
        })
    }

    fn secret(&self, name: &str) -> Value {
        // Envoy opens its listener only when it has all secrets or this time is over. With the default of 15 s the
        // latecomer would refuse connections for half a minute, but it should show that its calls fail.
        let patience = if self.workload.registered { "15s" } else { "1s" };
        json!({ "name": name, "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": patience,
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": SDS_CLUSTER } }],
            },
        } })
    }
}

/// The content of a file for LDS or CDS.
fn discovery(kind: &str, resources: Vec<Value>) -> Value {
    let typed = resources.into_iter().map(|mut resource| {
        resource["@type"] = kind.into();
        resource
    });
    json!({ "version_info": "1", "resources": typed.collect::<Vec<_>>() })
}

fn loopback(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

/// The cluster that leads to the agent.
pub(crate) const SDS_CLUSTER: &str = "static_cluster_sds_unix_socket";
/// The prefix of the listener's statistics: `listener.in.…`, `http.in.…`.
pub(crate) const STATS: &str = "in";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
