"""Peers that no library would let one be, and what was signed for something else, against a real coordinator."""

import asyncio
import contextlib
import os
import re
import zlib
from base64 import b64decode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from autoresearch import envelope, limits
from autoresearch.judging import ledger
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import operator_pb2
from autoresearch.v1 import operator_service_pb2 as operators_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import SessionProof
from coordinator import gate, listening
from coordinator import main as program
from coordinator.receiving import Receiver
from tests.hostile import raw_http2 as raw
from tests.hostile.raw_http2 import Connection
from tests.hostile.state import State
from tests.hostile.test_floods import memory_mb
from tests.integration.swarm_on_wire import Peer, Starter, Swarm, change
from tests.integration.test_coordinator_access import instruction, operator

Status = grpc.StatusCode
GET_PATCH = "/autoresearch.v1.PatchService/GetPatch"
WIDER = change("WIDTH = 128", "WIDTH = 256")
HOURS_MS = 6 * 3_600_000
STATUS = re.compile(rb"\x0bgrpc-status(?:\x01|\x02)(\d+)")
ANSWERED_S = 60.0  # whatever a busy machine does meanwhile


def connection(swarm: Swarm, **options: Any) -> Connection:
    host, port = swarm.running.address.split("#")[0].split(":")
    return Connection(host, int(port), **options)


def status(peer: Connection) -> int:
    """The gRPC status that the server answers with."""
    said = peer.drain(ANSWERED_S, STATUS.search)
    found = STATUS.search(said)
    assert found is not None, said[-300:]
    return int(found[1])


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details() or ""


# --- messages ---


async def test_a_compressed_message_is_not_unpacked_beyond_the_limit(swarm: Swarm) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b"\0" * (1 << 20)) for _ in range(150)) + packer.flush()
    assert len(bomb) < limits.REQUEST_BYTES
    before = memory_mb(os.getpid())

    def send() -> int:
        with contextlib.closing(connection(swarm)) as peer:
            peer.open(1, GET_PATCH, more=[("grpc-encoding", "gzip")])
            peer.data(1, raw.grpc_message(bomb, compressed=True), end=True)
            return status(peer)

    answers = (Status.RESOURCE_EXHAUSTED.value[0], Status.INVALID_ARGUMENT.value[0])  # as gRPC gives it on, or not
    assert await asyncio.to_thread(send) in answers
    assert memory_mb(os.getpid()) - before < 50
    await swarm.peer("honest").start()


async def test_a_message_over_its_limit_is_refused(swarm: Swarm) -> None:
    call = swarm.channel.unary_unary(GET_PATCH, request_serializer=None, response_deserializer=None)
    code, says = await refused(call(b"\0" * (limits.REQUEST_BYTES + 1)))
    assert (code, "larger than max" in says) == (Status.RESOURCE_EXHAUSTED, True)


async def test_a_message_that_comes_too_slowly_is_given_up(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "Receiver", lambda: Receiver(read_s=0.3))
    async with starter() as swarm:

        def send() -> int:
            with contextlib.closing(connection(swarm)) as peer:
                peer.open(1, GET_PATCH)
                peer.data(1, raw.grpc_message(b"\x0a", claimed_bytes=1_000))
                return status(peer)

        assert await asyncio.to_thread(send) == Status.DEADLINE_EXCEEDED.value[0]


@pytest.mark.parametrize(
    ("method", "code"),
    [
        ("/autoresearch.v1.PatchService/Steal", Status.UNIMPLEMENTED),
        ("/", Status.UNIMPLEMENTED),
        ("/grpc.health.v1.Health/Check", Status.OK),
    ],
)
async def test_calls_that_are_not_the_swarms(swarm: Swarm, method: str, code: grpc.StatusCode) -> None:
    call = swarm.channel.unary_unary(method, request_serializer=None, response_deserializer=None)
    if code is Status.OK:
        assert await call(b"") == b"\x08\x01"
    else:
        assert (await refused(call(b"")))[0] is code


# --- connections and sessions ---


async def test_connections_over_the_most_are_closed_and_make_room_again(
    starter: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "CONNECTIONS_MOST", 8)
    async with starter() as swarm:
        await swarm.board.GetStatus(board_pb2.GetStatusRequest())

        def greeted() -> bool:
            peer = connection(swarm)
            said = peer.drain(0.2)
            peer.close()
            return bool(said)

        def crowd() -> list[bytes]:
            with contextlib.ExitStack() as stack:
                peers = []
                for _ in range(20):
                    with contextlib.suppress(OSError):
                        peers.append(connection(swarm))
                        stack.callback(peers[-1].close)
                return [found for found in (peer.drain(ANSWERED_S, bool) for peer in peers) if found]

        assert 0 < len(await asyncio.to_thread(crowd)) <= 8
        await swarm.board.GetStatus(board_pb2.GetStatusRequest())
        await swarm.until(lambda: asyncio.to_thread(greeted))


async def test_a_machines_second_session_ends_its_first(swarm: Swarm) -> None:
    peer = await swarm.peer("ada").start()
    first = peer.stream
    await peer.open()
    code, says = await refused(first.read())
    assert (code, "opened another session" in says) == (Status.FAILED_PRECONDITION, True)
    await peer.work(lambda order: 1.0)


async def test_a_proof_of_another_session_opens_none(swarm: Swarm) -> None:
    peer = await swarm.peer("ada").start()
    stream = swarm.volunteers.Session()
    nonce = (await stream.read()).greeting.nonce
    proof = SessionProof(protocol=1, swarm_id=swarm.swarm_id, nonce=nonce, machine_id=peer.machine_id)
    opened = volunteer_pb2.SessionRequest(
        open=volunteer_pb2.Open(proof=envelope.sign(proof, envelope.SESSION_PROOF, peer.key))
    )
    again = swarm.volunteers.Session()
    await again.read()
    await again.write(opened)
    assert (await refused(again.read()))[0] is Status.UNAUTHENTICATED
    stream.cancel()


# --- what was signed for something else ---


async def test_what_one_swarm_was_given_is_refused_by_another(starter: Starter, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Starter(tmp_path / "other")  # a swarm of its own, not a copy
    async with starter() as one, other() as another:
        author = one.peer("author")
        patch = await author.submit(WIDER)
        ada = await one.peer("ada").start()
        await ada.work(lambda order: 1.0)
        await author.withdraw(patch.patch_id)
        ada.hardware.driver = "2"  # the ledger holds an enrolment from before this one
        await ada.enroll()
        signed = envelope.sign(instruction(one, pause=operator_pb2.Pause()), envelope.INSTRUCTION, operator(one).key)
        await one.operators.Instruct(operators_pb2.InstructRequest(instruction=signed))
        entries = [ledger.parse(line) for line in one.running.ledger.read_bytes().splitlines()]
        found = [
            Envelope.FromString(b64decode(entry.body["envelope"])) for entry in entries if "envelope" in entry.body
        ]
        assert {own.payload_type for own in found} >= set(DELIVERED)
        eve = await another.peer("eve").start()
        state, replayed = State(another), State(one)
        before, before_one = await state.settled(), await replayed.settled()
        for own in found:
            assert await _delivered(another, eve, own) in REFUSALS
            assert await _delivered(one, ada, own) in (*REFUSALS, Status.OK)
        assert (await state.settled(), await replayed.settled()) == (before, before_one)
        state.close()
        replayed.close()


DELIVERED: dict[str, Callable[[Swarm, Peer, Envelope], Awaitable[Any]]] = {
    envelope.ENROLMENT: lambda s, p, own: s.volunteers.Enroll(volunteer_pb2.EnrollRequest(enrolment=own)),
    envelope.PATCH: lambda s, p, own: s.patches.SubmitPatch(patches_pb2.SubmitPatchRequest(submission=own)),
    envelope.WITHDRAWAL: lambda s, p, own: s.patches.WithdrawPatch(patches_pb2.WithdrawPatchRequest(withdrawal=own)),
    envelope.INSTRUCTION: lambda s, p, own: s.operators.Instruct(operators_pb2.InstructRequest(instruction=own)),
    envelope.RESULT: lambda s, p, own: p.deliver_envelope(own),
}


REFUSALS = (Status.INVALID_ARGUMENT, Status.PERMISSION_DENIED, Status.NOT_FOUND)


async def _delivered(swarm: Swarm, peer: Peer, own: Envelope) -> grpc.StatusCode:
    """The status of the call that carries such an envelope; of a result, what its receipt says."""
    try:
        answer = await DELIVERED[own.payload_type](swarm, peer, own)
    except grpc.aio.AioRpcError as error:
        return error.code()
    is_refused = getattr(answer, "status", None) == volunteer_pb2.RESULT_STATUS_REFUSED
    return Status.INVALID_ARGUMENT if is_refused else Status.OK


# --- clocks ---


@pytest.mark.parametrize("jump_ms", [HOURS_MS, -HOURS_MS])
async def test_a_clock_that_jumps_by_hours_shuts_nobody_out(
    starter: Starter, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    ahead = 0
    real = program.now_ms
    monkeypatch.setattr(program, "now_ms", lambda: real() + ahead)
    async with starter() as swarm:
        ada = await swarm.peer("ada").start()
        order = await ada.order()
        for _ in range(50):
            await swarm.board.GetCheckpoint(board_pb2.GetCheckpointRequest())
        ahead = jump_ms
        ack = await ada.deliver(ada.result(order, 1.0))
        assert ack.status == volunteer_pb2.RESULT_STATUS_ACCEPTED, ack.reason
        for _ in range(50):
            await swarm.board.GetCheckpoint(board_pb2.GetCheckpointRequest())
        patch = await swarm.peer("author").submit(WIDER)
        bea = await swarm.peer("bea").start()
        await bea.work(lambda order: 1.0)
        assert (await bea.order()).source_sha256 == patch.candidate_sha256
