"""Calls the Workload API and SDS with grpcio as it comes: no channel option at all.

usage: raw_grpcio.py SOCKET SPIFFE-ID
"""

import os
import sys

import grpc


def field(number, value):
    """A string field of protobuf; shorter than 128 bytes."""
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


name = sys.argv[2].encode()
secret = b"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

with grpc.insecure_channel("unix:" + sys.argv[1]) as channel:
    fetch = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")
    responses = fetch(b"", metadata=[("workload.spiffe.io", "true")], timeout=60, wait_for_ready=True)
    assert name in next(responses)
    responses.cancel()
    print("FetchX509SVID has the name")

    # DiscoveryRequest: 3 is resource_names, 4 is type_url.
    stream = channel.stream_stream("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets")
    responses = stream(iter([field(3, name) + field(4, secret)]), timeout=60)
    response = next(responses)
    assert name in response and b"BEGIN PRIVATE KEY" in response
    responses.cancel()
    print("StreamSecrets has the name and the key")

sys.stdout.flush()
# At the interpreter's end, the destructors of grpcio's calls can wait for each other for ever.
os._exit(0)
