"""Every manifest under deploy/ against the API server, and the chart beside the overlays."""

import json
import os
import pathlib
import shutil

import jobs
import spire
from kube import apply, kubectl, render, run
from spire import DEPLOY

VALUES = ["config.clusterName=frontend-k8s-cluster", "config.trustDomain=am-multi-account-mesh",
          "config.serverAddress=spire-server.spire", "serviceAccount.name=spire-agent-front"]


def dry_run(checks, place):
    """What the API server says of each, without keeping it."""
    made = not kubectl("get", "namespace", "spire", "--ignore-not-found", "-o", "name")
    if made:
        kubectl("create", "namespace", "spire")
    try:
        dry_runs(checks, place)
    finally:
        if made:
            kubectl("delete", "namespace", "spire")


def dry_runs(checks, place):
    for source in (["-k", "frontend"], ["-k", "backend"], ["-k", "shared"], ["-f", "shared/reviewer.yaml"]):
        checks.check(f"kubectl apply --dry-run=server {source[0]} deploy/{source[1]}", lambda source=source: accepted(
            kubectl("apply", "--dry-run=server", source[0], str(DEPLOY / source[1]))))
    for component in sorted((DEPLOY / "components").iterdir()):
        checks.check(f"kubectl apply --dry-run=server, deploy/frontend with {component.name}",
                     lambda component=component: accepted(with_component(component.name, place)))
    if "monitoring.coreos.com" in kubectl("api-versions"):
        for name in ("podmonitor.yaml", "rules.yaml"):
            checks.check(f"kubectl apply --dry-run=server -f deploy/monitoring/{name}", lambda name=name: accepted(
                kubectl("apply", "--dry-run=server", "-f", str(DEPLOY / "monitoring" / name))))
    else:
        checks.note("skipped deploy/monitoring: the cluster has no Prometheus operator")


def accepted(said):
    lines = said.strip().splitlines()
    assert lines and all("dry run" in line for line in lines), said
    return f"{len(lines)} objects"


def with_component(component, place):
    shipped = DEPLOY / "frontend"
    folder = spire.with_components(shipped, [component], place.work)
    assert kubectl("kustomize", folder) != kubectl("kustomize", str(shipped)), "it changes nothing"
    return kubectl("apply", "--dry-run=server", "-k", folder)


def chart(checks, place):
    """The chart in the place of the frontend's overlay, with the same account: spire-agent's image, then finial's."""
    helm = shutil.which(os.environ.get("HELM", "helm"))
    if not helm:
        checks.note("skipped deploy/chart: no helm (set HELM)")
        return
    folder, namespace = str(DEPLOY / "chart"), spire.NAMESPACES["front"]
    values = [word for value in VALUES for word in ("--set", value)]
    checks.check("helm lint --strict deploy/chart", lambda: run(helm, "lint", "--strict", folder, *values) and None)
    rendered = run(helm, "template", "spire", folder, "--namespace", namespace, *values)
    # It has the overlay's name, and a DaemonSet's labels cannot be changed.
    kubectl("-n", namespace, "delete", "daemonset/spire-agent-front", "--wait=true")
    checks.check("helm template deploy/chart | kubectl apply --dry-run=server -f -", lambda: accepted(
        kubectl("apply", "--dry-run=server", "-f", "-", stdin=rendered)))
    checks.check("deploy/chart/ci/agent.conf is what the chart renders", lambda: as_kept(rendered))

    node = {"hostAliases": [{"ip": place.address, "hostnames": ["spire-server.spire"]}], "dnsPolicy": "Default",
            "config": {"socketDirectory": place.sockets["front"]}}
    more = pathlib.Path(place.work, "values.json")
    more.write_text(json.dumps(node))
    for who in ("spire-agent", "finial"):
        checks.check(f"{who} runs with the chart's agent.conf", lambda who=who: installed(
            [helm, "template", "spire", folder, "--namespace", namespace, *values, "--values", str(more)], who, place))
    kubectl("-n", namespace, "delete", "daemonset/spire-agent-front", "--wait=true")
    apply(*spire.agent("front", place, place.images["finial"]))
    spire.wait_ready()


def as_kept(rendered):
    conf = next(item for item in render(rendered) if item["kind"] == "ConfigMap")["data"]["agent.conf"]
    assert conf.strip() == (DEPLOY / "chart" / "ci" / "agent.conf").read_text().strip(), conf


def installed(template, who, place):
    """Ready is: attested, and the first synchronisation done."""
    repository, _, tag = place.images[who].rpartition(":")
    template += ["--set-string", f"image.repository={repository},image.tag={tag},image.pullPolicy=Never"]
    kubectl("apply", "-f", "-", stdin=run(*template))
    namespace = spire.NAMESPACES["front"]
    kubectl("-n", namespace, "rollout", "status", "daemonset/spire-agent-front", "--timeout=90s")
    return jobs.fetch(jobs.SHORT, place, place.sockets["front"], "agent.sock", 1)
