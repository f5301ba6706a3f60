"""Tells open sessions what concerns them; one per process. Sessions elsewhere learn at their next heartbeat."""

import asyncio

from coordinator.app import Told

WAITING = 100  # messages kept for a session that reads slowly; then it is dropped and has to reconnect


class Hub:
    """Queues of the open sessions, by machine."""

    def __init__(self) -> None:
        self._queues: dict[asyncio.Queue[Told], str] = {}

    def join(self, machine_id: str) -> asyncio.Queue[Told]:
        """A queue of what this machine is told."""
        queue: asyncio.Queue[Told] = asyncio.Queue(WAITING)
        self._queues[queue] = machine_id
        return queue

    def leave(self, queue: asyncio.Queue[Told]) -> None:
        """The session is over."""
        self._queues.pop(queue, None)

    def tell(self, told: Told) -> None:
        """Stops go to their machine, notices to all. A full queue loses notices; heartbeats make up for stops."""
        for queue, machine_id in self._queues.items():
            if (told.lease is None or told.lease.machine_id == machine_id) and not queue.full():
                queue.put_nowait(told)
