"""Writes files so that a crash leaves either the old file or the new one, never half of one; and removes them.

Left out: what is in them.
"""

import contextlib
import os
from pathlib import Path

from volunteer.errors import DiskError


def make_folder(path: Path) -> Path:
    """The folder, made private to this user when it does not exist.

    Raises:
        DiskError: it cannot be made.
    """
    try:
        make_private(path)
    except OSError as error:
        raise DiskError(path, error.strerror or str(error)) from error
    return path


def make_private(path: Path) -> None:
    """Makes what is missing of the path; `Path.mkdir` would leave folders on the way open to others.

    Raises:
        OSError: it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes a file that must not exist yet; it is complete on disk when this returns, or not there at all.

    Raises:
        FileExistsError: it exists.
        DiskError: it cannot be written.
    """
    temporary = _write_beside(path, data, mode)
    try:
        os.link(temporary, path)  # unlike a rename, never replaces a file that somebody else just made
        _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise DiskError(path, error.strerror or str(error)) from error
    finally:
        _remove(temporary)


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Writes a file, in place of an older one if there is one.

    Raises:
        DiskError: it cannot be written; the older one is untouched.
    """
    temporary = _write_beside(path, data, mode)
    try:
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise DiskError(path, error.strerror or str(error)) from error


def remove(path: Path) -> None:
    """Removes a file, if it is there.

    Raises:
        DiskError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(path, error.strerror or str(error)) from error


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _remove(temporary)
        raise DiskError(path, error.strerror or str(error)) from error
    return temporary


def _remove(temporary: Path) -> None:
    """If that can be: on a disk that has become read-only it cannot, and the first error is the one to tell."""
    with contextlib.suppress(OSError):
        temporary.unlink()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
