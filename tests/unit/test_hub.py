"""Who is told what: stops go to their machine, notices to everybody or to one identity's machines."""

from autoresearch.judging.model import Lease, Machine
from coordinator.app import Told
from coordinator.hub import WAITING, Hub


def machine(name: str, identity: str) -> Machine:
    return Machine(name, identity, "H100", 0)


def lease(name: str) -> Lease:
    return Lease("lease", "order", "", "i", name, "H100", "", 0)


async def test_everybody_gets_what_concerns_them() -> None:
    hub = Hub()
    queues = {name: hub.join(machine(name, identity)) for name, identity in (("a1", "a"), ("a2", "a"), ("b1", "b"))}
    hub.tell(Told("new best", 1))
    hub.tell(Told("in quarantine", 1, identity_id="a"))
    hub.tell(Told("stop", 1, lease("b1")))
    told = {name: [queue.get_nowait().text for _ in range(queue.qsize())] for name, queue in queues.items()}
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
    assert (slow.qsize(), gone.qsize()) == (WAITING, 0)
