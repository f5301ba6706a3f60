"""Every call of every service fuzzed over real gRPC, by nobody and by somebody of each role.

Messages are any bytes, mutated real ones, and generated ones whose envelopes are signed for real. Whatever comes: the
caller gets a status of the table with one printable line, nothing changes that the caller may not change, and an honest
volunteer is served.
"""

import asyncio
import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import message_factory
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
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
from coordinator import access, gate, quotas
from coordinator import main as program
from coordinator.access import CALLS, INSTRUCTIONS, By, Role
from tests.hostile import messages
from tests.hostile.state import State
from tests.integration.swarm_on_wire import Peer, Starter, Swarm, change
from tests.integration.test_coordinator_access import instruct, operator, somebody, token

log = logging.getLogger(__name__)
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


@pytest.fixture
def without_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that thousands of calls a minute from one address reach what is behind the quotas."""
    free = quotas.Quota("free", address_every_ms=1, address_burst=10**6, address_open=10**6)
    calls = {method: dataclasses.replace(terms, quota=free) for method, terms in CALLS.items()}
    monkeypatch.setattr(gate, "CALLS", calls)
    monkeypatch.setattr(gate, "SESSION_MESSAGES", quotas.Pace(every_ms=1, burst=10**6))
    assert access.CALLS is CALLS


class Fuzzer:
    """Callers of every role, and what happens to the swarm when they call."""

    def __init__(self, swarm: Swarm, callers: dict[str, Peer], tokens: dict[str, str], known: list[str]) -> None:
        self.swarm = swarm
        self.callers = callers
        self.tokens = tokens
        self.known = known
        self.best, self.patch_id = known[3], known[1]
        self.stranger = Ed25519PrivateKey.generate()
        self.state = State(swarm)
        self.last = ""
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
        return st.one_of(st.binary(max_size=300), proper, proper, proper.flatmap(messages.mutated))

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
        self.last = await self._settled()
        for name, caller in self.callers.items():
            request = access_pb2.GetStandingRequest(identity_id=caller.identity_id)
            standing = await self.swarm.access.GetStanding(request)
            self.roles[name] = {Role(operator_pb2.Role.Name(r).removeprefix("ROLE_").lower()) for r in standing.roles}

    async def _settled(self) -> str:
        """The state once nothing changes any more by itself."""
        before, after = "", self.state.digest()
        while before != after:
            await asyncio.sleep(0.02)
            before, after = after, self.state.digest()
        return after

    async def check(self, method: str, name: str, code: Status, says: str) -> None:
        """The caller got a status of the table with one line, and changed nothing that they may not change."""
        self.calls += 1
        self.answers[code.name] += 1
        assert code in SEEN_BY_CALLERS, (code, says)
        assert says.isprintable(), says
        assert len(says) <= 1_000
        if self.state.digest() != self.last:
            wanted = CALLS[method].roles
            assert method.rpartition("/")[2] in CHANGES
            assert not wanted or wanted & self.roles[name]
            assert code is Status.OK or method == SESSION  # a session ends as it likes after what it changed
            self.carried_out += 1
            await self.begin()


@pytest.fixture
async def fuzzer(starter: Starter, without_quotas: None) -> AsyncIterator[Fuzzer]:
    starter.lease_s = 3_600.0  # nothing ends by itself meanwhile
    async with starter() as swarm:
        callers = {"nobody": await somebody(swarm, None)}
        for role in Role:
            callers[role.value] = await somebody(swarm, role)
        honest = await swarm.peer("honest").start()
        author = swarm.peer("someone")
        patch = await author.submit(change("WIDTH = 128", "WIDTH = 192"))
        await honest.work(lambda order: 1.0)
        order = await honest.order()
        tokens = {name: await token(peer) for name, peer in callers.items() if name != "nobody"}
        best = (await swarm.patches.GetBest(patch_service_pb2.GetBestRequest())).best
        known = [
            swarm.swarm_id, patch.patch_id, patch.patch_id[:5], best.commit, best.source_sha256, order.lease_id,
            honest.machine_id,
            *(peer.identity_id for peer in callers.values()), *(peer.machine_id for peer in callers.values()),
        ]  # fmt: skip
        fuzzing = Fuzzer(swarm, callers, tokens, known)
        await fuzzing.begin()
        yield fuzzing
        fuzzing.state.close()
        await served(swarm, honest, order)


async def served(swarm: Swarm, honest: Peer, order: trial_pb2.Order) -> None:
    """The honest volunteer's result, begun before all this, is taken, and so is one that begins after it."""
    ack = await honest.deliver(honest.result(order, 1.0))
    assert ack.status == volunteer_service_pb2.RESULT_STATUS_ACCEPTED, ack.reason
    await instruct(operator(swarm), resume=operator_pb2.Pause())
    newcomer = await swarm.peer("newcomer").start()
    await newcomer.work(lambda order: 1.0)


def quiet(records: list[logging.LogRecord]) -> list[str]:
    """What the coordinator or gRPC complained of."""
    return [record.getMessage() for record in records if record.levelno >= logging.ERROR]


EXAMPLES = [pytest.param(200, id="short"), pytest.param(20_000, id="long", marks=pytest.mark.full)]


@pytest.mark.parametrize("examples", EXAMPLES)
async def test_no_call_breaks_the_coordinator(fuzzer: Fuzzer, caplog: pytest.LogCaptureFixture, examples: int) -> None:
    unary = sorted(method for method in CALLS if method != SESSION)
    changing = [method for method in unary if method.rpartition("/")[2] in CHANGES]

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        method = data.draw(st.one_of(st.sampled_from(unary), st.sampled_from(changing)), "method")
        name = data.draw(st.sampled_from(sorted(fuzzer.callers)), "caller")
        request = data.draw(fuzzer.request(method, name), "request")
        bearer = fuzzer.tokens.get(name)
        if CALLS[method].by is By.TOKEN and data.draw(st.booleans()):
            bearer = data.draw(messages.texts().filter(lambda text: text.isascii() and text.isprintable()), "token")
        fuzzer.do(fuzzer.call_and_check(method, name, request, bearer))

    await asyncio.to_thread(fuzz)
    assert fuzzer.calls >= examples
    assert fuzzer.carried_out or examples < 1_000, (
        "nobody got anything done: the messages are too poor to find anything"
    )
    log.info("%d calls, %d changed something: %s", fuzzer.calls, fuzzer.carried_out, dict(fuzzer.answers))
    assert quiet(caplog.records) == []


@pytest.mark.parametrize("examples", EXAMPLES)
async def test_no_session_breaks_the_coordinator(
    fuzzer: Fuzzer, caplog: pytest.LogCaptureFixture, examples: int
) -> None:
    @settings(max_examples=examples // 5, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(["nobody", *[Role.VOLUNTEER] * 3, Role.AUTHOR]), "caller")
        requests = data.draw(st.lists(fuzzer.request(SESSION, name), max_size=6), "requests")
        proves = data.draw(st.sampled_from([True, True, True, False]), "proves")
        fuzzer.do(fuzzer.session_and_check(name, requests, proves=proves))

    await asyncio.to_thread(fuzz)
    log.info("%d sessions, %d changed something: %s", fuzzer.calls, fuzzer.carried_out, dict(fuzzer.answers))
    assert quiet(caplog.records) == []


def test_the_fuzzing_knows_every_call_that_changes_something() -> None:
    """A call that carries a signature and is not listed as changing something would be allowed nothing: name it."""
    signed = {method.rpartition("/")[2] for method, terms in CALLS.items() if terms.by is By.SIGNATURE}
    assert signed - {"Authenticate"} == CHANGES
    assert set(INSTRUCTIONS) == {field.name for field in Instruction.DESCRIPTOR.oneofs_by_name["action"].fields}
