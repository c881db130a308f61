//! The configuration of an Envoy, as App Mesh writes it: one static cluster for the agent, the SPIFFE IDs of the
//! workload and of the trust domain as secret names, and exactly the permitted peers.

use std::path::Path;

use serde_json::{Value, json};

/// How an Envoy asks for its secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Asks {
    /// By Envoy's own gRPC client, state of the world (`GRPC`).
    #[default]
    ByName,
    /// The same by Google's gRPC library.
    ByGoogleGrpc,
    /// By Envoy's own gRPC client, in differences (`DELTA_GRPC`).
    ByDelta,
}

/// The values that the configuration of one Envoy depends on.
#[derive(Debug, Clone, Copy)]
pub struct Sidecar<'a> {
    /// The name. The SPIFFE ID, if Envoy gets one, is `spiffe://TRUST_DOMAIN/NAME`.
    pub name: &'a str,
    /// The trust domain, without `spiffe://`.
    pub trust_domain: &'a str,
    /// The agent's socket.
    pub agent: &'a Path,
    /// The names of the workloads that may call, by mTLS. If it is empty, Envoy serves plain HTTP to this machine.
    pub callers: &'a [&'a str],
    /// The name and port of the workload that it calls. Without one, Envoy answers itself.
    pub upstream: Option<(&'a str, u16)>,
    /// How it asks for its secrets.
    pub asks: Asks,
    /// The name of the secret with its certificate, if it is not its SPIFFE ID.
    pub certificate: Option<&'a str>,
    /// The name of the secret with the authorities of its peers, if it is not the SPIFFE ID of their trust domain.
    pub authorities: Option<&'a str>,
    /// The trust domain of its callers and of what it calls, if it is another than its own.
    pub foreign: Option<&'a str>,
    /// Whether Envoy listens after a second even without secrets.
    pub impatient: bool,
}

impl Sidecar<'_> {
    pub(super) fn bootstrap(&self) -> Value {
        let mut clusters = Vec::new();
        if self.asks != Asks::ByGoogleGrpc {
            clusters.push(self.sds_cluster());
        }
        clusters.extend(self.upstream.map(|(name, port)| self.upstream(name, port)));
        json!({
            "node": { "id": self.name, "cluster": "test" },
            "admin": { "address": loopback(0) },
            "static_resources": { "listeners": [self.listener()], "clusters": clusters },
        })
    }

    fn sds_cluster(&self) -> Value {
        json!({
            "name": SDS_CLUSTER,
            "type": "STATIC",
            "connect_timeout": "1s",
            "http2_protocol_options": {},
            "load_assignment": { "cluster_name": SDS_CLUSTER, "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": { "pipe": { "path": self.agent } } },
            }] }] },
        })
    }

    fn listener(&self) -> Value {
        let action = match self.upstream {
            Some((name, _)) => json!({ "match": { "prefix": "/" }, "route": { "cluster": name } }),
            None => {
                let body = json!({ "inline_string": self.name });
                json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200, "body": body } })
            }
        };
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            } }],
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [action] }] },
        });
        let mut chain = json!({ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }] });
        if !self.callers.is_empty() {
            chain["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": self.tls(self.callers),
            } });
        }
        json!({ "name": "in", "stat_prefix": "in", "address": loopback(0), "filter_chains": [chain] })
    }

    /// The cluster of a callee. Each request has its own connection and full handshake, so that it uses the present
    /// secrets.
    fn upstream(&self, name: &str, port: u16) -> Value {
        json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "2s",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": loopback(port) },
            }] }] },
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": { "max_requests_per_connection": 1 },
                "explicit_http_config": { "http_protocol_options": {} },
            } },
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "max_session_keys": 0,
                "common_tls_context": self.tls(&[name]),
            } },
        })
    }

    fn tls(&self, peers: &[&str]) -> Value {
        let own = format!("spiffe://{}/{}", self.trust_domain, self.name);
        let domain = format!("spiffe://{}", self.foreign.unwrap_or(self.trust_domain));
        let exact =
            |peer: &&str| json!({ "san_type": "URI", "matcher": { "exact": format!("{domain}/{peer}") } });
        json!({
            "tls_certificate_sds_secret_configs": [self.secret(self.certificate.unwrap_or(&own))],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": peers.iter().map(exact).collect::<Vec<_>>(),
                },
                "validation_context_sds_secret_config": self.secret(self.authorities.unwrap_or(&domain)),
            },
        })
    }

    fn secret(&self, name: &str) -> Value {
        let service = if self.asks == Asks::ByGoogleGrpc {
            let target = format!("unix:{}", self.agent.display());
            json!({ "google_grpc": { "target_uri": target, "stat_prefix": "agent" } })
        } else {
            json!({ "envoy_grpc": { "cluster_name": SDS_CLUSTER } })
        };
        let kind = if self.asks == Asks::ByDelta { "DELTA_GRPC" } else { "GRPC" };
        json!({ "name": name, "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": if self.impatient { "1s" } else { "15s" },
            "api_config_source": {
                "api_type": kind,
                "transport_api_version": "V3",
                "grpc_services": [service],
            },
        } })
    }
}

fn loopback(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

/// The name of the agent's cluster. Users grep for it.
pub(super) const SDS_CLUSTER: &str = "static_cluster_sds_unix_socket";
