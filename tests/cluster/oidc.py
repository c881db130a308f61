"""The official chart's OIDC discovery provider beside its agent, with the chart's defaults: a SPIFFE CSI driver mounts the
agent's socket, spiffe-helper fetches the certificate that the provider serves with, and the provider asks the agent for the
JWT keys. Each program is built elsewhere; PROGRAMS says which variable names its path.

The provider keeps the last keys that it got. So each check makes a new key at the server first, and waits for that.
"""

import http.client
import json
import os
import socket
import ssl

import mesh
import nonroot
import spire
from kube import Failed, apply, get, kubectl, until

PROGRAMS = {
    "oidc-discovery-provider": "OIDC_DISCOVERY_PROVIDER",
    "spiffe-helper": "SPIFFE_HELPER",
    "spiffe-csi-driver": "SPIFFE_CSI_DRIVER",
    "csi-node-driver-registrar": "CSI_NODE_DRIVER_REGISTRAR",
}
TEMPLATES = tuple(f"spiffe-csi-driver/{part}" for part in ("daemonset", "serviceaccount", "spiffe-csi-driver")) + tuple(
    f"spiffe-oidc-discovery-provider/{part}" for part in ("configmap", "deployment", "serviceaccount"))
NAME = "oidc-discovery-provider"
NAMESPACE = spire.NAMESPACES["front"]
# A CSI driver belongs to the whole cluster, and the cluster may have one of the usual name.
DRIVER = f"{NAMESPACE}-csi.spiffe.io"
HOST = "oidc.test"


def missing(place):
    """The variables that are not set."""
    return [variable for name, variable in PROGRAMS.items() if name not in place.images]


def values(place, agent_socket, image):
    return {
        "spiffe-csi-driver": {
            "pluginName": DRIVER, "agentSocketPath": agent_socket,
            "kubeletPath": os.environ.get("KUBELET_ROOT", "/var/lib/kubelet"),
            "image": image(place.images["spiffe-csi-driver"]),
            "nodeDriverRegistrar": {"image": image(place.images["csi-node-driver-registrar"])},
        },
        "spiffe-oidc-discovery-provider": {
            "csiDriverName": DRIVER, "fullnameOverride": NAME,
            "image": image(place.images[NAME]), "spiffeHelper": {"image": image(place.images["spiffe-helper"])},
        },
    }


def register():
    """What the chart's controller manager would: an identity with the issuer's name in the certificate."""
    spire.server("entry", "create", "-parentID", nonroot.PARENT, "-spiffeID", mesh.spiffe_id(NAME), "-dns", HOST,
                 "-selector", f"k8s:ns:{NAMESPACE}", "-selector", f"k8s:sa:{NAME}")


def check(checks, place, who, daemonset):
    """With the agent that runs now; where the provider ran before, it must have gone on."""
    beside = f"the official chart's OIDC discovery provider beside {who}"
    checks.check(f"{beside}: starts, or went on through the swap; serves a new key", lambda: answers(started()))
    before = names()
    checks.check(f"{beside}: the agent is killed; it goes on, and serves a new key",
                 lambda: killed(place, daemonset) and answers(before))
    if who == "finial":
        checks.check(f"{beside}: started anew, gets its certificate and the keys from it", lambda: answers(anew()))


def started():
    kubectl("-n", NAMESPACE, "rollout", "status", f"deploy/{NAME}", "--timeout=180s")
    return names()


def anew():
    kubectl("-n", NAMESPACE, "rollout", "restart", f"deploy/{NAME}")
    return started()


def names():
    return [pod["metadata"]["name"] for pod in pods()]


def pods():
    found = get("-n", NAMESPACE, "pods", "-l", "component=oidc-discovery-provider")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def answers(expected):
    """The documents, over TLS that the server's bundle trusts, from the pod that is expected; it never died."""
    made = spire.server("localauthority", "jwt", "prepare").split()
    pod, = pods()
    assert [pod["metadata"]["name"]] == expected, f"the pod is new: {expected}"
    wanted = material(json.loads(spire.server("bundle", "show", "-format", "spiffe")), "jwt-svid")
    address = pod["status"]["podIP"]
    _, seconds = until("the server's JWT keys", 60, lambda: material(document(address, "/keys")) == wanted)
    assert any(key["kid"] in made for key in wanted), f"{made}: {wanted}"
    described = document(address, "/.well-known/openid-configuration")
    assert (described["issuer"], described["jwks_uri"]) == (f"https://{HOST}", f"https://{HOST}/keys"), described
    deaths = sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
    assert deaths == 0, f"its containers were started anew {deaths} times"
    return f"{len(wanted)} keys, the newest after {seconds:.1f} s"


def material(keys, use=None):
    """The keys of that use, without what the provider leaves out."""
    return sorted(({name: value for name, value in key.items() if name in ("kid", "kty", "crv", "x", "y", "n", "e")}
                   for key in keys["keys"] if key.get("use") == use), key=lambda key: key["kid"])


def document(address, path):
    context = ssl.create_default_context(cadata=spire.server("bundle", "show"))
    connection = http.client.HTTPSConnection(HOST, timeout=10)
    try:
        connection.sock = context.wrap_socket(socket.create_connection((address, 8443), 10), server_hostname=HOST)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200, f"{path}: {answer.status}"
        return json.load(answer)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"{path}: {error}") from None
    finally:
        connection.close()


def killed(place, daemonset):
    """SIGKILL for the agent's process by its container's ID in /proc; true when Kubernetes has started it anew."""
    before = agent(daemonset)
    script = f"for each in /proc/[0-9]*; do [[ $(<$each/cgroup) != *{before['containerID'].rpartition('/')[2]}* ]] || " \
             "kill -KILL ${each#/proc/}; done 2> /dev/null; true"
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "killer", "namespace": NAMESPACE}, "spec": {
        "hostPID": True, "nodeName": place.node, "restartPolicy": "Never", "containers": [{
            "name": "killer", "image": place.images["shell"], "imagePullPolicy": "Never", "command": ["/bin/bash", "-c", script],
        }]}})
    until("it is started anew and ready", 90, lambda: (now := agent(daemonset))["ready"]
          and now["restartCount"] == before["restartCount"] + 1)
    kubectl("-n", NAMESPACE, "delete", "pod", "killer", "--wait=true")
    return True


def agent(daemonset):
    """The state of the agent's container."""
    pod, = (pod for pod in get("-n", NAMESPACE, "pods")["items"]
            if any(owner["name"] == daemonset for owner in pod["metadata"].get("ownerReferences", [])))
    return next(status for status in pod["status"]["containerStatuses"] if status["name"] == "spire-agent")


def remove():
    """Before the CSI driver is, which must unmount the pod's volume."""
    kubectl("-n", NAMESPACE, "delete", f"deploy/{NAME}", "--cascade=foreground", "--wait=true", "--timeout=120s")
