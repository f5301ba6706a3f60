"""Lets several volunteers on one host take turns, so that no two trials slow each other down.

A trial takes `need` of the host's `capacity` places; each place is a locked file, which the system frees when a process
dies. Who waits holds a numbered ticket: first come, first served. Left out: when a session wants a slot (`session.py`).
"""

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from volunteer.errors import MachineError

_POLL_S: Final = 0.1  # a free place is noticed within; locks give no notice
_MODE: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Turn:
    """A slot that is held until `leave`, or until this process dies."""

    def __init__(self, places: list[int]) -> None:
        self._places = places

    def leave(self) -> None:
        """Frees it; a second call does nothing."""
        while self._places:
            os.close(self._places.pop())


class Slots:
    """A folder that all volunteers of the host share."""

    def __init__(self, folder: Path, capacity: int, need: int = 1) -> None:
        """`need` of `capacity` places are taken at a time; what does not fit takes them all.

        Raises:
            MachineError: the folder is not safe to use.
        """
        self._folder = _own_folder(folder)
        self._capacity = max(1, capacity)
        self._need = min(max(1, need), self._capacity)

    async def take(self) -> Turn:
        """Waits for a slot. Cancel it to give up waiting."""
        ticket, lock = self._queue_up()
        places: list[int] = []
        try:
            while not self._fill(ticket, places):  # noqa: ASYNC110 - other processes free places; nothing to await
                await asyncio.sleep(_POLL_S)
        except BaseException:
            Turn(places).leave()
            raise
        finally:
            ticket.unlink(missing_ok=True)
            os.close(lock)
        return Turn(places)

    def others_wait(self) -> bool:
        """Whether somebody waits for a slot now."""
        with self._queue():
            return bool(self._tickets())

    def _fill(self, ticket: Path, places: list[int]) -> bool:
        """Only the head of the queue takes places, so two that each hold half of what they need cannot block."""
        with self._queue():
            if self._tickets(ticket)[:1] != [ticket]:
                return False
        for number in range(self._capacity):
            if len(places) < self._need and (place := _lock(self._folder / f"place-{number}")) is not None:
                places.append(place)
        return len(places) == self._need

    def _queue_up(self) -> tuple[Path, int]:
        with self._queue():
            last = max((int(path.name.removeprefix("ticket-")) for path in self._tickets()), default=0)
            path = self._folder / f"ticket-{last + 1:012d}"
            lock = _lock(path)
            assert lock is not None  # nobody else makes tickets while the queue is held
            return path, lock

    def _tickets(self, own: Path | None = None) -> list[Path]:
        """Tickets of the living in their order, `own` among them; removes those of the dead. The queue must be held."""
        living = []
        for path in sorted(self._folder.glob("ticket-[0-9]*")):
            if path == own or (lock := _lock(path)) is None:
                living.append(path)
            else:
                path.unlink(missing_ok=True)
                os.close(lock)
        return living

    @contextlib.contextmanager
    def _queue(self) -> Iterator[None]:
        """Held for microseconds at a time, by one process at a time."""
        handle = os.open(self._folder / "queue", _MODE, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _lock(path: Path) -> int | None:
    """An open, locked file; None when another holds it. A second open of this process counts as another."""
    handle = os.open(path, _MODE, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _own_folder(folder: Path) -> Path:
    """Made private when missing; it may be in a folder where anyone can make one first."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise MachineError(
            f"cannot use the slots folder {folder} ({error.strerror}): choose one with --slots-dir"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise MachineError(
            f"the slots folder {folder} belongs to, or is writable by, others: choose one with --slots-dir"
        )
    return folder
