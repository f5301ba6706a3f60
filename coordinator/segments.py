"""Closed segments of the ledger: compressed files of a fixed number of entries each, and the manifest that names them.

Segment n holds the entries from n * SEGMENT_ENTRIES on, as `autoresearch-000000n.jsonl.gz`; what follows the last one
is in the live file `autoresearch.jsonl`. The number is a power of two, so that a segment is one complete subtree of the
ledger's Merkle tree and everybody cuts in the same places. Each step leaves either the old state or the new one: a
segment counts from the moment that the manifest names it, and the live file loses its beginning only after that.

Leaves out: when a segment is closed, and the live file (`export.py`).
"""

import gzip
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from autoresearch import limits
from autoresearch.digest import is_sha256, sha256_hex
from coordinator.errors import OperatorError

SEGMENT_ENTRIES: Final = 1 << 14  # 25 to 50 MB of results; a gzip of 6 to 12 MB
MANIFEST: Final = "autoresearch.segments.json"
GZIP_LEVEL: Final = 6
_CHUNK_BYTES: Final = 1 << 20
_MANIFEST_BYTES: Final = 64 << 20  # some 200,000 segments


class SegmentError(OperatorError):
    """A segment or the manifest that is damaged or missing."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One closed segment."""

    number: int
    first: int  # sequence number of its first entry
    entries: int
    content_bytes: int
    sha256: str  # of the content: what `gzip -dc FILE | sha256sum` prints
    file_sha256: str  # of the compressed file
    root: str  # of the subtree of the ledger's Merkle tree, hex
    last_sha256: str  # of the last entry's line, which the next one names

    @property
    def name(self) -> str:
        """The file's name."""
        return segment_name(self.number)


def segment_name(number: int) -> str:
    """The file name of a segment."""
    return f"autoresearch-{number:07}.jsonl.gz"


def load(folder: Path, entries_each: int) -> list[Segment]:
    """The closed segments that the manifest names; none without a manifest.

    Raises:
        SegmentError: the manifest is damaged, or is of segments of another length, or a file is missing.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes() if path.stat().st_size <= _MANIFEST_BYTES else b""
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SegmentError(f"cannot read {path}: {error.strerror}") from error
    try:
        found = [Segment(**record) for record in json.loads(data)["segments"]]
        well = all(_is_segment(segment, number, entries_each) for number, segment in enumerate(found))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SegmentError(f"{path} is damaged: restore it from a copy") from error
    if not well:
        raise SegmentError(f"{path} does not name segments of {entries_each} entries one after the other: restore it")
    for segment in found:
        if not (folder / segment.name).is_file():
            raise SegmentError(f"{folder / segment.name} is missing: restore it from a copy")
    return found


def _is_segment(segment: Segment, number: int, entries_each: int) -> bool:
    digests = (segment.sha256, segment.file_sha256, segment.root, segment.last_sha256)
    place = (segment.number, segment.first, segment.entries)
    return place == (number, number * entries_each, entries_each) and all(map(is_sha256, digests))


def save(folder: Path, segments: Sequence[Segment]) -> None:
    """Makes these the closed segments, all or nothing.

    Raises:
        OSError: it cannot be written; the manifest before stands.
    """
    text = json.dumps({"segments": [asdict(segment) for segment in segments]}, indent=1)
    replace(folder / MANIFEST, [text.encode() + b"\n"])


def compress(folder: Path, number: int, content: Iterator[bytes], leaves: Sequence[bytes], root: bytes) -> Segment:
    """Writes a segment's file, complete and durable or not at all. `content`: its lines, in pieces of any length.

    Raises:
        OSError: it cannot be written.
    """
    digest, last, size = hashlib.sha256(), b"", 0
    path = folder / segment_name(number)
    with _partial(path) as (partial, file):
        with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
            for piece in content:
                digest.update(piece)
                size += len(piece)
                last = (last + piece)[-(limits.LEDGER_LINE_BYTES + 2) :]
                packed.write(piece)
        _settle(partial, file, path)
    return Segment(
        number=number,
        first=number * len(leaves),
        entries=len(leaves),
        content_bytes=size,
        sha256=digest.hexdigest(),
        file_sha256=_file_sha256(path),
        root=root.hex(),
        last_sha256=sha256_hex(last.rstrip(b"\n").rpartition(b"\n")[2]),
    )


def replace(path: Path, pieces: Sequence[bytes] | Iterator[bytes]) -> None:
    """Writes a file in place of an older one, durably, complete or not at all.

    Raises:
        OSError: it cannot be written; the older one stands.
    """
    with _partial(path) as (partial, file):
        for piece in pieces:
            file.write(piece)
        _settle(partial, file, path)


class _partial:  # noqa: N801 - used as a function
    """A file beside `path` that is gone at the end unless it was renamed."""

    _number = itertools.count()

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.{os.getpid()}-{next(self._number)}.part")
        self._file: BinaryIO | None = None

    def __enter__(self) -> tuple[Path, BinaryIO]:
        self._file = self._path.open("wb")
        return self._path, self._file

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()
        self._path.unlink(missing_ok=True)


def _settle(partial: Path, file: BinaryIO, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    partial.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A new or renamed file is durable when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Removes what a death in the middle left behind."""
    for path in folder.glob(".autoresearch*.part"):
        path.unlink(missing_ok=True)


def read_lines(folder: Path, segment: Segment, skip: int = 0) -> Iterator[bytes]:
    """The lines of a closed segment, without their newlines, from its `skip`-th on. Memory: one line.

    Raises:
        SegmentError: the file is damaged or missing, or has not as many entries as it should.
    """
    path, count = folder / segment.name, 0
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(limits.LEDGER_LINE_BYTES + 1):
                count += 1
                if count > segment.entries or not line.endswith(b"\n"):
                    raise SegmentError(f"{path} holds more, or longer, entries than it should: restore it from a copy")
                if count > skip:
                    yield line[:-1]
    except (OSError, EOFError, zlib.error) as error:
        raise SegmentError(f"{path} cannot be read ({error}): restore it from a copy") from error
    if count < segment.entries:
        raise SegmentError(f"{path} holds {count} of its {segment.entries} entries: restore it from a copy")


def check_file(folder: Path, segment: Segment) -> None:
    """That the compressed file is the one that was written.

    Raises:
        SegmentError: it is not, or cannot be read.
    """
    path = folder / segment.name
    try:
        found = _file_sha256(path)
    except OSError as error:
        raise SegmentError(f"cannot read {path}: {error.strerror}") from error
    if found != segment.file_sha256:
        raise SegmentError(f"{path} was changed: its sha256 is {found}, the manifest says {segment.file_sha256}")


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
