"""Who is told what: stops go to their machine, notices to everybody or to one identity's machines."""

import pytest

from autoresearch.judging.model import Lease, Machine
from coordinator.app import Told
from coordinator.hub import SESSIONS_OF_IDENTITY, WAITING, Ear, Hub
from coordinator.refusals import TooOftenError


def machine(name: str, identity: str) -> Machine:
    return Machine(name, identity, "H100", 0)


def lease(name: str) -> Lease:
    return Lease("lease", "order", "", "i", name, "H100", "", 0)


def heard(ear: Ear) -> list[str | None]:
    return [told and told.text for told in (ear.queue.get_nowait() for _ in range(ear.queue.qsize()))]


async def test_everybody_gets_what_concerns_them() -> None:
    hub = Hub()
    ears = {name: hub.join(machine(name, identity)) for name, identity in (("a1", "a"), ("a2", "a"), ("b1", "b"))}
    hub.tell(Told("new best", 1))
    hub.tell(Told("in quarantine", 1, identity_id="a"))
    hub.tell(Told("stop", 1, lease("b1")))
    told = {name: heard(ear) for name, ear in ears.items()}
    assert told == {
        "a1": ["new best", "in quarantine"],
        "a2": ["new best", "in quarantine"],
        "b1": ["new best", "stop"],
    }


async def test_a_session_that_ended_or_does_not_read_is_told_nothing_more() -> None:
    hub = Hub()
    slow, gone = hub.join(machine("a1", "a")), hub.join(machine("b1", "b"))
    hub.leave(gone)
    for _ in range(WAITING + 10):
        hub.tell(Told("new best", 1))
    assert (slow.queue.qsize(), gone.queue.qsize()) == (WAITING, 0)


async def test_a_machine_has_one_session_the_newest() -> None:
    hub = Hub()
    first = hub.join(machine("a1", "a"))
    for _ in range(WAITING):
        hub.tell(Told("new best", 1))
    second = hub.join(machine("a1", "a"))
    hub.leave(first)  # late: it must not take the newer one along
    hub.tell(Told("for the newer", 1))
    assert heard(first)[-1] is None
    assert heard(second) == ["for the newer"]


async def test_an_identity_has_so_many_sessions_and_no_more() -> None:
    hub = Hub()
    ears = [hub.join(machine(f"a{number}", "a")) for number in range(SESSIONS_OF_IDENTITY)]
    with pytest.raises(TooOftenError, match="machines at work"):
        hub.join(machine("another", "a"))
    hub.join(machine("a0", "a"))  # in the place of its own
    hub.join(machine("b", "b"))
    hub.leave(ears[1])
    hub.join(machine("another", "a"))
