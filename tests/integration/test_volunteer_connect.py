"""A coordinator is believed only when it proves to hold the key that the address names, over a line that ends at it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch.v1 import volunteer_service_pb2 as wire
from autoresearch.v1 import volunteer_service_pb2_grpc as wire_grpc
from tests.integration.test_volunteer_fake import SOURCE, SWARM_ID, FakeCoordinator, make_certificate, make_challenge
from volunteer.address import parse
from volunteer.client import Client
from volunteer.connect import connect
from volunteer.errors import AddressError, RpcError, UpgradeError, VolunteerError, WrongCoordinatorError


@pytest.fixture
async def coordinator() -> AsyncIterator[FakeCoordinator]:
    async with FakeCoordinator() as fake:
        yield fake


async def fails(address: str, kind: type[VolunteerError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        await connect(parse(address))
    assert "\n" not in str(caught.value)


async def test_the_swarm_is_known_after_connecting(coordinator: FakeCoordinator) -> None:
    async with await Client.open(parse(coordinator.address)) as client:
        assert client.swarm.swarm_id == SWARM_ID
        assert client.swarm.fingerprint == coordinator.fingerprint
        assert client.swarm.challenge == coordinator.challenge
        assert await client.fetch_source(coordinator.challenge.base_source_sha256) == SOURCE


async def test_a_wrong_fingerprint_is_named_with_both_keys(coordinator: FakeCoordinator) -> None:
    other = "a" * 32
    await fails(f"127.0.0.1:{coordinator.port}#{other}", WrongCoordinatorError, f"another key.*{other}")


async def test_a_relay_with_a_certificate_of_its_own_is_found_out(coordinator: FakeCoordinator) -> None:
    """It passes the true coordinator's signed statement on."""

    class Relay(wire_grpc.VolunteerServiceServicer):
        async def GetSwarm(self, request: wire.GetSwarmRequest, context: Any) -> wire.GetSwarmResponse:
            return await coordinator.GetSwarm(request, context)

    server = grpc.aio.server()
    wire_grpc.add_VolunteerServiceServicer_to_server(Relay(), server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([make_certificate()[:2]]))
    await server.start()
    try:
        await fails(f"127.0.0.1:{port}#{coordinator.fingerprint}", WrongCoordinatorError, "somebody stands in between")
    finally:
        await server.stop(None)


async def test_a_self_made_certificate_must_be_named_in_the_statement(coordinator: FakeCoordinator) -> None:
    coordinator.named_tls_sha256 = ""
    await fails(coordinator.address, WrongCoordinatorError, "somebody stands in between")


async def test_a_certificate_for_another_name_is_not_believed_without_an_authority() -> None:
    async with FakeCoordinator(tls=make_certificate("swarm.example.org")) as coordinator:
        await fails(coordinator.address, WrongCoordinatorError, "neither its own nor vouched for")


async def test_nobody_there() -> None:
    with socket.socket() as taken:  # by somebody who does not listen: nobody else can
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        await fails(f"127.0.0.1:{port}#{'a' * 32}", RpcError, "no coordinator answers.*is the address right")


async def test_a_host_that_does_not_exist() -> None:
    await fails(f"no-such-host.invalid:7070#{'a' * 32}", RpcError, "no coordinator answers")


async def test_something_else_answers() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await fails(f"127.0.0.1:{port}#{'a' * 32}", WrongCoordinatorError, "does not speak TLS")


async def test_a_grpc_server_that_is_no_coordinator() -> None:
    tls = make_certificate()
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tls[:2]]))
    await server.start()
    try:
        await fails(f"127.0.0.1:{port}#{'a' * 32}", RpcError, "another service or version")
    finally:
        await server.stop(None)


async def test_an_address_without_fingerprint_needs_to_be_believed_in_words(coordinator: FakeCoordinator) -> None:
    await fails(f"127.0.0.1:{coordinator.port}", AddressError, "--trust-first-use")
    channel, swarm = await connect(parse(f"127.0.0.1:{coordinator.port}"), trust_first_use=True)
    await channel.close()
    assert str(swarm.address) == coordinator.address


@pytest.mark.parametrize(("protocol", "who"), [(2, "upgrade autoresearch-swarm"), (0, "its operator should upgrade")])
async def test_another_protocol_says_who_should_upgrade(coordinator: FakeCoordinator, protocol: int, who: str) -> None:
    coordinator.protocol = protocol
    await fails(coordinator.address, UpgradeError, who)


@pytest.mark.parametrize("change", [{"format": 2}, {"grader": 0}, {"grader": 9}])
async def test_a_challenge_of_a_newer_kind(change: dict[str, Any]) -> None:
    async with FakeCoordinator(challenge=make_challenge(**change)) as coordinator:
        await fails(coordinator.address, UpgradeError, "newer kind")


async def test_a_challenge_that_was_not_signed(coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = coordinator.GetSwarm

    async def swapped(request: wire.GetSwarmRequest, context: Any) -> wire.GetSwarmResponse:
        answer = await honest(request, context)
        answer.challenge = make_challenge(budget_ms=10**9).SerializeToString()
        return answer

    monkeypatch.setattr(coordinator, "GetSwarm", swapped)
    await coordinator.stop()
    await coordinator.start()
    await fails(coordinator.address, WrongCoordinatorError, "not the one it signed")


async def test_a_statement_whose_signature_does_not_hold(
    coordinator: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = coordinator.GetSwarm

    async def forged(request: wire.GetSwarmRequest, context: Any) -> wire.GetSwarmResponse:
        answer = await honest(request, context)
        answer.info.signatures[0].value = bytes(64)
        return answer

    monkeypatch.setattr(coordinator, "GetSwarm", forged)
    await coordinator.stop()
    await coordinator.start()
    await fails(coordinator.address, WrongCoordinatorError, "does not prove who it is")


async def test_a_source_that_is_not_what_its_digest_names(coordinator: FakeCoordinator) -> None:
    coordinator.sources["f" * 64] = b"something else"
    async with await Client.open(parse(coordinator.address)) as client:
        with pytest.raises(WrongCoordinatorError, match="another text"):
            await client.fetch_source("f" * 64)


async def test_the_same_key_on_another_port_is_the_same_coordinator(coordinator: FakeCoordinator) -> None:
    async with FakeCoordinator(key=coordinator.key) as second:
        address = replace(parse(coordinator.address), port=second.port)
        channel, _ = await connect(address)
        await channel.close()
    async with FakeCoordinator(key=Ed25519PrivateKey.generate()) as stranger:
        address = replace(parse(coordinator.address), port=stranger.port)
        await fails(str(address), WrongCoordinatorError, "another key")
