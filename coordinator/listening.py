"""How the server takes connections: what gRPC is told to bound, how many files the process may have open, and which
services there are.

Every figure is there for what somebody hostile could otherwise take: memory, files, or time.
"""

import contextlib
import resource
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from autoresearch import limits
from autoresearch.v1 import (
    access_service_pb2,
    leaderboard_service_pb2,
    operator_service_pb2,
    patch_service_pb2,
    volunteer_service_pb2,
)
from coordinator.crowd import OPEN_MOST
from coordinator.edge import Edge
from coordinator.errors import OperatorError
from coordinator.keys import TlsIdentity
from coordinator.service import register

HANDSHAKE_MS: Final = 20_000  # from a connection's first byte to the end of TLS and of HTTP/2's greeting
IDLE_MS: Final = 300_000  # a connection without a call is closed; clients open another when they need one
# New calls wait in a line for each method until Python takes them up, one after the other. gRPC itself would cancel
# every second one of those that come when 2,000 wait, each from 3,000 on, and whichever has waited for 30 s; so few
# hostile calls would shut everybody out. When to give up waiting is the caller's to say.
WAITING_MOST: Final = OPEN_MOST
WAITING_S: Final = 600
STREAMS_MOST: Final = 128  # calls at once on one connection; a volunteer needs two
FILES_KEPT: Final = 256  # for the ledger, the store, git and what a connection's end still holds
CONNECTIONS_MOST: Final = 16_384
GRACE_S: Final = 2.0  # calls under way get this long at the end
SERVICES: Final = (
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"].full_name,
    operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name,
    volunteer_service_pb2.DESCRIPTOR.services_by_name["VolunteerService"].full_name,
    patch_service_pb2.DESCRIPTOR.services_by_name["PatchService"].full_name,
    leaderboard_service_pb2.DESCRIPTOR.services_by_name["LeaderboardService"].full_name,
)


async def serve(listen: str, tls: TlsIdentity, edge: Edge, stack: contextlib.AsyncExitStack) -> int:
    """Serves until the stack unwinds; returns the port.

    Raises:
        OperatorError: nobody can listen there.
    """
    server = grpc.aio.server(interceptors=(edge.gate,), options=options(connections_allowed()))
    register(server, edge)
    healthy = health.aio.HealthServicer()
    add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name), server)
    credentials = grpc.ssl_server_credentials([(tls.key_pem, tls.certificate_pem)])
    refused = f"cannot listen on {listen}: the port is taken or not yours; choose another with --listen"
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise OperatorError(refused) from error
    if port == 0:
        raise OperatorError(refused)
    await server.start()
    stack.push_async_callback(server.stop, GRACE_S)
    for name in ("", *SERVICES):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    return port


def options(connections_most: int) -> list[tuple[str, int]]:
    """gRPC's options of the server."""
    return [
        ("grpc.max_receive_message_length", limits.REQUEST_BYTES),
        ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
        ("grpc.max_allowed_incoming_connections", connections_most),
        ("grpc.max_concurrent_streams", STREAMS_MOST),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.server_max_unrequested_time_in_server", WAITING_S),
        ("grpc.server.max_pending_requests", WAITING_MOST),
        ("grpc.server.max_pending_requests_hard_limit", WAITING_MOST),
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
