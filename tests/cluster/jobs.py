"""Pods that come, fetch an identity with the agent's own command line or kill an agent, and go."""

import time

import mesh
from kube import Failed, apply, get, kubectl, until

CONTAINER = "fetch"
SHORT = mesh.Service("short", "short", "front", 0)


def fetch(service, place, sockets, socket, count):
    """Runs `count` of them at once; returns what to say when each has got its SVID."""
    meta = {"name": service.name, "namespace": mesh.NAMESPACE}
    kubectl("-n", mesh.NAMESPACE, "delete", "job", service.name, "--ignore-not-found", "--wait=true")
    start = time.monotonic()
    apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {
            "completions": count, "parallelism": count, "backoffLimit": 0,
            "template": {"metadata": {"labels": {"app": service.name}}, "spec": pod(service, place, sockets, socket)},
        }},
    )
    try:
        kubectl("-n", mesh.NAMESPACE, "wait", f"job/{service.name}", "--for=condition=complete", "--timeout=90s")
    except Failed:
        raise Failed(kubectl("-n", mesh.NAMESPACE, "logs", f"job/{service.name}", check=False)) from None
    said = kubectl("-n", mesh.NAMESPACE, "logs", f"job/{service.name}")
    assert service.spiffe_id in said, said
    return f"{service.spiffe_id}, {time.monotonic() - start:.1f} s from kubectl apply to the last pod's end"


def pod(service, place, sockets, socket):
    return {
        "serviceAccountName": service.name, "nodeName": place.node, "dnsPolicy": "Default",
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": CONTAINER, "image": place.images["finial"], "imagePullPolicy": "Never",
            "command": ["/opt/spire/bin/spire-agent", "api", "fetch", "x509", "-timeout", "30s",
                        "-socketPath", f"/agent/{socket}"],
            "volumeMounts": [{"name": "agent", "mountPath": "/agent"}],
        }],
        "volumes": [{"name": "agent", "hostPath": {"path": sockets, "type": "Directory"}}],
    }


def kill(place, namespace, daemonset, container):
    """SIGKILL for a container of a DaemonSet, from a pod that finds its processes by its ID in /proc; returns when
    Kubernetes has started it anew."""
    def state():
        pod, = (pod for pod in get("-n", namespace, "pods")["items"]
                if any(owner["name"] == daemonset for owner in pod["metadata"].get("ownerReferences", [])))
        return next(status for status in pod["status"]["containerStatuses"] if status["name"] == container)

    before = state()
    script = f"for each in /proc/[0-9]*; do [[ $(<$each/cgroup) != *{before['containerID'].rpartition('/')[2]}* ]] || " \
             "kill -KILL ${each#/proc/}; done 2> /dev/null; true"
    apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kill", "namespace": namespace}, "spec": {
        "hostPID": True, "nodeName": place.node, "restartPolicy": "Never", "containers": [{
            "name": "kill", "image": place.images["shell"], "imagePullPolicy": "Never", "command": ["/bin/bash", "-c", script],
        }]}})
    until("it is started anew", 90, lambda: state()["restartCount"] == before["restartCount"] + 1 and state()["ready"])
    kubectl("-n", namespace, "delete", "pod", "kill", "--wait=true")
