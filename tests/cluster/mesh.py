"""The services of the scenario: pods of a small web service and an Envoy beside it.

They use the node's network, one block of ports each, so that an Envoy finds its upstreams by a fixed address: the test's
node has neither cluster DNS nor service addresses, and a pod that comes anew keeps its address.
"""

import json
from dataclasses import dataclass, field

from kube import apply, kubectl

NAMESPACE = "yelb"
TRUST_DOMAIN = "am-multi-account-mesh"
SOCKET = "/run/spire/sockets/agent.sock"
SDS_CLUSTER = "static_cluster_sds_unix_socket"
ENVOY_TYPES = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class Service:
    """A service; its SPIFFE ID is `spiffe://TRUST_DOMAIN/IDENTITY`."""

    name: str
    identity: str
    # Which agent's socket: front or back.
    side: str
    block: int
    # Identities that may call it, and services that it calls.
    callers: tuple = ()
    calls: tuple = ()
    # The socket's file is mounted, as the scenario does; otherwise its directory.
    by_file: bool = True

    def port(self, what):
        return self.block + {"app": 0, "ingress": 1, "admin": 2, "egress": 5}[what]

    @property
    def spiffe_id(self):
        return spiffe_id(self.identity)


DB = Service("yelb-db", "yelbdb", "back", 18300, callers=("yelbapp",))
REDIS = Service("redis-server", "redis", "back", 18310, callers=("yelbapp",))
APP = Service("yelb-appserver", "yelbapp", "back", 18320, ("frontend", "late", "directory"), (DB, REDIS))
UI = Service("yelb-ui", "frontend", "front", 18330, calls=(APP,))
# Not of the scenario's mesh: each calls yelb-appserver.
LATE = Service("late", "late", "front", 18340, calls=(APP,))
STRANGER = Service("stranger", "stranger", "front", 18350, calls=(APP,))
DIRECTORY = Service("by-directory", "directory", "front", 18360, calls=(APP,), by_file=False)
MESH = (DB, REDIS, APP, UI)
ALL = (*MESH, DIRECTORY, LATE, STRANGER)


@dataclass
class Place:
    """Where the services run."""

    node: str
    address: str
    # On the node; below it a directory for each side's socket.
    root: str
    # Where the test writes.
    work: str
    images: dict = field(default_factory=dict)

    @property
    def sockets(self):
        return {side: f"{self.root}/{side}" for side in ("front", "back")}


def spiffe_id(path):
    return f"spiffe://{TRUST_DOMAIN}/{path}" if path else f"spiffe://{TRUST_DOMAIN}"


def deploy(service, place):
    """A ConfigMap with the Envoy's configuration, an account, a Deployment."""
    meta = {"name": service.name, "namespace": NAMESPACE}
    apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta,
         "data": {"envoy.json": json.dumps(bootstrap(service, place), indent=1)}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": service.name}},
            "template": {"metadata": {"labels": {"app": service.name}}, "spec": pod(service, place)},
        }},
    )


def pod(service, place):
    upstreams = [f"{other.name}=http://127.0.0.1:{service.port('egress') + index}/"
                 for index, other in enumerate(service.calls)]
    app = {
        "name": "app",
        "image": place.images["service"],
        "imagePullPolicy": "Never",
        "args": ["serve", f"127.0.0.1:{service.port('app')}", service.name, *upstreams],
    }
    socket = place.sockets[service.side]
    mounted = {"name": "agent", "mountPath": SOCKET if service.by_file else SOCKET.rpartition("/")[0]}
    envoy = {
        "name": "envoy",
        "image": place.images["envoy"],
        "imagePullPolicy": "Never",
        "args": ["-c", "/etc/envoy/envoy.json", "--base-id", str(service.block), "--concurrency", "1"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/envoy"}, mounted],
    }
    return {
        "serviceAccountName": service.name,
        "automountServiceAccountToken": False,
        "nodeName": place.node,
        "hostNetwork": True,
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 1,
        "containers": [app, envoy],
        "volumes": [
            {"name": "config", "configMap": {"name": service.name}},
            {"name": "agent", "hostPath": {"path": f"{socket}/agent.sock", "type": "Socket"} if service.by_file
             else {"path": socket, "type": "Directory"}},
        ],
    }


def bootstrap(service, place):
    """The scenario's Envoy: secrets over a static cluster, the own SPIFFE ID, exactly the peers that may be."""
    listeners = [listener(f"egress-{other.name}", "127.0.0.1", service.port("egress") + index, other.name)
                 for index, other in enumerate(service.calls)]
    clusters = [{
        "name": SDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "http2_protocol_options": {},
        "load_assignment": assignment(SDS_CLUSTER, {"pipe": {"path": SOCKET}}),
    }]
    for other in service.calls:
        clusters.append(upstream(service, other, place.address))
    if service.callers:
        ingress = listener("ingress", "0.0.0.0", service.port("ingress"), "app")
        ingress["filter_chains"][0]["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": f"{ENVOY_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": tls(service, service.callers),
        }}
        listeners.append(ingress)
        clusters.append({
            "name": "app", "type": "STATIC", "connect_timeout": "1s",
            "load_assignment": assignment("app", at("127.0.0.1", service.port("app"))),
        })
    return {
        "node": {"id": service.name, "cluster": "yelb"},
        "admin": {"address": at("127.0.0.1", service.port("admin"))},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def listener(name, address, port, cluster):
    manager = {
        "@type": f"{ENVOY_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": f"{ENVOY_TYPES}.filters.http.router.v3.Router",
        }}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": cluster}},
        ]}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": at(address, port), "filter_chains": [{"filters": filters}]}


def upstream(service, other, address):
    """A connection and a full handshake for each request, so that each shows the secrets of its moment."""
    return {
        "name": other.name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": assignment(other.name, at(address, other.port("ingress"))),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{ENVOY_TYPES}.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        }},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": f"{ENVOY_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext",
            "max_session_keys": 0,
            "common_tls_context": tls(service, (other.identity,)),
        }},
    }


def tls(service, peers):
    return {
        "tls_certificate_sds_secret_configs": [secret(service.spiffe_id)],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": spiffe_id(peer)}} for peer in peers
            ]},
            "validation_context_sds_secret_config": secret(spiffe_id("")),
        },
    }


def secret(name):
    service = {"envoy_grpc": {"cluster_name": SDS_CLUSTER}}
    return {"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": {
        "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service],
    }}}


def assignment(name, address):
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def at(address, port):
    return {"socket_address": {"address": address, "port_value": port}}


def fetch(service, url):
    """Asks from inside of the service's pod; returns the status and the body."""
    done = kubectl("-n", NAMESPACE, "exec", f"deploy/{service.name}", "-c", "app", "--", "/service", "get", url)
    status, _, body = done.partition("\n")
    return status, body


def admin(service, path):
    return fetch(service, f"http://127.0.0.1:{service.port('admin')}{path}")[1]


def call(service):
    """The service's own answer, with what it learned of those that it calls."""
    return fetch(service, f"http://127.0.0.1:{service.port('app')}/")[1]


def identities(service):
    """SPIFFE IDs in /certs: of CAs and of leaves."""
    found = {"ca_cert": set(), "cert_chain": set()}
    for certificate in json.loads(admin(service, "/certs")).get("certificates", []):
        for kind, names in found.items():
            for each in certificate.get(kind, []):
                names |= {name["uri"] for name in each.get("subject_alt_names", []) if "uri" in name}
    return found["ca_cert"], found["cert_chain"]


def stat(service, ending):
    """The sum of counters whose names end so."""
    text = admin(service, "/stats?filter=" + ending.replace(".", "%5C.") + "$")
    return sum(int(line.split(": ")[1]) for line in text.splitlines() if line.split(": ")[0].endswith(ending))


def sds_connected(service):
    """Whether the Envoy has its one connection to the agent."""
    clusters = admin(service, "/clusters")
    return (f"{SDS_CLUSTER}::{SOCKET}::cx_active::1" in clusters
            and f"{SDS_CLUSTER}::{SOCKET}::health_flags::healthy" in clusters)
