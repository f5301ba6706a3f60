"""Copies the ledger from the store to `autoresearch.jsonl`, fsynced, in groups, and closes segments of it.

One task writes everything that is new and syncs once; whoever waits for an entry is then released together. After a
crash the file ends anywhere: a half-written last line is cut off and the copying goes on from there. A file that
knows more than the store means that the store lost acknowledged entries: that is refused, never papered over. So is a
file that another coordinator writes, by a lock that no death leaves behind.

When the live file holds a segment (`segments.py`), its beginning is compressed beside the writing, and then taken out
of the live file between two writes. Everything that reads the ledger reads what is durable here, across segments.
"""

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from autoresearch.digest import sha256_hex
from autoresearch.judging import ledger
from autoresearch.merkle import Frontier, leaf_hash
from coordinator import segments
from coordinator.errors import OperatorError
from coordinator.segments import Segment
from coordinator.store import Store, StoreError

log = logging.getLogger(__name__)
GROUP_LINES = 1000  # lines read from the store at once
LOOK_EVERY_S = 0.5  # entries written by other coordinators are found this late at most
READ_LINES, READ_BYTES = 500, 1 << 20  # a reader is given so much at once
AGAIN_S = 60.0  # a segment that could not be closed is tried again after this
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class Live:
    """What the live file holds: whole lines, by where they end and by their leaf hashes."""

    file: BinaryIO
    ends: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    last: bytes = b""  # the last line

    @property
    def size_bytes(self) -> int:
        """Of the whole lines."""
        return self.ends[-1] if self.ends else 0

    def add(self, lines: Sequence[bytes]) -> list[bytes]:
        """Counts lines that are in the file now; returns their leaf hashes."""
        leaves = [leaf_hash(line) for line in lines]
        self.leaves += leaves
        for line in lines:
            self.ends.append(self.size_bytes + len(line) + 1)
        self.last = lines[-1]
        return leaves


class LedgerExport:
    """The files and the task that grows them. `start`, then run `run` as a task until cancelled, then `close`."""

    def __init__(self, path: Path, store: Store, *, segment_entries: int = segments.SEGMENT_ENTRIES) -> None:
        self.path = path
        self.segment_entries = segment_entries
        self.closed: list[Segment] = []
        self.tree = Frontier()  # over everything durable
        self._store = store
        self._live: Live | None = None
        self._lock: BinaryIO | None = None
        self._wake = asyncio.Event()
        self._grown = asyncio.Condition()
        self._failure: OperatorError | None = None
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
        try:
            self._lock = await asyncio.to_thread(lock, self.path)
            self._live = await asyncio.to_thread(_open, self.path)
            segments.remove_partials(self.path.parent)
            self.closed = await asyncio.to_thread(segments.load, self.path.parent, self.segment_entries)
            await asyncio.to_thread(self._join)
        except OSError as error:
            raise OperatorError(
                f"cannot write the ledger {self.path}: {error.strerror}; mend that and start again"
            ) from error
        await self._agree()
        await self._copy()
        if self._segments_ready():
            await self._swap(await asyncio.to_thread(self._compress))

    def _join(self) -> None:
        """Makes live file and closed segments one ledger; finishes what a death between them left."""
        live, base = self._here, len(self.closed) * self.segment_entries
        first = _first_seq(live) if live.ends else base
        if live.ends and first < base and first % self.segment_entries == 0:
            self._check_taken(first)
            self._live = self._cut(min(base - first, len(live.ends)))
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

    async def _agree(self) -> None:
        if not self.length:
            return
        known = sha256_hex(self._here.last) if self._here.ends else self.closed[-1].last_sha256
        stored = await self._store.items("ledger", self.length - 1, self.length - 1)
        if not stored or sha256_hex(stored[0]) != known:
            raise OperatorError(
                f"the store does not hold entry {self.length - 1} of {self.path} as written there: it lost data "
                "or belongs to another swarm. Point the coordinator at the right store, or empty it and make it again "
                "with `autoresearch-coordinator rebuild`"
            )

    async def run(self) -> None:
        """Copies until cancelled. A full disk is reported to whoever waits, and tried again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):  # not wait_for: Python 3.11's may swallow a cancellation
                    await self._wake.wait()
            self._wake.clear()
            with contextlib.suppress(StoreError):  # away for longer than calls wait: whoever waits here waits on
                await self._copy()
            await self._rotate()

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
            if self.length <= seq and self._failure is not None:
                raise self._failure

    async def lines(self, start: int) -> AsyncIterator[bytes]:
        """The durable lines from `start` on, those that were there when it began at least.

        Raises:
            OperatorError: a closed segment is damaged.
        """
        while start < self.length:
            if start >= len(self.closed) * self.segment_entries:
                page = await asyncio.to_thread(_read, *self._place(start))
                for line in page:
                    yield line
                start += len(page)
            else:
                number, skip = divmod(start, self.segment_entries)
                async for line in _in_thread(segments.read_lines(self.path.parent, self.closed[number], skip)):
                    yield line
                start = (number + 1) * self.segment_entries

    def _place(self, start: int) -> tuple[int, int, int]:
        """Where the next lines are in the live file: a descriptor of the reader's own, begin and end."""
        live, at = self._here, start - len(self.closed) * self.segment_entries
        begin = live.ends[at - 1] if at else 0
        most = at + 1
        while most < min(len(live.ends), at + READ_LINES) and live.ends[most] - begin <= READ_BYTES:
            most += 1
        return os.dup(live.file.fileno()), begin, live.ends[most - 1]

    def close(self) -> None:
        """Closes the file."""
        for file in (self._live.file if self._live else None, self._lock):
            if file is not None:
                file.close()
        self._live = self._lock = None

    async def _copy(self) -> None:
        while lines := await self._store.items("ledger", self.length, self.length + GROUP_LINES - 1):
            try:
                await asyncio.to_thread(self._write, b"".join(line + b"\n" for line in lines))
            except OSError as error:
                self._failure = OperatorError(f"cannot write the ledger {self.path}: {error.strerror}")
                await self._tell()
                return
            self._failure = None
            self.tree = self.tree.grown(self._here.add(lines))
            await self._tell()

    def _write(self, data: bytes) -> None:
        live = self._here
        try:
            view = memoryview(data)
            while view:
                view = view[live.file.write(view) or 0 :]
            os.fsync(live.file.fileno())
        except OSError:
            live.file.truncate(live.size_bytes)  # a full disk leaves no half line behind
            raise

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
            await self._swap(closing.result())
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
            content = _content(live.file.fileno(), begin, end)
            found.append(segments.compress(self.path.parent, number, content, own, Frontier().grown(own).root))
        return found

    async def _swap(self, found: list[Segment]) -> None:
        """Makes the files closed segments: names them, then takes their entries out of the live file."""

        def write() -> Live:
            segments.save(self.path.parent, [*self.closed, *found])
            return self._cut(len(found) * self.segment_entries)

        old, live = self._here, await asyncio.to_thread(write)
        self._live, self.closed = live, [*self.closed, *found]  # at once: readers look at both
        old.file.close()

    def _cut(self, count: int) -> Live:
        """A live file without the first lines, in the place of the one that has them."""
        old = self._here
        at = old.ends[count - 1]
        segments.replace(self.path, _content(old.file.fileno(), at, old.size_bytes))
        file = self.path.open("ab+", buffering=0)
        return Live(file, [end - at for end in old.ends[count:]], old.leaves[count:], old.last)

    @property
    def _here(self) -> Live:
        assert self._live is not None
        return self._live


def lock(path: Path) -> BinaryIO:
    """The right to write the ledger at the path. A file of its own: the ledger's is replaced by others."""
    file = path.with_suffix(".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError):
            raise OperatorError(
                f"another coordinator writes {path}: stop it, or give this one another folder with --data"
            ) from error
        raise
    return file


def _open(path: Path) -> Live:
    """The live file, with its unfinished last line cut off."""
    live = Live(path.open("ab+", buffering=0))
    try:
        segments.sync_folder(path.parent)  # a new file is durable when its folder is
        _mend(live)
    except BaseException:
        live.file.close()
        raise
    return live


def _mend(live: Live) -> None:
    """Reads what is there, and cuts off an unfinished last line."""
    with open(live.file.fileno(), "rb", closefd=False) as reader:
        reader.seek(0)
        whole = (line[:-1] for line in reader if line.endswith(b"\n"))
        while page := list(itertools.islice(whole, GROUP_LINES)):
            live.add(page)
    live.file.truncate(live.size_bytes)


def _first_seq(live: Live) -> int:
    line = os.pread(live.file.fileno(), live.ends[0] - 1, 0)
    try:
        return ledger.parse(line).seq
    except ValueError as error:
        raise OperatorError(f"the first line of the ledger is damaged ({error}): restore it from a copy") from error


def _content(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    """A part of a file, in pieces."""
    while begin < end:
        piece = os.pread(descriptor, min(_CHUNK_BYTES, end - begin), begin)
        if not piece:
            raise OSError(0, "the file is shorter than it was")
        begin += len(piece)
        yield piece


def _read(descriptor: int, begin: int, end: int) -> list[bytes]:
    try:
        return b"".join(_content(descriptor, begin, end)).split(b"\n")[:-1]
    finally:
        os.close(descriptor)


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
