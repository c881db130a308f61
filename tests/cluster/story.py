"""What is checked, in the order of a migration. Each check prints one line."""

import pathlib

import jobs
import manifests
import mesh
import nonroot
import official
import spire
from kube import Failed, get, kubectl, until
from mesh import ALL, APP, DB, DIRECTORY, LATE, MESH, REDIS, STRANGER, UI


class Checks:
    """Counts, prints, goes on."""

    def __init__(self):
        self.failed = 0

    def check(self, what, run):
        try:
            said = run()
        except (Failed, AssertionError, ValueError, KeyError, IndexError) as error:
            self.failed += 1
            print(f"FAIL {what}: {error or type(error).__name__}", flush=True)
            return False
        print(f"ok   {what}" + (f": {said}" if isinstance(said, str) else ""), flush=True)
        return True

    @staticmethod
    def note(text):
        print(f"     {text}", flush=True)


def tell(checks, place):
    """The whole story; returns how many checks failed."""
    if not checks.check("the server is up, and its bundle is in both clusters", lambda: begin(place)):
        return checks.failed
    manifests.dry_run(checks, place)
    spire_agent(checks, place)
    image_swap(checks, place)
    the_mesh(checks)
    late_registration(checks)
    stranger(checks)
    agent_restart(checks, place)
    surge(checks, place)
    churn(checks, place)
    checks.check("no agent was started anew by Kubernetes", no_restarts)
    checks.check("the image of user 1000: serves by k8s selectors; unix:path of its own processes only",
                 lambda: nonroot.check(place))
    manifests.chart(checks, place)
    official.check(checks, place)
    return_to_spire_agent(checks, place)
    return checks.failed


def begin(place):
    kubectl("create", "namespace", mesh.NAMESPACE)
    spire.deploy_server(place)
    spire.bundles()
    spire.register()
    spire.register_workload(STRANGER)
    spire.register_workload(DIRECTORY)
    spire.register_workload(jobs.SHORT, jobs.CONTAINER)


def spire_agent(checks, place):
    """The baseline, and the proof that the way back is open: these ConfigMaps are spire-agent's too."""
    def run():
        spire.deploy_agents(place, place.images["spire-agent"])
        spire.wait_ready()
        agents = spire.server("agent", "list")
        assert "Found 2 attested agents" in agents, agents
        return "two agents attested and ready"

    checks.check("the real spire-agent runs with deploy/frontend and deploy/backend as shipped", run)
    for service in (*MESH, DIRECTORY, STRANGER, LATE):
        mesh.deploy(service, place)
    checks.check("with spire-agent the mesh works", whole_chain)


def image_swap(checks, place):
    """The migration: the image, nothing else. Sockets mounted as a file lead to the old agent's socket."""
    configured = agent_configurations()
    checks.check("spire-agent -> finial: only the image changes, both DaemonSets become ready",
                 lambda: spire.roll_out(place.images["finial"]))
    checks.check("the ConfigMaps are the same", lambda: same(configured, agent_configurations()))
    checks.check("calls go on meanwhile, with the identities that the Envoys have", whole_chain)
    after_swap(checks)
    checks.check("the pods with a file mount, started anew, have finial's identities", renew_file_mounts)


def after_swap(checks):
    checks.check("a mounted directory leads to the new socket by itself", reconnected)
    by_file = (*MESH, STRANGER)

    def stranded():
        return [service.name for service in by_file if not mesh.sds_connected(service)]
    try:
        until("connected", 30, lambda: not stranded())
    except Failed:
        checks.note(f"mounted files: {len(stranded())} of {len(by_file)} Envoys have no connection after 30 s; "
                    "their pods must be started anew")
    else:
        checks.note("mounted files: all connected again by themselves")


def the_mesh(checks):
    """What users look at."""
    for service in (*MESH, DIRECTORY):
        checks.check(f"{service.name}: cx_active::1 and health_flags::healthy",
                     lambda service=service: until("connected", 30, lambda: mesh.sds_connected(service)) and True)
    for service in MESH:
        checks.check(f"{service.name}: /certs has the trust domain's CA and {service.spiffe_id}",
                     lambda service=service: has_identity(service))
    checks.check("ssl.handshake grows with each call, on listeners and clusters", handshakes_grow)


def late_registration(checks):
    """LATE was there from the start and has no entry."""
    checks.check("an Envoy without an entry has no identity, and its calls fail", lambda: without_identity(LATE))
    checks.check("the others go on", whole_chain)

    def register():
        spire.register_workload(LATE)
        _, seconds = until("its identity", 60, lambda: LATE.spiffe_id in mesh.identities(LATE)[1])
        until("its call", 20, lambda: f"{APP.name}: 200" in mesh.call(LATE))
        assert restarted(LATE) == 0
        return f"{seconds:.1f} s from the entry to the certificate, and its calls succeed"

    checks.check("registered, its certificates appear with no restart", register)


def stranger(checks):
    def run():
        before = mesh.stat(APP, "ssl.fail_verify_san")
        until("503", 30, lambda: f"{APP.name}: 503" in mesh.call(STRANGER))
        after = mesh.stat(APP, "ssl.fail_verify_san")
        assert after > before, f"ssl.fail_verify_san stays {before}"
        return f"ssl.fail_verify_san {before} -> {after}"

    checks.check("a caller that is not in the callee's list gets 503", run)


def agent_restart(checks, place):
    checks.check("finial -> finial: both DaemonSets roll", lambda: spire.roll_out(place.images["finial"]))
    checks.check("calls go on meanwhile", whole_chain)
    after_swap(checks)
    checks.check("after a restart of the pods with a file mount all are connected", renew_file_mounts)


def surge(checks, place):
    """The backend's agents beside each other: each hands its sockets and identities over to the next."""
    checks.check("deploy/components/surge: installed", lambda: spire.surge(place, place.images["finial"]))
    checks.check("the pods with a file mount, started anew once more", renew_file_mounts)

    def roll():
        by_file = (DB, REDIS, APP)
        pods = pod_names()
        kubectl("-n", spire.NAMESPACES["back"], "rollout", "restart", "daemonset/spire-agent-back")
        calls = failed = 0
        while not spire.rolled("back"):
            calls += 1
            failed += not chain_works()
            assert calls < 1000, "the DaemonSet does not roll"
        assert "Taking over from the other agent" in spire.logs("back", 200), "there was no hand-over"
        _, seconds = until("connected", 30, lambda: all(mesh.sds_connected(service) for service in by_file))
        assert pods == pod_names(), "pods were started anew"
        assert not failed, f"{failed} of {calls} calls failed"
        return f"all {len(by_file)} Envoys with a mounted file are connected {seconds:.1f} s after; {calls} calls, 0 failed"

    for which in ("once", "again"):
        checks.check(f"finial -> finial with surge, {which}", roll)


def pod_names():
    return {pod["metadata"]["name"] for pod in get("-n", mesh.NAMESPACE, "pods")["items"]}


def churn(checks, place):
    """Pods that come and go; others must not notice."""
    def rounds():
        slowest = 0
        for _ in range(3):
            for service in (DB, REDIS):
                kubectl("-n", mesh.NAMESPACE, "delete", "pod", "-l", f"app={service.name}", "--wait=false")
            kubectl("-n", mesh.NAMESPACE, "rollout", "status", f"deploy/{DB.name}", "--timeout=60s")
            kubectl("-n", mesh.NAMESPACE, "rollout", "status", f"deploy/{REDIS.name}", "--timeout=60s")
            slowest = max(slowest, until("the chain", 30, chain_works)[1])
        return f"whole again at most {slowest:.1f} s after the pods run"

    checks.check("yelb-db and redis-server replaced, three times", rounds)
    checks.check("twenty pods at once, each with its identity",
                 lambda: jobs.fetch(jobs.SHORT, place, place.sockets["front"], "agent.sock", 20))


def return_to_spire_agent(checks, place):
    checks.check("finial -> spire-agent: the way back", lambda: spire.roll_out(place.images["spire-agent"]))
    checks.check("a mounted directory leads to spire-agent's socket by itself", reconnected)


# What the checks are made of.

def chain_works():
    answer = mesh.call(UI)
    return all(f"{service.name}: 200" in answer for service in (APP, DB, REDIS))


def whole_chain():
    until("frontend -> yelbapp -> yelbdb, redis", 60, chain_works)


def has_identity(service):
    def found():
        authorities, leaves = mesh.identities(service)
        return mesh.spiffe_id("") in authorities and service.spiffe_id in leaves
    until("the identity", 30, found)


def without_identity(service):
    authorities, leaves = mesh.identities(service)
    assert service.spiffe_id not in leaves, f"{leaves} {authorities}"
    # Its listener is there after the first fifteen seconds of waiting for secrets.
    until("503", 60, lambda: f"{APP.name}: 503" in mesh.call(service))
    return f"{APP.name}: 503"


def handshakes_grow():
    def counts():
        return [mesh.stat(APP, "listener.0.0.0.0_18321.ssl.handshake"), mesh.stat(UI, f"cluster.{APP.name}.ssl.handshake"),
                mesh.stat(APP, f"cluster.{DB.name}.ssl.handshake"), mesh.stat(APP, f"cluster.{REDIS.name}.ssl.handshake")]
    before = counts()
    for _ in range(3):
        assert chain_works()
    after = counts()
    assert all(new >= old + 3 for old, new in zip(before, after)), f"{before} -> {after}"
    return f"three calls, {before} -> {after}"


def reconnected():
    _, seconds = until("connected", 60, lambda: mesh.sds_connected(DIRECTORY))
    until("its call", 30, lambda: f"{APP.name}: 200" in mesh.call(DIRECTORY))
    return f"{seconds:.1f} s after the new agent is ready"


def renew_file_mounts():
    by_file = [service for service in ALL if service.by_file]
    for service in by_file:
        kubectl("-n", mesh.NAMESPACE, "rollout", "restart", f"deploy/{service.name}")
    for service in by_file:
        kubectl("-n", mesh.NAMESPACE, "rollout", "status", f"deploy/{service.name}", "--timeout=90s")
    for service in (*MESH, STRANGER):
        until(f"{service.name} connected", 60, lambda service=service: mesh.sds_connected(service))
    whole_chain()


def restarted(service):
    pods = get("-n", mesh.NAMESPACE, "pods", "-l", f"app={service.name}")["items"]
    return sum(status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"])


def no_restarts():
    count = spire.restarts()
    assert count == 0, f"{count} restarts"


def agent_configurations():
    return {side: [item["data"] for item in get("-n", namespace, "configmaps")["items"]
                   if item["metadata"]["name"].startswith("spire-agent")]
            for side, namespace in spire.NAMESPACES.items()}


def same(before, after):
    assert before == after


def keep_logs(folder):
    """For whoever looks at a failure."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for side in spire.NAMESPACES:
        (folder / f"agent-{side}.log").write_text(spire.logs(side, 2000))
    (folder / "server.log").write_text(kubectl("-n", spire.SERVER, "logs", "spire-server-0", check=False))
    (folder / "pods.txt").write_text(kubectl("get", "pods", "-A", "-o", "wide", check=False))
    (folder / "events.txt").write_text(kubectl("get", "events", "-A", check=False))
