"""Callers of every role on a real coordinator, what they send, and what may become of it: what `test_calls.py` runs.

Messages are any bytes, mutated real ones, and generated ones whose envelopes are signed for real.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import message_factory
from google.protobuf.message import Message
from hypothesis import strategies as st

from autoresearch import envelope
from autoresearch.digest import key_id
from autoresearch.v1 import access_service_pb2 as access_pb2
from autoresearch.v1 import (
    leaderboard_service_pb2,
    operator_pb2,
    operator_service_pb2,
    patch_service_pb2,
    trial_pb2,
    volunteer_service_pb2,
)
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.identity_pb2 import Enrolment, IdentityProof, Rotation, SessionProof, Succession
from autoresearch.v1.operator_pb2 import Instruction
from autoresearch.v1.patch_pb2 import PatchSubmission, Withdrawal
from coordinator import gate
from coordinator import main as program
from coordinator.access import CALLS, Role
from tests.hostile import messages
from tests.hostile.state import State
from tests.integration.swarm_on_wire import Peer, Swarm, change

Status = grpc.StatusCode
SEEN_BY_CALLERS = frozenset(
    {
        Status.OK,
        Status.INVALID_ARGUMENT,
        Status.UNAUTHENTICATED,
        Status.NOT_FOUND,
        Status.ALREADY_EXISTS,
        Status.PERMISSION_DENIED,
        Status.FAILED_PRECONDITION,
    }
)
SERVICES = {
    service.full_name: service
    for module in (
        access_pb2, leaderboard_service_pb2, operator_service_pb2, patch_service_pb2, volunteer_service_pb2
    )
    for service in module.DESCRIPTOR.services_by_name.values()
}  # fmt: skip
CHANGES = {"Enroll", "SubmitPatch", "WithdrawPatch", "Instruct", "Session", "RotateKey"}
KINDS: dict[str, type[Message]] = {
    envelope.ENROLMENT: Enrolment,
    envelope.PATCH: PatchSubmission,
    envelope.WITHDRAWAL: Withdrawal,
    envelope.IDENTITY_PROOF: IdentityProof,
    envelope.INSTRUCTION: Instruction,
    envelope.RESULT: trial_pb2.Result,
    envelope.ROTATION: Rotation,
    envelope.SESSION_PROOF: SessionProof,
}
EXPECTED = {
    "Enroll": envelope.ENROLMENT,
    "SubmitPatch": envelope.PATCH,
    "WithdrawPatch": envelope.WITHDRAWAL,
    "Authenticate": envelope.IDENTITY_PROOF,
    "Instruct": envelope.INSTRUCTION,
    "Session": envelope.RESULT,
    "RotateKey": envelope.ROTATION,
}
SESSION = gate.SESSION_CALL
FOLLOWED_S = 0.1
BEAT_EVERY = 200  # calls or sessions
BEAT_S = 20.0
DIFF = change("WIDTH = 128", "WIDTH = 256")


def renewed(inner: Message) -> Message:
    """An instruction that was not given before, and other messages as they are."""
    if isinstance(inner, Instruction) and not inner.instruction_id:
        inner.instruction_id = program._token()
    return inner


def bytes_of(message: Message) -> bytes:
    """As it goes over the wire."""
    return message.SerializeToString()


def request_of(method: str) -> type[Message]:
    """The class of a call's request."""
    service, name = method.removeprefix("/").split("/")
    return message_factory.GetMessageClass(SERVICES[service].methods_by_name[name].input_type)


class Fuzzer:
    """Callers of every role, and what happens to the swarm when they call."""

    def __init__(
        self, swarm: Swarm, honest: Peer, callers: dict[str, Peer], tokens: dict[str, str], known: list[str]
    ) -> None:
        self.swarm = swarm
        self.honest = honest
        self.callers = callers
        self.tokens = tokens
        self.known = known
        self.best, self.patch_id = known[3], known[1]
        self.stranger = Ed25519PrivateKey.generate()
        self.state = State(swarm)
        self.last: dict[str, str] = {}
        self.roles: dict[str, set[Role]] = {}
        self.calls = 0
        self.carried_out = 0
        self.answers: Counter[str] = Counter()
        self.loop = asyncio.get_running_loop()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs something on the swarm's loop, from Hypothesis's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    # --- what is sent ---

    def signed(self, caller: Peer, likely: str) -> st.SearchStrategy[Message]:
        """An envelope: most often one of the kind that belongs there, signed by the caller."""
        sound = self.sound(caller)

        def sign(drawn: tuple[str, Message, bytes | None]) -> Envelope:
            payload_type, inner, raw = drawn
            made = envelope.sign(inner, payload_type, caller.key)
            if raw is not None:
                made.payload = raw
                made.signatures[0].value = caller.key.sign(envelope.pae(payload_type, raw))
            return made

        @functools.cache
        def drawn(payload_type: str) -> st.SearchStrategy[tuple[str, Message, bytes | None]]:
            good = messages.spoilt(sound[payload_type], self.known).map(renewed)
            inner = st.one_of(good, good, messages.message(KINDS[payload_type], self.known))
            raw = st.one_of(st.none(), st.none(), st.none(), st.binary(max_size=100))
            return st.tuples(st.just(payload_type), inner, raw)

        kinds = st.one_of(st.just(likely), st.just(likely), st.sampled_from(sorted(KINDS)))
        plain = messages.message(Envelope, self.known)
        good = kinds.flatmap(drawn).map(sign)
        return st.one_of(good, good, good, plain)

    def sound(self, caller: Peer) -> dict[str, Message]:
        """A message of each kind that the caller could have meant."""
        to = {"protocol": 1, "swarm_id": self.swarm.swarm_id}
        machine = {"machine_id": caller.machine_id, "hardware": caller.hardware}
        new_key = envelope.public_bytes(caller.key)
        succession = Succession(**to, identity_id=key_id(envelope.public_bytes(self.stranger)), new_public_key=new_key)
        return {
            envelope.ENROLMENT: Enrolment(**to, name="ada", **machine),
            envelope.PATCH: PatchSubmission(**to, base_commit=self.best, diff=DIFF, title="it", author_name="ada"),
            envelope.WITHDRAWAL: Withdrawal(**to, patch_id=self.patch_id),
            envelope.IDENTITY_PROOF: IdentityProof(**to, nonce=b"n" * 48),
            envelope.INSTRUCTION: Instruction(**to, signed_at_ms=program.now_ms(), pause=operator_pb2.Pause()),
            envelope.RESULT: trial_pb2.Result(**to, lease_id="0" * 32, machine_id=caller.machine_id, val_bpb=1.0),
            envelope.ROTATION: Rotation(**to, succession=envelope.sign(succession, envelope.SUCCESSION, self.stranger)),
            envelope.SESSION_PROOF: SessionProof(**to, nonce=b"n" * 32, machine_id=caller.machine_id),
        }

    @functools.cache  # noqa: B019 - lives as long as the test
    def request(self, method: str, name: str) -> st.SearchStrategy[bytes]:
        """The bytes of a request."""
        likely = EXPECTED.get(method.rpartition("/")[2], envelope.RESULT)
        signed = self.signed(self.callers[name], likely)
        proper = messages.message(request_of(method), self.known, {Envelope: signed}).map(bytes_of)
        return st.one_of(st.binary(max_size=300), proper, proper, messages.mutated(proper))

    # --- what becomes of it ---

    async def call(self, method: str, data: bytes, bearer: str | None) -> tuple[Status, str]:
        """One call with these bytes; a stream of events is followed for a moment only."""
        metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        stub = self.swarm.channel.unary_stream(method, request_serializer=None, response_deserializer=None)
        call = stub(data, metadata=metadata)
        try:
            async with asyncio.timeout(FOLLOWED_S if method.endswith("/WatchEvents") else 30):
                while await call.read() is not grpc.aio.EOF:
                    pass
            return await call.code(), await call.details() or ""
        except TimeoutError:
            assert method.endswith("/WatchEvents")
            call.cancel()
            return Status.OK, ""
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""

    async def session(self, caller: Peer, requests: list[bytes], *, proves: bool) -> tuple[Status, str]:
        """One session: a proof, if the caller gives one, and then these bytes."""
        stub = self.swarm.channel.stream_stream(SESSION, request_serializer=None, response_deserializer=None)
        call = stub(timeout=30)
        try:
            greeting = volunteer_service_pb2.SessionResponse.FromString(await call.read()).greeting
            if proves:
                proof = SessionProof(
                    protocol=1, swarm_id=self.swarm.swarm_id, nonce=greeting.nonce, machine_id=caller.machine_id
                )
                opened = volunteer_service_pb2.Open(proof=envelope.sign(proof, envelope.SESSION_PROOF, caller.key))
                requests = [volunteer_service_pb2.SessionRequest(open=opened).SerializeToString(), *requests]
            for data in requests:  # each has an answer, or ends the session: one after the other
                await call.write(data)
                if await call.read() is grpc.aio.EOF:
                    return await call.code(), await call.details() or ""
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:
                pass
            return await call.code(), await call.details() or ""
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return await call.code(), await call.details() or ""

    async def call_and_check(self, method: str, name: str, data: bytes, bearer: str | None) -> None:
        """One call of somebody."""
        await self.check(method, name, *await self.call(method, data, bearer))

    async def session_and_check(self, name: str, requests: list[bytes], *, proves: bool) -> None:
        """One session of somebody."""
        await self.check(SESSION, name, *await self.session(self.callers[name], requests, proves=proves))

    async def begin(self) -> None:
        """Takes the state in, and what each caller may do."""
        self.last = await self.state.settled()
        for name, caller in self.callers.items():
            request = access_pb2.GetStandingRequest(identity_id=caller.identity_id)
            standing = await self.swarm.access.GetStanding(request)
            self.roles[name] = {Role(operator_pb2.Role.Name(r).removeprefix("ROLE_").lower()) for r in standing.roles}

    async def check(self, method: str, name: str, code: Status, says: str) -> None:
        """The caller got a status of the table with one line, and changed nothing that they may not change."""
        self.calls += 1
        self.answers[code.name] += 1
        assert code in SEEN_BY_CALLERS, (code, says)
        assert says.isprintable(), says
        assert len(says) <= 1_000
        if (now := self.state.look()) != self.last:
            changed = {name for name, _ in now.items() ^ self.last.items()}
            wanted = CALLS[method].roles
            assert method.rpartition("/")[2] in CHANGES, changed
            assert not wanted or wanted & self.roles[name], changed
            assert code is Status.OK or method == SESSION, changed  # a session ends as it likes after what it changed
            self.carried_out += 1
            await self.begin()
        if self.calls % BEAT_EVERY == 0:
            await self.beat()
            await self.begin()

    async def beat(self) -> None:
        """The honest volunteer says that it is at work, and keeps its lease."""
        heartbeat = volunteer_service_pb2.Heartbeat(lease_id=self.honest.held[0])
        async with asyncio.timeout(BEAT_S):
            answer = await self.honest.say(heartbeat=heartbeat)
        assert answer.WhichOneof("event") == "heartbeat_ack", answer
