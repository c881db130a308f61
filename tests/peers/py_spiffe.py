"""Fetches an X509-SVID and a JWT-SVID with PyPI's spiffe, then watches X509-SVIDs until it has seen three; one line for each.

usage: py_spiffe.py SOCKET
"""

import os
import queue
import sys

from spiffe import JwtSvid, WorkloadApiClient

updates = queue.Queue()
seen = set()


def show(svid):
    seen.add(svid.leaf.serial_number)
    print(svid.spiffe_id, svid.leaf.serial_number, flush=True)


with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    show(client.fetch_x509_svid(timeout=60))
    token = client.fetch_jwt_svid(audience={"py"}, timeout=60)
    bundles = client.fetch_jwt_bundles(timeout=60)
    bundle = bundles.get_bundle_for_trust_domain(token.spiffe_id.trust_domain)
    JwtSvid.parse_and_validate(token.token, bundle, {"py"})
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
