"""The home folder's layout, and the lock that lets one volunteer at a time work from it.

Left out: what the files hold (`identity.py`, `pin.py`, `spool.py`).
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from autoresearch.digest import sha256_hex
from volunteer.durable import make_folder
from volunteer.errors import DiskError, HomeError


def data_dir(home: Path) -> Path:
    """Prepared data, when no other folder is chosen."""
    return home / "data"


def scratch(home: Path) -> Path:
    """Where a trial makes its own folder."""
    return home / "scratch"


def spool_folder(home: Path, swarm_id: str) -> Path:
    """Undelivered results for one swarm."""
    return home / "spool" / sha256_hex(swarm_id.encode())[:16]


@contextlib.contextmanager
def only_volunteer(home: Path) -> Iterator[None]:
    """Holds the home while one volunteer works from it.

    Raises:
        HomeError: another one does.
        DiskError: the folder cannot be written.
    """
    path = make_folder(home) / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskError(path, error.strerror or str(error)) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = f"another volunteer works from {home} already: give this one its own with --home"
            raise HomeError(told) from None
        yield
    finally:
        os.close(handle)
