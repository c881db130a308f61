"""The server and the two agents, from deploy/ as shipped. What the test's node needs otherwise is changed in here:

- namespaces of the test's own, and cluster-wide names that begin with them: the frontend and the backend cluster are one;
- both agents' socket directories on the one node; the backend agent is in the pod network, so that the ports differ;
- the server on the node's network, its name in the agents' /etc/hosts: there is no DNS and no service address;
- a volume of the pod's own for the server, which would claim one.
"""

import os
import pathlib
import subprocess

from kube import Failed, apply, get, kubectl, render, run, until

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
SERVER = "finial-test-server"
NAMESPACES = {"front": "finial-test-front", "back": "finial-test-back"}
OVERLAYS = {"front": "frontend", "back": "backend"}


def scripts(**more):
    """The environment of deploy/shared's scripts."""
    context = kubectl("config", "current-context").strip()
    return {
        **os.environ,
        "FRONTEND": context, "BACKEND": context, "SHARED": context,
        "FRONTEND_NAMESPACE": NAMESPACES["front"],
        "BACKEND_NAMESPACE": NAMESPACES["back"],
        "SHARED_NAMESPACE": SERVER,
        "SERVER": f"kubectl -n {SERVER} exec spire-server-0 -- /opt/spire/bin/spire-server",
        **more,
    }


def server(*arguments):
    """The server's command line."""
    return kubectl("-n", SERVER, "exec", "spire-server-0", "--", "/opt/spire/bin/spire-server", *arguments)


def deploy_server(place):
    run("sh", str(DEPLOY / "shared" / "kubeconfigs.sh"), env=scripts())
    objects = render(kubectl("kustomize", str(DEPLOY / "shared")))
    for item in objects:
        item["metadata"]["namespace"] = SERVER
        if item["kind"] == "ConfigMap":
            item["data"]["server.conf"] = with_namespaces(item["data"]["server.conf"])
        if item["kind"] == "StatefulSet":
            del item["spec"]["volumeClaimTemplates"]
            pod = item["spec"]["template"]["spec"]
            pod["volumes"].append({"name": "data", "emptyDir": {}})
            pod |= {"hostNetwork": True, "dnsPolicy": "Default", "nodeName": place.node}
            pod["terminationGracePeriodSeconds"] = 5
            container(pod, place.images["spire-server"])
    apply(*objects)
    kubectl("-n", SERVER, "rollout", "status", "statefulset/spire-server", "--timeout=90s")


def with_namespaces(conf):
    conf = conf.replace('"spire:spire-agent-front"', f'"{NAMESPACES["front"]}:spire-agent-front"')
    conf = conf.replace('"spire:spire-agent-back"', f'"{NAMESPACES["back"]}:spire-agent-back"')
    first, second, *rest = conf.split('namespace = "spire"')[1:]
    assert not rest, "server.conf names two clusters"
    head = conf.split('namespace = "spire"')[0]
    return f'{head}namespace = "{NAMESPACES["front"]}"{first}namespace = "{NAMESPACES["back"]}"{second}'


def bundles():
    """The bundle, once the server wrote it to both clusters."""
    def read(namespace):
        return get("-n", namespace, "configmap", "spire-bundle").get("data", {}).get("bundle.crt", "")
    return until("the bundle in both clusters", 30, lambda: read(NAMESPACES["front"]) == read(NAMESPACES["back"]) != "")


def register():
    run("sh", str(DEPLOY / "shared" / "register.sh"), env=scripts())


def register_workload(service, container_name="envoy"):
    """One entry more, as register.sh makes them."""
    parent = f"ns/{NAMESPACES[service.side]}/sa/spire-agent-{service.side}"
    trust_domain = service.spiffe_id.split("/")[2]
    server("entry", "create", "-spiffeID", service.spiffe_id, "-parentID", f"spiffe://{trust_domain}/{parent}",
           "-selector", "k8s:ns:yelb", "-selector", f"k8s:sa:{service.name}",
           "-selector", f"k8s:pod-label:app:{service.name}", "-selector", f"k8s:container-name:{container_name}")


def deploy_agents(place, image):
    for side in NAMESPACES:
        apply(*agent(side, place, image))


def agent(side, place, image, *more):
    """One overlay of deploy/ with more components, fitted to the node."""
    namespace = NAMESPACES[side]
    objects = render(kubectl("kustomize", overlay(side, place, *more)))
    for item in objects:
        fit(item, namespace)
        if item["kind"] == "DaemonSet":
            pod = item["spec"]["template"]["spec"]
            pod["hostAliases"] = [{"ip": place.address, "hostnames": ["spire-server.spire"]}]
            pod["dnsPolicy"] = "Default"
            container(pod, image)
            for volume in pod["volumes"]:
                if "hostPath" in volume and volume["name"] == "sockets":
                    volume["hostPath"]["path"] = place.sockets[side]
                elif "hostPath" in volume and volume["name"] == "data":
                    volume["hostPath"]["path"] = f"{place.root}/data-{side}"
    return objects


def surge(place, image):
    """The backend's agents with deploy/components/surge. The old agent has its data in its own pod, so it cannot hand over,
    and is ended."""
    namespace = NAMESPACES["back"]
    old = [pod["metadata"]["name"] for pod in get("-n", namespace, "pods")["items"]]
    apply(*agent("back", place, image, "surge"))
    kubectl("-n", namespace, "delete", "pod", *old)
    wait_ready()


def rolled(side):
    """Whether the DaemonSet's pods are all of its newest form, and ready."""
    found = get("-n", NAMESPACES[side], f"daemonset/spire-agent-{side}")
    status, desired = found["status"], found["status"]["desiredNumberScheduled"]
    return (status["observedGeneration"] == found["metadata"]["generation"]
            and status.get("updatedNumberScheduled") == status.get("numberAvailable") == desired
            and len(get("-n", NAMESPACES[side], "pods")["items"]) == desired)


def overlay(side, place, *more):
    """As shipped; the backend's with the pod network."""
    shipped = DEPLOY / OVERLAYS[side]
    components = (*(["pod-network"] if side == "back" else []), *more)
    return with_components(shipped, components, place.work) if components else str(shipped)


def with_components(shipped, components, work):
    """A kustomization of an overlay and some of deploy/components."""
    folder = pathlib.Path(work, "kustomize", "-".join([shipped.name, *components]))
    folder.mkdir(parents=True, exist_ok=True)
    resource, *paths = [os.path.relpath(path, folder.resolve())
                        for path in (shipped, *(DEPLOY / "components" / name for name in components))]
    (folder / "kustomization.yaml").write_text(f"resources: [{resource}]\ncomponents: [{', '.join(paths)}]\n")
    return str(folder)


def fit(item, namespace):
    """Namespaces and cluster-wide names of the test's own."""
    if item["kind"] == "Namespace":
        item["metadata"]["name"] = namespace
    elif item["kind"].startswith("ClusterRole"):
        item["metadata"]["name"] = f"{namespace}-{item['metadata']['name']}"
    else:
        item["metadata"]["namespace"] = namespace
    if item["kind"] == "ClusterRoleBinding":
        item["roleRef"]["name"] = f"{namespace}-{item['roleRef']['name']}"
        for subject in item["subjects"]:
            subject["namespace"] = namespace


def container(pod, image):
    pod["containers"][0] |= {"image": image, "imagePullPolicy": "Never"}


def roll_out(image, seconds=90):
    """Swaps the image of both DaemonSets, or starts them anew when they have it; returns when all pods are ready."""
    for side, namespace in NAMESPACES.items():
        name = f"daemonset/spire-agent-{side}"
        now = get("-n", namespace, name)["spec"]["template"]["spec"]["containers"][0]["image"]
        if now == image:
            kubectl("-n", namespace, "rollout", "restart", name)
        else:
            kubectl("-n", namespace, "set", "image", name, f"spire-agent={image}")
    wait_ready(seconds)


def wait_ready(seconds=90):
    for side, namespace in NAMESPACES.items():
        kubectl("-n", namespace, "rollout", "status", f"daemonset/spire-agent-{side}", f"--timeout={seconds}s")


def logs(side, lines=40):
    return kubectl("-n", NAMESPACES[side], "logs", f"daemonset/spire-agent-{side}", f"--tail={lines}", check=False)


def restarts():
    """How often containers of the agents were started anew: killed for memory, crashed, found dead by a probe."""
    pods = [pod for namespace in NAMESPACES.values() for pod in get("-n", namespace, "pods")["items"]]
    return sum(status["restartCount"] for pod in pods for status in pod["status"].get("containerStatuses", []))


def found():
    """What the cluster has under the names that the test gives, as kind/name. `run` sees to it that there is nothing before
    the test, so afterwards it is the test's. The namespace `spire` is not among it: manifests.py makes and deletes it.
    """
    there = kubectl("get", "namespaces,clusterroles,clusterrolebindings,csidrivers", "-o", "name").split()
    return [item for item in there if is_own(*item.split("/", 1))]


def is_own(kind, name):
    if kind == "namespace":
        return name in ("yelb", SERVER, *NAMESPACES.values())
    # reviewer.yaml's role has the same name in every cluster.
    return name == "spire-server-reviewer" or any(
        name.startswith(f"{namespace}-") or name.endswith(f"-in-{namespace}") for namespace in NAMESPACES.values())


def remove():
    """Deletes what is `found`; returns why something of it stays. It raises nothing, which would hide how the test ended."""
    try:
        # One command: kubectl tries all, whatever becomes of one, and only then waits.
        if own := found():
            kubectl("delete", *own, "--ignore-not-found", "--timeout=120s")
    except (Failed, subprocess.TimeoutExpired) as reason:
        return [str(reason)]
    return []
