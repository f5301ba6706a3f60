"""Tells open sessions what concerns them; one per process. Sessions elsewhere learn at their next heartbeat.

A machine has one session: when it opens another, after a connection that died unnoticed for example, the older ends.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from autoresearch.judging.model import Machine
from coordinator.app import Told
from coordinator.crowd import AGAIN_MS
from coordinator.refusals import TooOftenError

SESSIONS_OF_IDENTITY = 512  # machines of one identity at work in one process: a large laboratory
WAITING = 100  # messages kept for a session that reads slowly; more are lost to it


@dataclass(eq=False, slots=True)
class Ear:
    """What an open session is told. `None` in the queue: another session of its machine takes its place."""

    machine: Machine
    queue: asyncio.Queue[Told | None] = field(default_factory=lambda: asyncio.Queue(WAITING))


class Hub:
    """The open sessions, by machine."""

    def __init__(self) -> None:
        self._ears: dict[str, Ear] = {}
        self._of_identity: Counter[str] = Counter()

    def join(self, machine: Machine) -> Ear:
        """A session of this machine begins.

        Raises:
            TooOftenError: its identity has too many.
        """
        older = self._ears.get(machine.machine_id)
        if older is not None:
            if older.queue.full():
                older.queue.get_nowait()
            older.queue.put_nowait(None)
            self.leave(older)
        if self._of_identity.get(machine.identity_id, 0) >= SESSIONS_OF_IDENTITY:
            raise TooOftenError(f"this identity has {SESSIONS_OF_IDENTITY} machines at work here: end some", AGAIN_MS)
        ear = Ear(machine)
        self._ears[machine.machine_id] = ear
        self._of_identity[machine.identity_id] += 1
        return ear

    def leave(self, ear: Ear) -> None:
        """The session is over."""
        if self._ears.get(ear.machine.machine_id) is not ear:
            return
        del self._ears[ear.machine.machine_id]
        self._of_identity[ear.machine.identity_id] -= 1
        if not self._of_identity[ear.machine.identity_id]:
            del self._of_identity[ear.machine.identity_id]

    def tell(self, told: Told) -> None:
        """Stops go to their machine, notices to whom they are for. A full queue loses notices; heartbeats make up for
        stops."""
        for ear in self._ears.values():
            if _concerns(told, ear.machine) and not ear.queue.full():
                ear.queue.put_nowait(told)


def _concerns(told: Told, machine: Machine) -> bool:
    if told.lease is not None:
        return told.lease.machine_id == machine.machine_id
    return told.identity_id in ("", machine.identity_id)
