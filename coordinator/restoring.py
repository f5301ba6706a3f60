"""Makes a swarm's data folder of a backup: the whole of it, or as it was at an earlier entry.

Everything is made beside the folder and renamed when it is complete, store and lineage rebuilt and the ledger checked.
A store at an address is marked until then (`filling.py`).

A ledger that is cut off is another history than the one that was signed for: volunteers who saw the longer one find
that out, as they should. So it does not pass for the old one: its first new entry says where it was cut, why, and what
the coordinator had signed for before. Left out: rebuilding (`upkeep.py`), and whether volunteers accept that.
"""

import functools
import itertools
import math
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autoresearch import envelope, limits, text
from autoresearch.checkpoint import TreeHead
from autoresearch.digest import key_id, sha256_hex
from autoresearch.judging import ledger
from autoresearch.merkle import Frontier, leaf_hash
from coordinator import backups, keys, segments, upgrading, upkeep
from coordinator.archive import Archive
from coordinator.backups import Backup
from coordinator.checkpoints import CHECKPOINTS, line_of
from coordinator.errors import OperatorError
from coordinator.rebuilding.rebuilder import Rebuilt
from coordinator.segments import SEGMENT_ENTRIES
from coordinator.settings import LEDGER, SIGNING_KEY


@dataclass(frozen=True, slots=True)
class Wish:
    """What a restore is asked for.

    `token`: no other filling's of a store. `until`: the last entry that stays, or an instant; empty for everything.
    `why`: what is said about entries that are given up, or that came after the backup and are lost.
    """

    now_ms: int
    token: str
    until: str = ""
    why: str = ""
    store_url: str = ""
    keys: Path | None = None  # a folder with the swarm's keys, where the backup has none


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made. `forsaken`: entries of the backup that are not in it."""

    rebuilt: Rebuilt
    forsaken: int
    keyed: bool  # it has the key that signs for the swarm


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a ledger is cut off: how many entries stay, and what is known of them."""

    kept: int
    root: str
    head: ledger.Head


def restore(backup: Path, data_dir: Path, wish: Wish, tell: Callable[[str], None]) -> Restored:
    """Makes the data folder, which must not exist or be empty.

    Raises:
        OperatorError, StoreError: the backup is damaged, the folder holds something, the instant is none, the ledger
            does not hold, a disk is full. Nothing was made.
    """
    data_dir = data_dir.absolute()
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise OperatorError(f"{data_dir} is not empty: name a new folder; nothing that exists is overwritten")
    if (wish.until or wish.why) and not text.is_line(wish.why, limits.REASON_CHARACTERS):
        raise OperatorError("a history that is cut off needs a reason in one line, which everybody reads: --why")
    known = backups.check(backup)
    tell(f"the backup holds {known.entries} entries of swarm {known.swarm_id}")
    building = data_dir.with_name(f".{data_dir.name}.restoring")
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        with backups.alone(building):
            try:
                forsaken, keyed = _fill(backup, known, building, wish, tell)
                placed = functools.partial(_place, building, data_dir)
                rebuilt = upkeep.rebuild(building, wish.store_url, tell, wish.token, placed)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
    except OSError as error:
        raise OperatorError(f"cannot write {data_dir}: {error.strerror or error}") from error
    return Restored(rebuilt, forsaken, keyed)


def _fill(backup: Path, known: Backup, building: Path, wish: Wish, tell: Callable[[str], None]) -> tuple[int, bool]:
    """Makes what a rebuild needs; returns how many entries are given up, and whether there is a signing key."""
    _empty(building)
    kept = _kept(backup, known, wish.until) if wish.until else known.entries
    cut = _copy(backup, building, kept)
    forsaken = known.entries - kept
    if forsaken:
        tell(f"{kept} entries stay, {forsaken} are given up")
    if forsaken or wish.why:
        _say_so(backup, building, cut, known, wish)
    keyed = _copy_keys(backup, known, building, wish.keys)
    upgrading.upgrade_folder(building)
    return forsaken, keyed


def _place(building: Path, data_dir: Path) -> None:
    (building / LEDGER).with_suffix(".lock").unlink(missing_ok=True)
    building.rename(data_dir)
    segments.sync_folder(data_dir.parent)


def _empty(folder: Path) -> None:
    """What a death in an earlier try left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _kept(backup: Path, known: Backup, until: str) -> int:
    """How many entries stay. Those of one instant belong together, such as a verdict and the promotion that follows
    from it: either all of them stay, or none."""
    wanted, instant_ms = _wanted(until)
    if known.entries < wanted < math.inf:
        raise OperatorError(f"the backup ends with entry {known.entries - 1}: it has no entry {until}")
    kept, last_at_ms = 0, -1
    for line in Archive(backup).lines():
        entry = ledger.parse(line)
        if entry.at_ms != last_at_ms:
            kept, last_at_ms = entry.seq, entry.at_ms
        if entry.seq >= wanted or entry.at_ms > instant_ms:
            break
    else:
        kept = known.entries
    if not kept:
        raise OperatorError("nothing would be left: the swarm was made later than that")
    return kept


def _wanted(until: str) -> tuple[float, float]:
    """A number of entries, and an instant in Unix milliseconds; infinite where it is the other that is asked for."""
    if until.isascii() and until.isdigit():
        return int(until) + 1, math.inf
    try:
        at = datetime.fromisoformat(until)
    except ValueError as error:
        raise OperatorError(
            f"--until {until!r} is neither an entry's number nor an instant (2026-11-28T20:00)"
        ) from error
    return math.inf, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000


def _copy(backup: Path, building: Path, kept: int) -> Cut:
    """The first so many entries, and the checkpoints of them."""
    archive = Archive(backup)
    whole = [own for own in segments.load(backup, SEGMENT_ENTRIES) if own.first + own.entries <= kept]
    for segment in whole:
        backups.copy_segment(backup, building, segment)
    segments.save(building, whole)
    begin, tree, last = len(whole) * SEGMENT_ENTRIES, Frontier(), b""

    def rest() -> Iterator[bytes]:
        nonlocal tree, last
        for number, line in enumerate(itertools.islice(archive.lines(), kept)):
            tree, last = tree.grown([leaf_hash(line)]), line
            if number >= begin:
                yield line + b"\n"

    segments.replace(building / LEDGER, rest())
    heads = sorted((own for own in archive.heads() if own.size <= kept), key=lambda own: own.size)
    segments.replace(building / CHECKPOINTS, map(line_of, heads))
    return Cut(kept, tree.root.hex(), ledger.Head(kept, sha256_hex(last)))


def _say_so(backup: Path, building: Path, cut: Cut, known: Backup, wish: Wish) -> None:
    """Writes the entry that says where the ledger was cut off, or that what came after the backup is lost."""
    signed = [own for own in Archive(backup).heads() if own.size > cut.kept]
    body = {
        "kept": cut.kept,
        "root": cut.root,
        "reason": wish.why,
        "forsaken": known.entries if known.entries > cut.kept else 0,
        "forsaken_sha256": known.last_sha256 if known.entries > cut.kept else "",
        "forsaken_checkpoint": b64encode(max(signed, key=_size).signed).decode() if signed else "",
    }
    line, _ = ledger.append(cut.head, "restoration", body, wish.now_ms)
    path = building / LEDGER
    segments.replace(path, [path.read_bytes(), line + b"\n"])


def _size(head: TreeHead) -> int:
    return head.size


def _copy_keys(backup: Path, known: Backup, building: Path, folder: Path | None) -> bool:
    """The swarm's keys, from the folder or the backup; whether the one that signs for the swarm is among them."""
    if folder is not None and not (folder / SIGNING_KEY).is_file():
        raise OperatorError(f"there is no {SIGNING_KEY} in {folder}: name the folder that holds the swarm's keys")
    source, names = (backup, known.keys) if folder is None else (folder, backups.KEYS)
    for name in names:
        if (source / name).exists():
            backups.copy_key(source / name, building / name)
    if not (building / SIGNING_KEY).exists():
        return False
    own = key_id(envelope.public_bytes(keys.load_or_make_signing_key(building / SIGNING_KEY)))
    if own != known.coordinator_id:
        raise OperatorError(f"{source / SIGNING_KEY} is the key {own}, but this swarm's is {known.coordinator_id}")
    return True
