"""The ledger's newest entries on disk: `autoresearch.jsonl`, which only grows until its beginning is cut off.

Opening it cuts off a half-written last line; a write is complete and fsynced or leaves nothing. Leaves out: where the
lines come from, and when the beginning goes into a closed segment (`export.py`).
"""

import fcntl
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from autoresearch.judging import ledger
from autoresearch.merkle import leaf_hash
from coordinator import segments
from coordinator.errors import OperatorError

READ_LINES, READ_BYTES = 500, 1 << 20  # a reader is given so much at once
_MENDED_LINES = 1000  # lines counted at once when the file is opened
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class LiveFile:
    """The open file and what it holds: whole lines, by where they end and by their leaf hashes."""

    path: Path
    file: BinaryIO
    ends: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    last: bytes = b""  # the last line

    @classmethod
    def open(cls, path: Path) -> Self:
        """The file at the path, made if missing, with its unfinished last line cut off.

        Raises:
            OSError: it cannot be used.
        """
        live = cls(path, path.open("ab+", buffering=0))
        try:
            segments.sync_folder(path.parent)  # a new file is durable when its folder is
            live._mend()
        except BaseException:
            live.file.close()
            raise
        return live

    @property
    def size_bytes(self) -> int:
        """Of the whole lines."""
        return self.ends[-1] if self.ends else 0

    def first_seq(self) -> int:
        """The sequence number of the first entry; only where there is one.

        Raises:
            OperatorError: the first line is no entry.
        """
        line = os.pread(self.file.fileno(), self.ends[0] - 1, 0)
        try:
            return ledger.parse(line).seq
        except ValueError as error:
            raise OperatorError(f"the first line of the ledger is damaged ({error}): restore it from a copy") from error

    def write(self, lines: Sequence[bytes]) -> None:
        """Appends lines, which are counted with `add` afterwards; they are on the disk when this returns.

        Raises:
            OSError: they cannot be written, and nothing of them was.
        """
        try:
            view = memoryview(b"".join(line + b"\n" for line in lines))
            while view:
                view = view[self.file.write(view) or 0 :]
            os.fsync(self.file.fileno())
        except OSError:
            self.file.truncate(self.size_bytes)  # a full disk leaves no half line behind
            raise

    def add(self, lines: Sequence[bytes]) -> list[bytes]:
        """Counts lines that are in the file now; returns their leaf hashes."""
        leaves = [leaf_hash(line) for line in lines]
        self.leaves += leaves
        for line in lines:
            self.ends.append(self.size_bytes + len(line) + 1)
        self.last = lines[-1]
        return leaves

    def content(self, begin: int, end: int) -> Iterator[bytes]:
        """A part of the file, in pieces."""
        return _content(self.file.fileno(), begin, end)

    def page(self, at: int) -> tuple[int, int, int]:
        """Where the lines from the `at`-th on are, for `read`: a descriptor of the reader's own, begin and end."""
        begin = self.ends[at - 1] if at else 0
        most = at + 1
        while most < min(len(self.ends), at + READ_LINES) and self.ends[most] - begin <= READ_BYTES:
            most += 1
        return os.dup(self.file.fileno()), begin, self.ends[most - 1]

    def without_first(self, count: int) -> "LiveFile":
        """A file without the first lines, put in the place of this one, which stays open."""
        at = self.ends[count - 1]
        segments.replace(self.path, self.content(at, self.size_bytes))
        file = self.path.open("ab+", buffering=0)
        return LiveFile(self.path, file, [end - at for end in self.ends[count:]], self.leaves[count:], self.last)

    def _mend(self) -> None:
        """Reads what is there, and cuts off an unfinished last line."""
        with open(self.file.fileno(), "rb", closefd=False) as reader:
            reader.seek(0)
            whole = (line[:-1] for line in reader if line.endswith(b"\n"))
            while page := list(itertools.islice(whole, _MENDED_LINES)):
                self.add(page)
        self.file.truncate(self.size_bytes)


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


def read(descriptor: int, begin: int, end: int) -> list[bytes]:
    """The lines of a `LiveFile.page`; closes the descriptor."""
    try:
        return b"".join(_content(descriptor, begin, end)).split(b"\n")[:-1]
    finally:
        os.close(descriptor)


def _content(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    while begin < end:
        piece = os.pread(descriptor, min(_CHUNK_BYTES, end - begin), begin)
        if not piece:
            raise OSError(0, "the file is shorter than it was")
        begin += len(piece)
        yield piece
