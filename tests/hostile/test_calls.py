"""Every call of every service fuzzed over real gRPC, by nobody and by somebody of each role (`fuzzer.py`).

Whatever comes: the caller gets a status of the table with one printable line, nothing changes that the caller may not
change, and an honest volunteer is served, before, meanwhile and after.
"""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch.v1 import operator_pb2, patch_service_pb2, trial_pb2, volunteer_service_pb2
from autoresearch.v1.operator_pb2 import Instruction
from coordinator import access, gate, quotas
from coordinator.access import CALLS, INSTRUCTIONS, By, Role
from tests.hostile import messages
from tests.hostile.fuzzer import CHANGES, SESSION, Fuzzer
from tests.integration.swarm_on_wire import Peer, Starter, Swarm, change
from tests.integration.test_coordinator_access import instruct, operator, somebody, token

log = logging.getLogger(__name__)


@pytest.fixture
def without_quotas(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that thousands of calls a minute from one address reach what is behind the quotas."""
    free = quotas.Quota("free", address_every_ms=1, address_burst=10**6, address_open=10**6)
    calls = {method: dataclasses.replace(terms, quota=free) for method, terms in CALLS.items()}
    monkeypatch.setattr(gate, "CALLS", calls)
    monkeypatch.setattr(gate, "SESSION_MESSAGES", quotas.Pace(every_ms=1, burst=10**6))
    assert access.CALLS is CALLS


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
        fuzzing = Fuzzer(swarm, honest, callers, tokens, known)
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
