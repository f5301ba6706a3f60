"""Asks a coordinator's health service whether it serves: `healthcheck.py HOST:PORT CERTIFICATE`; exit status 0 or 1.

For a coordinator with a certificate of its own: `tls.crt` in its data folder. Leaves out whether its store answers.
"""

import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 5.0
OWN_NAME = "autoresearch-swarm"  # in the certificate that a coordinator makes for itself


def serves(address: str, certificate: Path) -> bool:
    """Whether the coordinator says that it serves; not before it has made its certificate."""
    try:
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    except OSError:
        return False
    with grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", OWN_NAME)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S, wait_for_ready=True)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("give HOST:PORT and CERTIFICATE")
    sys.exit(0 if serves(sys.argv[1], Path(sys.argv[2])) else 1)
