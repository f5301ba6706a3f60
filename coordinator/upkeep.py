"""What an operator does to a swarm that is not running: go through its ledger, make store and lineage again from it.

Left out: the checks (`auditing.py`), what an entry makes (`rebuilding`), and tables for analysis (`tables.py`).
"""

import asyncio
import contextlib
import functools
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from autoresearch.judging.auditing import Audited, Auditor
from autoresearch.judging.ledger import LedgerError
from coordinator import redis_store, upgrading
from coordinator.archive import Archive
from coordinator.embedded import EmbeddedStore
from coordinator.errors import OperatorError
from coordinator.filling import Filling
from coordinator.live_file import lock
from coordinator.rebuilding.rebuilder import Rebuilder, Rebuilt
from coordinator.settings import LEDGER, LINEAGE, STORE_NAME

BUILDING = ".rebuilding"  # everything is made here first, so that a folder is never half rebuilt
TELL_EVERY = 100_000  # entries


def verify(data_dir: Path) -> Audited:
    """Goes through the ledger in a data folder; a coordinator may be running on it.

    Raises:
        OperatorError: names the first thing that is wrong.
    """
    upgrading.check_folder(data_dir)
    return Archive(data_dir).verified()


def rebuild(
    data_dir: Path,
    store_url: str,
    tell: Callable[[str], None],
    token: str,
    placed: Callable[[], None] = lambda: None,
) -> Rebuilt:
    """Makes the lineage, and the embedded store or the one at the address, from the ledger in the folder.

    `token`: no other filling's. `placed`: called when the folder has everything, before a store at an address counts.

    Raises:
        OperatorError, StoreError: there is something already, the ledger does not hold, or a disk is full.
    """
    data_dir = data_dir.absolute()
    upgrading.check_folder(data_dir)
    if not (data_dir / LEDGER).is_file():
        raise OperatorError(f"there is no ledger in {data_dir}: put its files there, all of one copy")
    for place in (data_dir / LINEAGE, *([] if store_url else [data_dir / "store"])):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise OperatorError(f"{place} is not empty: move it away; nothing that exists is overwritten")
    held = lock(data_dir / LEDGER)
    building = data_dir / BUILDING
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(mode=0o700)
        move = functools.partial(_put_in_place, data_dir, placed)
        opened = _filling(building, store_url, tell, token)
        rebuilt = asyncio.run(_build(data_dir, opened, tell, move if store_url else lambda: None))
        if not store_url:  # the embedded store's files move with the lineage, when its server has stopped
            move()
    except OSError as error:
        raise OperatorError(f"cannot write {data_dir}: {error.strerror}; mend that and try again") from error
    finally:
        held.close()
        shutil.rmtree(building, ignore_errors=True)
    return rebuilt


def export(data_dir: Path, out: Path) -> dict[str, int]:
    """Writes the ledger as Parquet tables into a new folder; returns how many rows each has.

    Raises:
        OperatorError: pyarrow is missing, the folder is there, the ledger does not hold, or a disk is full.
    """
    try:
        from coordinator import tables  # noqa: PLC0415 - needs a package that only this command needs
    except ImportError as error:
        raise OperatorError("tables need pyarrow: pip install 'autoresearch-swarm[analysis]'") from error
    if out.exists():
        raise OperatorError(f"{out} is there already: name a new folder")
    upgrading.check_folder(data_dir)
    archive = Archive(data_dir)
    try:
        return tables.write(archive.lines(), out, Auditor(archive.heads()))
    except LedgerError as error:
        raise OperatorError(f"{data_dir}: {error}") from error
    except OSError as error:
        raise OperatorError(f"cannot write {out}: {error.strerror or error}; choose another folder") from error


async def _build(
    data_dir: Path,
    opened: contextlib.AbstractAsyncContextManager[Filling],
    tell: Callable[[str], None],
    place: Callable[[], None],
) -> Rebuilt:
    async with opened as filling:
        if await filling.begin():
            tell("the store was filled in part before: starting over")
        rebuilt = await _fill(Archive(data_dir), Rebuilder(filling, data_dir / BUILDING / LINEAGE), tell)
        place()
        await filling.end()
    return rebuilt


@contextlib.asynccontextmanager
async def _filling(building: Path, store_url: str, tell: Callable[[str], None], token: str) -> AsyncIterator[Filling]:
    async with contextlib.AsyncExitStack() as stack:
        if not store_url:
            store_url = await stack.enter_async_context(EmbeddedStore(building, tell))
        store = redis_store.RedisStore(redis_store.connect(store_url), STORE_NAME)
        stack.push_async_callback(store.close)
        yield Filling(store, token, redis_store.shown(store_url))


async def _fill(archive: Archive, rebuilder: Rebuilder, tell: Callable[[str], None]) -> Rebuilt:
    auditor = Auditor(archive.heads())
    try:
        for line in archive.lines():
            entry = auditor.take(line)
            await rebuilder.take(line, entry)
            if (entry.seq + 1) % TELL_EVERY == 0:
                tell(f"{entry.seq + 1} entries")
        auditor.finish()
    except LedgerError as error:
        raise OperatorError(f"{archive.folder}: {error}") from error
    return await rebuilder.finish()


def _put_in_place(data_dir: Path, placed: Callable[[], None]) -> None:
    building = data_dir / BUILDING
    for name in (LINEAGE, "store"):  # the store last: a folder without one can be rebuilt again
        if (building / name).exists():
            shutil.rmtree(data_dir / name, ignore_errors=True)  # an empty one
            (building / name).rename(data_dir / name)
    placed()
