"""Lets several volunteers on one host take turns, so that no two trials slow each other down.

A trial takes `need` of the host's `capacity` places; each place is a locked file, which the system frees when a process
dies. Who waits holds a numbered ticket: first come, first served. The folder may go at any time: a login's with the
login, one in /tmp when it is old. Left out: when a session wants a slot (`session.py`).
"""

import asyncio
import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from volunteer.durable import make_private
from volunteer.errors import MachineError

_POLL_S: Final = 0.1  # a free place is noticed within; locks give no notice
_OURS: Final = 2  # folders above it that the program may have made: whoever owns those can exchange it
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

    def __init__(self, folder: Path, capacity: int, need: int = 1, *, spare: Path | None = None) -> None:
        """`need` of `capacity` places are taken at a time; what does not fit takes them all. `spare`: the folder to
        share while the first one cannot be had.

        Raises:
            MachineError: neither folder is safe to use.
        """
        self._folders = (folder,) if spare is None else (folder, spare)
        self._capacity = max(1, capacity)
        self._need = min(max(1, need), self._capacity)
        self._folder()

    async def take(self) -> Turn:
        """Waits for a slot. Cancel it to give up waiting.

        Raises:
            MachineError: there is no folder to wait in any more.
        """
        while True:
            try:
                return await self._take(self._folder())
            except FileNotFoundError:  # somebody removed the folder: queue up in the next one
                await asyncio.sleep(_POLL_S)
            except OSError as error:
                raise _unusable(self._folders[-1], error) from error

    def others_wait(self) -> bool:
        """Whether somebody waits for a slot now."""
        try:
            folder = self._folder()
            with _queue(folder):
                return bool(_tickets(folder))
        except (OSError, MachineError):
            return False  # nobody can wait there; `take` says so when it matters

    def _folder(self) -> Path:
        *first, last = self._folders
        for folder in first:
            with contextlib.suppress(MachineError):
                return _own_folder(folder)
        return _own_folder(last)

    async def _take(self, folder: Path) -> Turn:
        ticket, lock = _queue_up(folder)
        places: list[int] = []
        try:
            while not self._fill(ticket, lock, places):  # noqa: ASYNC110 - other processes free places
                await asyncio.sleep(_POLL_S)
        except BaseException:
            Turn(places).leave()
            raise
        finally:
            if _is_still(ticket, lock):
                ticket.unlink(missing_ok=True)
            os.close(lock)
        return Turn(places)

    def _fill(self, ticket: Path, lock: int, places: list[int]) -> bool:
        """Only the head of the queue takes places, so two that each hold half of what they need cannot block.

        Raises:
            FileNotFoundError: the ticket, or its folder, was removed; another may have the number since.
        """
        folder = ticket.parent
        with _queue(folder):
            tickets = _tickets(folder, ticket)
        if ticket not in tickets or not _is_still(ticket, lock):
            raise FileNotFoundError(ticket)
        if tickets[0] != ticket:
            return False
        for number in range(self._capacity):
            if len(places) < self._need and (place := _lock(folder / f"place-{number}")) is not None:
                places.append(place)
        return len(places) == self._need


def _queue_up(folder: Path) -> tuple[Path, int]:
    with _queue(folder):
        last = max((int(path.name.removeprefix("ticket-")) for path in _tickets(folder)), default=0)
        path = folder / f"ticket-{last + 1:012d}"
        lock = _lock(path)
        assert lock is not None  # nobody else makes tickets while the queue is held
        return path, lock


def _tickets(folder: Path, own: Path | None = None) -> list[Path]:
    """Tickets of the living in their order, `own` among them; removes those of the dead. The queue must be held."""
    living = []
    for path in sorted(folder.glob("ticket-[0-9]*")):
        if path == own or (lock := _lock(path)) is None:
            living.append(path)
        else:
            path.unlink(missing_ok=True)
            os.close(lock)
    return living


@contextlib.contextmanager
def _queue(folder: Path) -> Iterator[None]:
    """Held for microseconds at a time, by one process at a time."""
    handle = os.open(folder / "queue", _MODE, 0o600)
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
    os.utime(handle)  # what sweeps old files out of /tmp takes it for a new one
    return handle


def _is_still(path: Path, handle: int) -> bool:
    """Whether the open file is the one of that name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _own_folder(folder: Path) -> Path:
    """Made private when missing; it may be in a folder where anyone can make one first."""
    try:
        make_private(folder)
        found, ways = folder.lstat(), [way.stat() for way in folder.parents[:_OURS]]
    except OSError as error:
        raise _unusable(folder, error) from error
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    if not ours or any(way.st_uid not in {0, os.getuid()} for way in ways):
        raise MachineError(
            f"the slots folder {folder} belongs to, or is writable by, others: choose one with --slots-dir"
        )
    return folder


def _unusable(folder: Path, error: OSError) -> MachineError:
    return MachineError(f"cannot use the slots folder {folder} ({error.strerror}): choose one with --slots-dir")
