"""Copies what a swarm cannot do without into a folder, while a coordinator serves if need be; checks such copies.

A backup holds the ledger, its checkpoints and, if asked for, the keys; store and lineage follow from the ledger. It is
made beside its place under another name, gone through entry by entry, and renamed when it holds: a folder with a
backup's name is a whole one. A death leaves what was copied so far; the same command goes on with it.

Left out: making a swarm of a backup (`restoring.py`).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator import segments, upgrading
from coordinator.archive import Archive
from coordinator.checkpoints import CHECKPOINTS
from coordinator.errors import OperatorError
from coordinator.segments import MANIFEST, SEGMENT_ENTRIES, Segment
from coordinator.settings import LEDGER, OPERATOR_KEY, SIGNING_KEY

RECORD = "backup.json"  # written last: what is in a backup, with digests
FORMAT = 1
KEYS = (SIGNING_KEY, OPERATOR_KEY)  # a certificate is made anew
_RECORD_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup's record says."""

    format: int
    swarm_id: str
    coordinator_id: str
    made_at_ms: int
    entries: int
    last_sha256: str
    root: str  # of the Merkle tree, hex
    keys: list[str]  # names of the key files that are in it
    files: dict[str, str]  # name -> sha256


def write(data_dir: Path, out: Path, *, with_keys: bool, now_ms: int) -> Backup:
    """Makes a backup in the new folder `out`, and goes through it.

    Raises:
        OperatorError: there is no ledger or it does not hold, `out` is there or cannot be written.
    """
    upgrading.check_folder(data_dir)
    if not (data_dir / LEDGER).is_file():
        raise OperatorError(f"there is no ledger in {data_dir}: name the coordinator's --data folder")
    if out.exists():
        raise OperatorError(f"{out} is there already: name a new folder")
    partial = out.with_name(f".{out.name}.part")
    try:
        with alone(partial):
            try:
                made = _fill(data_dir, partial, with_keys=with_keys, now_ms=now_ms)
                partial.rename(out)
            except (OperatorError, OSError):
                shutil.rmtree(partial, ignore_errors=True)  # unlike after a death, nothing here is worth keeping
                raise
        segments.sync_folder(out.parent)
    except OSError as error:
        raise OperatorError(f"cannot write {out}: {error.strerror or error}") from error
    return made


def _fill(data_dir: Path, partial: Path, *, with_keys: bool, now_ms: int) -> Backup:
    heads = _whole_lines(data_dir / CHECKPOINTS)  # first: they state no more entries than are copied after them
    with (data_dir / LEDGER).open("rb") as live:  # before the manifest: if a segment is closed meanwhile, nothing lacks
        closed = segments.load(data_dir, SEGMENT_ENTRIES)
        for segment in closed:
            copy_segment(data_dir, partial, segment)
        content = live.read()
    segments.replace(partial / LEDGER, [content[: content.rfind(b"\n") + 1]])
    segments.save(partial, closed)
    segments.replace(partial / CHECKPOINTS, [heads])
    keys = [name for name in KEYS if with_keys and (data_dir / name).exists()]
    for name in keys:
        copy_key(data_dir / name, partial / name)
    upgrading.upgrade_folder(partial)
    names = [LEDGER, MANIFEST, CHECKPOINTS, upgrading.FOLDER_FILE, *(segment.name for segment in closed), *keys]
    _remove_others(partial, names)
    found = Archive(partial).verified()
    made = Backup(
        format=FORMAT,
        swarm_id=found.swarm_id,
        coordinator_id=found.coordinator_id,
        made_at_ms=now_ms,
        entries=found.entries,
        last_sha256=found.last_sha256,
        root=found.root.hex(),
        keys=keys,
        files={name: _digest(partial / name) for name in names},
    )
    segments.replace(partial / RECORD, [json.dumps(asdict(made), indent=1).encode() + b"\n"])
    return made


def check(folder: Path) -> Backup:
    """What a backup holds, after every file was compared with its digest.

    Raises:
        OperatorError: it is no backup, of a newer version, damaged, or lacks something.
    """
    path = folder / RECORD
    try:
        if path.stat().st_size > _RECORD_BYTES:
            raise OperatorError(f"{path} is damaged: use another backup")
        found = json.loads(path.read_bytes())
        if found["format"] > FORMAT:
            raise OperatorError(f"{folder} was made by a newer version: upgrade this coordinator")
        backup = Backup(**found)
        wrong = next((name for name, digest in backup.files.items() if _digest(folder / name) != digest), None)
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = Path(error.filename or path)
        said = "is no backup, or not a whole one" if missing == path else f"is not whole: {missing.name} is missing"
        raise OperatorError(f"{folder} {said}: use another") from error
    except OSError as error:
        raise OperatorError(f"cannot read {folder}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OperatorError(f"{path} is damaged: use another backup") from error
    if wrong is not None:
        raise OperatorError(f"{folder / wrong} is damaged: use another backup")
    return backup


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A folder for the owner alone in which nobody else works at the same time, made if missing.

    Raises:
        OperatorError: somebody else does.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OperatorError(f"another command works in {folder}: wait for it, or end it") from error
        yield
    finally:
        os.close(descriptor)


def copy_key(source: Path, target: Path) -> None:
    """A private key, readable by its owner alone."""
    target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(source.read_bytes())
        file.flush()
        os.fsync(descriptor)


def copy_segment(source: Path, target: Path, segment: Segment) -> None:
    """A closed segment's file, unless it is there already."""
    place = target / segment.name
    if not place.exists() or _digest(place) != segment.file_sha256:
        segments.replace(place, _pieces(source / segment.name))
        segments.check_file(target, segment)


def _whole_lines(path: Path) -> bytes:
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def _remove_others(folder: Path, names: Collection[str]) -> None:
    """What an earlier try left, and this one does not want."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            yield piece
