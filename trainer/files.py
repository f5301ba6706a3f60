"""Files that are there whole or not at all, and their digests."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20
PARTIAL = ".partial-"  # begins the name of what is not finished


def file_sha256(path: Path, on_read: Callable[[int], None] = lambda _count: None) -> str:
    """In hex; `on_read` is told how many bytes were read, again and again."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_read(len(chunk))
    return digest.hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` in one step, and only when it differs."""
    with contextlib.suppress(OSError):
        if file_sha256(path) == hashlib.sha256(content).hexdigest():
            return
    with writing(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes `path` in one step when the block ends well; nothing stays of it otherwise.

    One writer at a time: whoever holds the folder's lock.
    """
    partial = path.with_name(PARTIAL + path.name)
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make a new name in it survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
