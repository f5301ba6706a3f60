"""Copies the ledger from the store to `autoresearch.jsonl`, fsynced, in groups.

One task writes everything that is new and syncs once; whoever waits for an entry is then released together. After a
crash the file ends anywhere: a half-written last line is cut off and the copying goes on from there. A file that
knows more than the store means that the store lost acknowledged entries: that is refused, never papered over. So is a
file that another coordinator writes, by a lock that no death leaves behind.
"""

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from coordinator.errors import OperatorError
from coordinator.store import Store, StoreError

GROUP_LINES = 1000  # lines read from the store at once
LOOK_EVERY_S = 0.5  # entries written by other coordinators are found this late at most


class LedgerExport:
    """The file and the task that grows it. `start`, then run `run` as a task until cancelled, then `close`."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self._store = store
        self._file: BinaryIO | None = None
        self._length = 0
        self._size_bytes = 0  # of the whole lines
        self._wake = asyncio.Event()
        self._grown = asyncio.Condition()
        self._failure: OperatorError | None = None

    async def start(self) -> None:
        """Opens the file, mends its end and checks that it agrees with the store.

        Raises:
            OperatorError: the file cannot be written or another coordinator writes it, or the store is behind it or
                differs from it.
        """
        try:
            self._file = await asyncio.to_thread(_open, self.path)
            self._length, self._size_bytes, last = await asyncio.to_thread(_mend, self._file)
        except OSError as error:
            raise OperatorError(
                f"cannot write the ledger {self.path}: {error.strerror}; mend that and start again"
            ) from error
        if self._length:
            stored = await self._store.items("ledger", self._length - 1, self._length - 1)
            if not stored or stored[0] != last:
                raise OperatorError(
                    f"the store does not hold entry {self._length - 1} of {self.path} as written there: it lost data "
                    "or belongs to another swarm. Point the coordinator at the right store, or restore its last backup"
                )
        await self._copy()

    async def run(self) -> None:
        """Copies until cancelled. A full disk is reported to whoever waits, and tried again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):  # not wait_for: Python 3.11's may swallow a cancellation
                    await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(StoreError):  # away for longer than calls wait: whoever waits here waits on
                await self._copy()

    def wake(self) -> None:
        """Says that there is something to copy."""
        self._wake.set()

    async def durable(self, seq: int) -> None:
        """Returns when entry `seq` is fsynced.

        Raises:
            OperatorError: it cannot be written now.
        """
        async with self._grown:
            await self._grown.wait_for(lambda: self._length > seq or self._failure is not None)
            if self._length <= seq and self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _copy(self) -> None:
        while lines := await self._store.items("ledger", self._length, self._length + GROUP_LINES - 1):
            try:
                await asyncio.to_thread(self._write, b"".join(line + b"\n" for line in lines))
            except OSError as error:
                self._failure = OperatorError(f"cannot write the ledger {self.path}: {error.strerror}")
                await self._tell()
                return
            self._failure = None
            self._length += len(lines)
            await self._tell()

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) or 0 :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self._size_bytes)  # a full disk leaves no half line behind
            raise
        self._size_bytes += len(data)

    async def _tell(self) -> None:
        async with self._grown:
            self._grown.notify_all()


def _open(path: Path) -> BinaryIO:
    """The file, for appending, ours alone until it is closed."""
    file = path.open("ab+", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # a new file is durable when its folder is
        finally:
            os.close(folder)
    except BlockingIOError as error:
        file.close()
        raise OperatorError(
            f"another coordinator writes {path}: stop it, or give this one another folder with --data"
        ) from error
    except OSError:
        file.close()
        raise
    return file


def _mend(file: BinaryIO) -> tuple[int, int, bytes]:
    """Cuts off an unfinished last line; returns the number of whole lines, their bytes and the last one."""
    count, end, last = 0, 0, b""
    with open(file.fileno(), "rb", closefd=False) as reader:
        reader.seek(0)
        for line in reader:
            if line.endswith(b"\n"):
                count, end, last = count + 1, end + len(line), line[:-1]
    file.truncate(end)
    return count, end, last
