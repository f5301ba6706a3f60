"""How the server takes connections: what gRPC is told to bound, and how many files the process may have open.

Every figure is there for what somebody hostile could otherwise take: memory, files, or time.
"""

import resource
from typing import Final

from autoresearch import limits

HANDSHAKE_MS: Final = 20_000  # from a connection's first byte to the end of TLS and of HTTP/2's greeting
IDLE_MS: Final = 300_000  # a connection without a call is closed; clients open another when they need one
STREAMS_MOST: Final = 128  # calls at once on one connection; a volunteer needs two
FILES_KEPT: Final = 256  # for the ledger, the store, git and what a connection's end still holds
CONNECTIONS_MOST: Final = 16_384


def options(connections_most: int) -> list[tuple[str, int]]:
    """gRPC's options of the server."""
    return [
        ("grpc.max_receive_message_length", limits.REQUEST_BYTES),
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_allowed_incoming_connections", connections_most),
        ("grpc.max_concurrent_streams", STREAMS_MOST),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 30_000),
    ]


def connections_allowed() -> int:
    """How many connections the process has files for, after raising its limit on them as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MOST + FILES_KEPT
    files = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return max(files - FILES_KEPT, 1)
