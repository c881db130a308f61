"""The official chart's OIDC discovery provider beside its agent, with the chart's defaults: a SPIFFE CSI driver mounts the
agent's socket, spiffe-helper fetches the certificate that the provider serves with, and the provider asks the agent for the
JWT keys. The programs are built elsewhere; PROGRAMS says which variable names the path of each.

The provider keeps the last keys that it got. So each check makes a new key at the server first, and waits for that.
"""

import http.client
import json
import os
import socket
import ssl

import jobs
import mesh
import nonroot
import spire
from kube import Failed, get, kubectl, until

PROGRAMS = {
    "oidc-discovery-provider": "OIDC_DISCOVERY_PROVIDER",
    "spiffe-helper": "SPIFFE_HELPER",
    "spiffe-csi-driver": "SPIFFE_CSI_DRIVER",
    "csi-node-driver-registrar": "CSI_NODE_DRIVER_REGISTRAR",
}
TEMPLATES = ("spiffe-csi-driver/daemonset", "spiffe-csi-driver/serviceaccount", "spiffe-csi-driver/spiffe-csi-driver",
             *(f"spiffe-oidc-discovery-provider/{part}" for part in ("configmap", "deployment", "serviceaccount")))
NAME = "oidc-discovery-provider"
NAMESPACE = spire.NAMESPACES["front"]
# A CSI driver belongs to the whole cluster, which may have one of the usual name.
DRIVER = f"{NAMESPACE}-csi.spiffe.io"
HOST = "oidc.test"


def values(place, agent_socket, image):
    images = {name: image(place.images[name]) for name in PROGRAMS}
    return {
        "spiffe-csi-driver": {
            "pluginName": DRIVER, "agentSocketPath": agent_socket, "image": images["spiffe-csi-driver"],
            "kubeletPath": os.environ.get("KUBELET_ROOT", "/var/lib/kubelet"),
            "nodeDriverRegistrar": {"image": images["csi-node-driver-registrar"]},
        },
        "spiffe-oidc-discovery-provider": {
            "csiDriverName": DRIVER, "fullnameOverride": NAME, "image": images[NAME],
            "spiffeHelper": {"image": images["spiffe-helper"]},
        },
    }


def register():
    """What the chart's controller manager would: an identity with the issuer's name in the certificate."""
    spire.server("entry", "create", "-parentID", nonroot.PARENT, "-spiffeID", mesh.spiffe_id(NAME), "-dns", HOST,
                 "-selector", f"k8s:ns:{NAMESPACE}", "-selector", f"k8s:sa:{NAME}")


def check(checks, place, who, daemonset):
    beside = f"the official chart's OIDC discovery provider beside {who}"
    before = names()
    what = "goes on" if who == "finial" else "starts"
    checks.check(f"{beside}: {what}, and serves the server's new key", lambda: answers(before))
    checks.check(f"{beside}: the agent is killed; it goes on, and serves the next key",
                 lambda: jobs.kill(place, NAMESPACE, daemonset, "spire-agent") or answers(before))
    if who == "finial":
        kubectl("-n", NAMESPACE, "rollout", "restart", f"deploy/{NAME}")
        checks.check(f"{beside}: a new pod gets its certificate and the keys", lambda: answers(None))


def names():
    return [pod["metadata"]["name"] for pod in pods()]


def pods():
    found = get("-n", NAMESPACE, "pods", "-l", "component=oidc-discovery-provider")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def answers(expected):
    """Both documents, over TLS that the server's bundle trusts, from the expected pods, of which no container died."""
    kubectl("-n", NAMESPACE, "rollout", "status", f"deploy/{NAME}", "--timeout=180s")
    spire.server("localauthority", "jwt", "prepare")
    wanted = material(json.loads(spire.server("bundle", "show", "-format", "spiffe")), "jwt-svid")
    pod, = pods()
    address = pod["status"]["podIP"]
    _, seconds = until("the server's JWT keys", 60, lambda: material(document(address, "/keys")) == wanted)
    described = document(address, "/.well-known/openid-configuration")
    assert (described["issuer"], described["jwks_uri"]) == (f"https://{HOST}", f"https://{HOST}/keys"), described
    pod, = pods()
    assert expected in (None, [pod["metadata"]["name"]]), "the pod is another one"
    deaths = sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
    assert deaths == 0, f"its containers were started anew {deaths} times"
    return f"{len(wanted)} keys, the newest after {seconds:.1f} s"


def material(keys, use=None):
    """The keys of that use, which the provider leaves out."""
    return sorted(json.dumps({name: key[name] for name in ("kid", "kty", "crv", "x", "y", "n", "e") if name in key})
                  for key in keys["keys"] if key.get("use") == use)


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


def remove():
    """Before the CSI driver is, which must unmount the pod's volume."""
    kubectl("-n", NAMESPACE, "delete", f"deploy/{NAME}", "--cascade=foreground", "--wait=true", "--timeout=120s")
