"""The official chart's agent with only the image changed. The chart is not kept here: OFFICIAL_CHART names `charts/spire` of
a checkout of spiffe/helm-charts-hardened (after `helm dependency build` there), and HELM a helm that is not on the PATH.

Values fit it to the test's node: the server's address and account, the socket's directory, and an image for the chart's
init containers, which need a shell. Then `kubectl set image` is the migration. All of it happens twice: with the chart's
defaults, and with every recommendation on, which are metrics, an unprivileged user, a priority class and a namespace. Beside
the first the chart's OIDC discovery provider runs, when oidc.py has its programs.
"""

import json
import os
import pathlib
import shutil
import urllib.request

import jobs
import mesh
import oidc
import spire
from kube import apply, kubectl, render, run

RELEASE = f"{spire.NAMESPACES['front']}-official"
TEMPLATES = ("spire-agent/configmap", "spire-agent/daemonset", "spire-agent/roles")


def check(checks, place):
    """spire-agent's image, then finial's, in the chart's own DaemonSet."""
    helm = shutil.which(os.environ.get("HELM", "helm"))
    source = os.environ.get("OFFICIAL_CHART")
    if not helm or not source:
        checks.note("skipped the official chart: set OFFICIAL_CHART (and HELM)")
        return
    if absent := [variable for program, variable in oidc.PROGRAMS.items() if program not in place.images]:
        checks.note(f"skipped the official chart's OIDC discovery provider: set {', '.join(absent)}")
    # Two agents on one node have one ID, and each attestation of the one sends the other away.
    kubectl("-n", spire.NAMESPACES["front"], "delete", "daemonset/spire-agent-front", "--wait=true")
    one(checks, place, helm, source, recommended=False, provider=not absent)
    one(checks, place, helm, source, recommended=True, provider=False)
    apply(*spire.agent("front", place, place.images["finial"]))
    spire.wait_ready()


def one(checks, place, helm, source, recommended, provider):
    what = "the official chart's agent" + (" with every recommendation" if recommended else "")
    namespace, sockets = spire.NAMESPACES["front"], f"{place.root}/official"
    name = rendered = None

    def install():
        nonlocal name, rendered
        bundle = spire.server("bundle", "show", "-format", "spiffe")
        kubectl("-n", namespace, "patch", "configmap", "spire-bundle", "--patch",
                json.dumps({"data": {"bundle.spiffe": bundle}}))
        templates = (*TEMPLATES, *(oidc.TEMPLATES if provider else ()))
        shown = [word for part in templates
                 for word in ("--show-only", "charts/{}/templates/{}.yaml".format(*part.split("/")))]
        version = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
        rendered = run(helm, "template", RELEASE, source, "--namespace", namespace, "--kube-version", version,
                       "--values", values(place, sockets, recommended, provider), *shown)
        if provider:
            oidc.register()
        kubectl("apply", "-f", "-", stdin=rendered)
        name = next(item["metadata"]["name"] for item in render(rendered)
                    if item["kind"] == "DaemonSet" and item["metadata"]["name"].startswith(f"{RELEASE}-agent"))

    def runs(who):
        kubectl("-n", namespace, "set", "image", f"daemonset/{name}", f"spire-agent={place.images[who]}")
        kubectl("-n", namespace, "rollout", "status", f"daemonset/{name}", "--timeout=180s")
        said = jobs.fetch(jobs.SHORT, place, sockets, "api.sock", 1)
        return f"{said}; {metrics(place)} lines of metrics" if recommended else said

    if checks.check(f"{what} is installed", install):
        for who in ("spire-agent", "finial"):
            checks.check(f"{what}, image {who}: attests, serves a workload", lambda who=who: runs(who))
            if provider:
                oidc.check(checks, place, who, name)
        if provider:
            checks.check("the official chart's OIDC discovery provider is deleted", oidc.remove)
        kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=true", stdin=rendered)


def metrics(place):
    """How many of spire-agent's metrics the agent at the node's address tells Prometheus."""
    with urllib.request.urlopen(f"http://{place.address}:9988/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    count = sum(line.startswith("spire_agent_") for line in lines)
    assert count, lines
    return count


def values(place, sockets, recommended, provider):
    def image(tag):
        registry, repository = tag.rpartition(":")[0].split("/", 1)
        return {"registry": registry, "repository": repository, "tag": tag.rpartition(":")[2], "pullPolicy": "Never"}

    namespace = {"name": spire.NAMESPACES["front"]}
    layout = {"recommendations": {"enabled": True}, "namespaces": {"system": namespace}} if recommended else {}
    path = pathlib.Path(place.work, "official.json")
    path.write_text(json.dumps({
        "global": {"spire": {"clusterName": "frontend-k8s-cluster", "trustDomain": mesh.TRUST_DOMAIN,
                             "jwtIssuer": "https://oidc.test", **layout}},
        # Not deployed, but its templates are rendered, too, and ask for this in the strict mode.
        "spire-server": {"caSubject": {"country": "NL", "organization": "Mesh", "commonName": mesh.TRUST_DOMAIN}},
        "spire-agent": {
            "image": image(place.images["spire-agent"]),
            "serviceAccount": {"create": False, "name": "spire-agent-front"},
            "server": {"address": "spire-server.spire", "port": 8081},
            "socketPath": f"{sockets}/spire-agent.sock",
            "socketAlternate": {"image": image(place.images["shell"])},
            "fsGroupFix": {"image": image(place.images["shell"])},
            "hostAliases": [{"ip": place.address, "hostnames": ["spire-server.spire"]}],
            "dnsPolicy": "Default",
        },
        **(oidc.values(place, f"{sockets}/spire-agent.sock", image) if provider else {}),
    }))
    return str(path)
