"""Copies the ledger from the store to `autoresearch.jsonl`, fsynced, in groups, and closes segments of it.

One task writes everything that is new and syncs once; whoever waits for an entry is then released together. After a
crash the file ends anywhere: a half-written last line is cut off and the copying goes on from there. A file that
knows more than the store means that the store lost acknowledged entries: that is refused, never papered over, at the
start and at every look after it. So is a file that another coordinator writes, by a lock that no death leaves behind.

When the live file (`live_file.py`) holds a segment (`segments.py`), its beginning is compressed beside the writing, and
then taken out of the live file between two writes. Everything that reads the ledger reads what is durable here, across
segments.
"""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from autoresearch.digest import sha256_hex
from autoresearch.merkle import Frontier
from coordinator import live_file, segments
from coordinator.ending import ended, to_the_end
from coordinator.errors import OperatorError
from coordinator.live_file import READ_BYTES, READ_LINES, LiveFile
from coordinator.segments import Segment
from coordinator.store import Store, StoreError

log = logging.getLogger(__name__)
GROUP_LINES = 1000  # lines read from the store at once
LOOK_EVERY_S = 0.5  # entries written by other coordinators are found this late at most
AGAIN_S = 60.0  # a segment that could not be closed is tried again after this


class LostEntriesError(OperatorError):
    """The store does not hold what was read from it before: nothing may be written to it any more."""


class LedgerExport:
    """The files and the task that grows them. `start`, then run `run` as a task until cancelled, then `close`."""

    def __init__(self, path: Path, store: Store, *, segment_entries: int = segments.SEGMENT_ENTRIES) -> None:
        self.path = path
        self.segment_entries = segment_entries
        self.closed: list[Segment] = []
        self.tree = Frontier()  # over everything durable
        self._store = store
        self._live: LiveFile | None = None
        self._lock: BinaryIO | None = None
        self._wake = asyncio.Event()
        self._grown = asyncio.Condition()
        self._failure: OperatorError | None = None
        self._lost: LostEntriesError | None = None
        self._closing: asyncio.Task[list[Segment]] | None = None
        self._close_after = 0.0  # loop time before which no segment is closed

    @property
    def length(self) -> int:
        """How many entries are durable."""
        return self.tree.size

    @property
    def live_leaves(self) -> list[bytes]:
        """Leaf hashes of the entries after the closed segments."""
        return self._live.leaves if self._live else []

    async def start(self) -> None:
        """Opens the file, mends its end and checks that it agrees with the segments and the store.

        Raises:
            OperatorError: the file cannot be written or another coordinator writes it, or the store is behind it or
                differs from it, or a segment is missing.
        """
        await to_the_end(self._open())
        await self._copy()
        if self._segments_ready():
            await to_the_end(self._swap(await asyncio.to_thread(self._compress)))

    async def _open(self) -> None:
        try:
            self._lock = await asyncio.to_thread(live_file.lock, self.path)
            self._live = await asyncio.to_thread(LiveFile.open, self.path)
            segments.remove_partials(self.path.parent)
            self.closed = await asyncio.to_thread(segments.load, self.path.parent, self.segment_entries)
            await asyncio.to_thread(self._join)
        except OSError as error:
            raise OperatorError(
                f"cannot write the ledger {self.path}: {error.strerror}; mend that and start again"
            ) from error

    def _join(self) -> None:
        """Makes live file and closed segments one ledger; finishes what a death between them left."""
        live, base = self._here, len(self.closed) * self.segment_entries
        first = live.first_seq() if live.ends else base
        if live.ends and first < base and first % self.segment_entries == 0:
            self._check_taken(first)
            self._live = live.without_first(min(base - first, len(live.ends)))
            live.file.close()
        elif first != base:
            raise OperatorError(
                f"{self.path} begins with entry {first}, but {base} should follow its closed segments: "
                "restore the files of the ledger together, from one copy"
            )
        roots = Frontier().grown(bytes.fromhex(segment.root) for segment in self.closed)
        self.tree = Frontier(base, roots.peaks).grown(self._here.leaves)

    def _check_taken(self, first: int) -> None:
        """That what is about to leave the live file is in the closed segments."""
        live, at = self._here, 0
        for segment in self.closed[first // self.segment_entries :]:
            data = os.pread(live.file.fileno(), segment.content_bytes, at)
            if len(data) == segment.content_bytes and sha256_hex(data) != segment.sha256:
                raise OperatorError(
                    f"{self.path} and {segment.name} hold the same entries, but differ: "
                    "restore the files of the ledger together, from one copy"
                )
            at += segment.content_bytes

    async def run(self) -> None:
        """Copies until cancelled. A full disk is reported to whoever waits, and tried again.

        Raises:
            LostEntriesError: the store lost entries. Nothing counts as durable from then on.
        """
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):  # not wait_for: Python 3.11's may swallow a cancellation
                        await self._wake.wait()
                self._wake.clear()
                with contextlib.suppress(StoreError):  # away for longer than calls wait: whoever waits here waits on
                    await self._copy()
                await self._rotate()
        finally:
            if self._closing is not None:
                await ended(self._closing)  # it reads the live file, which is closed next

    def wake(self) -> None:
        """Says that there is something to copy."""
        self._wake.set()

    async def durable(self, seq: int) -> None:
        """Returns when entry `seq` is fsynced.

        Raises:
            OperatorError: it cannot be written now.
        """
        async with self._grown:
            await self._grown.wait_for(lambda: self.length > seq or self._failure is not None)
            if self._lost is not None:
                raise self._lost
            if self.length <= seq and self._failure is not None:
                raise self._failure

    def lose(self, entry: int) -> LostEntriesError:
        """Says that the store lost this entry, which ends `run`; returns what to raise."""
        if self._lost is None:
            self._lost = LostEntriesError(
                f"the store does not hold entry {entry} of {self.path} as written there: it lost data "
                "or belongs to another swarm. Point the coordinator at the right store, or empty it and make it again "
                "with `autoresearch-coordinator rebuild`"
            )
            self._failure = self._lost
            self.wake()
        return self._lost

    async def lines(self, start: int) -> AsyncIterator[bytes]:
        """The durable lines from `start` on, those that were there when it began at least.

        Raises:
            OperatorError: a closed segment is damaged.
        """
        while start < self.length:
            base = len(self.closed) * self.segment_entries
            if start >= base:
                page = await asyncio.to_thread(live_file.read, *self._here.page(start - base))
                for line in page:
                    yield line
                start += len(page)
            else:
                number, skip = divmod(start, self.segment_entries)
                async for line in _in_thread(segments.read_lines(self.path.parent, self.closed[number], skip)):
                    yield line
                start = (number + 1) * self.segment_entries

    def close(self) -> None:
        """Closes the file."""
        for file in (self._live.file if self._live else None, self._lock):
            if file is not None:
                file.close()
        self._live = self._lock = None

    async def _copy(self) -> None:
        try:
            while lines := await self._news():
                await to_the_end(self._add(lines))
        except OSError as error:
            self._failure = OperatorError(f"cannot write the ledger {self.path}: {error.strerror}")
            await self._tell()
        except LostEntriesError:
            await self._tell()
            raise

    async def _add(self, lines: list[bytes]) -> None:
        await asyncio.to_thread(self._here.write, lines)
        self._failure = None
        self.tree = self.tree.grown(self._here.add(lines))
        await self._tell()

    async def _news(self) -> list[bytes]:
        """Lines of the store that are not here yet. Read with the last one that is: it must still be there."""
        if self._lost is not None:
            raise self._lost
        if not self.length:
            return await self._store.items("ledger", 0, GROUP_LINES - 1)
        lines = await self._store.items("ledger", self.length - 1, self.length + GROUP_LINES - 1)
        known = sha256_hex(self._here.last) if self._here.ends else self.closed[-1].last_sha256
        if not lines or sha256_hex(lines[0]) != known:
            raise self.lose(self.length - 1)
        return lines[1:]

    async def _tell(self) -> None:
        async with self._grown:
            self._grown.notify_all()

    # --- closing segments ---

    def _segments_ready(self) -> bool:
        return len(self._here.ends) >= self.segment_entries

    async def _rotate(self) -> None:
        """Begins to close segments, or ends it when their files are there. Never in the way of a write."""
        now = asyncio.get_running_loop().time()
        if self._closing is None:
            if self._segments_ready() and now >= self._close_after:
                self._closing = asyncio.create_task(asyncio.to_thread(self._compress))
                self._closing.add_done_callback(lambda _: self.wake())
            return
        if not self._closing.done():
            return
        closing, self._closing = self._closing, None
        try:
            await to_the_end(self._swap(closing.result()))
        except OSError as error:
            self._close_after = now + AGAIN_S
            log.warning("cannot close a segment of the ledger, will try again: %s", error)

    def _compress(self) -> list[Segment]:
        """The files of all whole segments at the beginning of the live file."""
        live, each = self._here, self.segment_entries
        found: list[Segment] = []
        ends, leaves = list(live.ends), list(live.leaves)
        for at in range(0, len(ends) - each + 1, each):
            begin, end = (ends[at - 1] if at else 0), ends[at + each - 1]
            own = leaves[at : at + each]
            number = len(self.closed) + len(found)
            content = live.content(begin, end)
            found.append(segments.compress(self.path.parent, number, content, own, Frontier().grown(own).root))
        return found

    async def _swap(self, found: list[Segment]) -> None:
        """Makes the files closed segments: names them, then takes their entries out of the live file."""

        def write() -> LiveFile:
            segments.save(self.path.parent, [*self.closed, *found])
            return self._here.without_first(len(found) * self.segment_entries)

        old, live = self._here, await asyncio.to_thread(write)
        self._live, self.closed = live, [*self.closed, *found]  # at once: readers look at both
        old.file.close()

    @property
    def _here(self) -> LiveFile:
        assert self._live is not None
        return self._live


async def _in_thread(lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The lines, read a page at a time beside the event loop."""

    def page() -> list[bytes]:
        found, size = [], 0
        for line in itertools.islice(lines, READ_LINES):
            found.append(line)
            size += len(line)
            if size > READ_BYTES:
                break
        return found

    while read := await asyncio.to_thread(page):
        for line in read:
            yield line
