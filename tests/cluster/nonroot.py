"""The image that runs as user 1000: what it can, and what it cannot.

The socket lies in the pod, where user 1000 may make it; the callers are a process of the agent's own container, and one of
root in a container beside it.
"""

import mesh
import spire
from kube import apply, kubectl, until

PARENT = f"spiffe://{mesh.TRUST_DOMAIN}/ns/{spire.NAMESPACES['front']}/sa/spire-agent-front"
SOCKET = "/run/spire/sockets/agent.sock"
PATH = "unix:path:/opt/spire/bin/finial"


def check(place):
    namespace = spire.NAMESPACES["front"]
    entry("nonroot/own", "k8s:container-name:spire-agent", "unix:uid:1000", PATH)
    entry("nonroot/other", "k8s:container-name:other")
    entry("nonroot/other-path", "k8s:container-name:other", PATH)
    kubectl("-n", namespace, "delete", "daemonset/spire-agent-front", "--wait=true")
    apply(*objects(place))
    spire.wait_ready()
    own = until("an identity for its own user", 60, lambda: fetch(namespace, "spire-agent", "nonroot/own"))[0]
    other = until("an identity for root's process", 60, lambda: fetch(namespace, "other", "nonroot/other"))[0]
    assert "Received 1 svid" in own and "Received 1 svid" in other, own + other
    kubectl("-n", namespace, "delete", "daemonset/spire-agent-front", "--wait=true")
    apply(*spire.agent("front", place, place.images["finial"]))
    spire.wait_ready()


def entry(path, *selectors):
    words = [word for selector in selectors for word in ("-selector", selector)]
    spire.server("entry", "create", "-parentID", PARENT, "-spiffeID", mesh.spiffe_id(path), *words)


def objects(place):
    found = spire.agent("front", place, place.images["finial-1000"])
    for item in found:
        if item["kind"] == "ConfigMap":
            plain, wanted = '"unix" {\n    plugin_data {}', '"unix" {\n    plugin_data { discover_workload_path = true }'
            assert plain in item["data"]["agent.conf"]
            item["data"]["agent.conf"] = item["data"]["agent.conf"].replace(plain, wanted)
        if item["kind"] == "DaemonSet":
            pod = item["spec"]["template"]["spec"]
            del pod["containers"][0]["securityContext"]["runAsUser"]
            volume = next(volume for volume in pod["volumes"] if volume["name"] == "sockets")
            del volume["hostPath"]
            volume["emptyDir"] = {}
            pod["containers"].append({
                "name": "other", "image": place.images["finial"], "imagePullPolicy": "Never",
                "command": ["/opt/spire/bin/finial", "api", "watch", "-socketPath", SOCKET],
                "volumeMounts": [{"name": "sockets", "mountPath": "/run/spire/sockets"}],
            })
    return found


def fetch(namespace, container, path):
    said = kubectl("-n", namespace, "exec", "daemonset/spire-agent-front", "-c", container, "--",
                   "/opt/spire/bin/finial", "api", "fetch", "x509", "-socketPath", SOCKET)
    return said if f"{mesh.spiffe_id(path)}\n" in said else None
