"""A shard of training tokens: one flat array, and where its documents begin; in memory, or in a pair of files.

Training reads a stored shard piece by piece (`copy`), so that a process holds the pieces and nothing else: pages of a
mapped file count as its memory once they are touched, and Linux maps 2 MB at a time where its cache holds large folios,
which made a shard of 120 MB resident within a second. Reading costs as much as a page fault, and a file that shrinks is
an error instead of the end of the process. `tokens` maps the file for everybody else.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from trainer.errors import DataDamagedError, DataMissingError

MOST_OPEN: Final = 8  # files: pieces wait from the last few shards only, and a process may open about a thousand


class Shard(Protocol):
    """Document i is `tokens[offsets[i] : offsets[i + 1]]`, without BOS."""

    @property
    def tokens(self) -> np.ndarray:
        """(n,) uint16."""

    @property
    def offsets(self) -> np.ndarray:
        """(documents + 1,) uint64."""

    def copy(self, first: int, out: np.ndarray) -> None:
        """Fill `out`, (m,) uint16, with the tokens from `first` on."""


@dataclass(frozen=True)
class MemoryShard:
    """A shard in memory."""

    tokens: np.ndarray
    offsets: np.ndarray

    def copy(self, first: int, out: np.ndarray) -> None:
        out[:] = self.tokens[first : first + len(out)]


class OpenFiles:
    """The files that were read last, kept open."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)

    def read(self, path: Path, at: int, out: np.ndarray) -> int:
        """Fill `out` with what stands at byte `at`; the number of bytes that there were."""
        handle = self._open[path] if path in self._open else self._add(path)
        self._open.move_to_end(path)
        return os.preadv(handle, [out.data], at)

    def _add(self, path: Path) -> int:
        if len(self._open) >= MOST_OPEN:
            os.close(self._open.popitem(last=False)[1])
        handle = self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return handle


@dataclass(frozen=True)
class StoredShard:
    """A shard in two files of little-endian numbers. Opens nothing before it is read."""

    tokens_path: Path
    offsets_path: Path
    files: OpenFiles

    @property
    def tokens(self) -> np.ndarray:
        return np.memmap(self.tokens_path, dtype="<u2", mode="r")

    @property
    def offsets(self) -> np.ndarray:
        return np.fromfile(self.offsets_path, dtype="<u8")

    def copy(self, first: int, out: np.ndarray) -> None:
        """Raises DataMissingError or DataDamagedError: the file is not what it was when it was verified."""
        try:
            count = self.files.read(self.tokens_path, 2 * first, out)
        except FileNotFoundError:
            raise DataMissingError(self.tokens_path.parent, self.tokens_path.name) from None
        except OSError as error:
            raise DataDamagedError(self.tokens_path, f"cannot be read ({error.strerror})") from error
        if count != out.nbytes:
            raise DataDamagedError(self.tokens_path, "has become shorter")
