"""Tells open sessions what concerns them; one per process. Sessions elsewhere learn at their next heartbeat."""

import asyncio

from autoresearch.judging.model import Machine
from coordinator.app import Told

WAITING = 100  # messages kept for a session that reads slowly; then it is dropped and has to reconnect


class Hub:
    """Queues of the open sessions, by machine."""

    def __init__(self) -> None:
        self._queues: dict[asyncio.Queue[Told], Machine] = {}

    def join(self, machine: Machine) -> asyncio.Queue[Told]:
        """A queue of what this machine is told."""
        queue: asyncio.Queue[Told] = asyncio.Queue(WAITING)
        self._queues[queue] = machine
        return queue

    def leave(self, queue: asyncio.Queue[Told]) -> None:
        """The session is over."""
        self._queues.pop(queue, None)

    def tell(self, told: Told) -> None:
        """Stops go to their machine, notices to whom they are for. A full queue loses notices; heartbeats make up for
        stops."""
        for queue, machine in self._queues.items():
            if _concerns(told, machine) and not queue.full():
                queue.put_nowait(told)


def _concerns(told: Told, machine: Machine) -> bool:
    if told.lease is not None:
        return told.lease.machine_id == machine.machine_id
    return told.identity_id in ("", machine.identity_id)
