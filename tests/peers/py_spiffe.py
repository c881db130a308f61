"""Uses all of the Workload API with PyPI's spiffe, then watches X509-SVIDs until it has seen three; one line for each.

usage: py_spiffe.py SOCKET
"""

import os
import queue
import sys

from spiffe import JwtSource, JwtSvid, WorkloadApiClient, X509Source
from spiffe.workloadapi.errors import ValidateJwtSvidError

updates = queue.Queue()
seen = set()


def show(svid):
    seen.add(svid.leaf.serial_number)
    print(svid.spiffe_id, svid.leaf.serial_number, flush=True)


def x509(client):
    with X509Source(client, timeout_in_seconds=60) as source:
        context = source.get_x509_context()
        own = context.default_svid.spiffe_id.trust_domain
        fetched = client.fetch_x509_bundles(timeout=60).get_bundle_for_trust_domain(own)
        authorities = fetched.x509_authorities
        assert authorities and source.get_bundle_for_trust_domain(own).x509_authorities == authorities
        context.default_svid.leaf.verify_directly_issued_by(next(iter(authorities)))


def jwt(client):
    token = client.fetch_jwt_svid(audience={"py", "also"}, timeout=60)
    own = token.spiffe_id.trust_domain
    bundle = client.fetch_jwt_bundles(timeout=60).get_bundle_for_trust_domain(own)
    JwtSvid.parse_and_validate(token.token, bundle, {"py"})
    assert client.validate_jwt_svid(token.token, "also", timeout=60).spiffe_id == token.spiffe_id
    # The client does not look at signatures, so only the agent can refuse a forged one.
    signed, signature = token.token.rsplit(".", 1)
    forged = f"{signed}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    try:
        client.validate_jwt_svid(forged, "also", timeout=60)
        raise AssertionError("a forged JWT-SVID is valid")
    except ValidateJwtSvidError:
        pass
    pushed = queue.Queue()
    watch = client.stream_jwt_bundles(pushed.put, pushed.put)
    assert pushed.get(timeout=60).get_bundle_for_trust_domain(own) == bundle
    watch.cancel()
    with JwtSource(client, timeout_in_seconds=60) as source:
        assert source.get_bundle_for_trust_domain(own) == bundle
        svid = source.fetch_svid({"source"}, subject=token.spiffe_id, timeout=60)
        JwtSvid.parse_and_validate(svid.token, bundle, {"source"})
    print("all calls agree", flush=True)


with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    show(client.fetch_x509_svid(timeout=60))
    x509(client)
    jwt(client)
    watch = client.stream_x509_contexts(updates.put, updates.put)
    while len(seen) < 3:
        update = updates.get(timeout=60)
        if isinstance(update, Exception):
            raise update
        assert update.x509_bundle_set.bundles, "no bundle"
        show(update.default_svid)
    watch.cancel()
sys.stdout.flush()
# At the interpreter's end, the destructors of grpcio's calls can wait for each other for ever.
os._exit(0)
