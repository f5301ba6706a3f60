"""The health check of the container images: an exit status, and no traceback in the container's log."""

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.integration.test_volunteer_fake import make_certificate

PROGRAM = Path(__file__).parents[2] / "deploy" / "healthcheck.py"


async def asked(*arguments: object) -> tuple[int | None, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *map(str, arguments), stderr=subprocess.PIPE
    )
    _, said = await process.communicate()
    return process.returncode, said


async def test_it_says_whether_a_coordinator_serves(tmp_path: Path) -> None:
    private, certificate, _ = make_certificate()
    (tmp_path / "tls.crt").write_bytes(certificate)
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private, certificate)]))
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    where = f"127.0.0.1:{port}"
    assert await asked(where, tmp_path / "tls.crt") == (0, b"")
    assert await asked(where, tmp_path / "not-made-yet.crt") == (1, b"")
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await asked(where, tmp_path / "tls.crt") == (1, b"")
    await server.stop(None)
    assert await asked(where, tmp_path / "tls.crt") == (1, b"")
    assert await asked() == (1, b"give HOST:PORT and CERTIFICATE\n")
